package crawler

import (
	"fmt"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

// A list in the standard format is proven by what its pagetag announces.
func TestProofOfTheStandardFormat(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]events.Proof{
		`"total":25,"total_page":3`: {Kind: events.ProofTotal, Announced: 25, Rows: 25, Pages: 3},
		`"total":25`:                {Kind: events.ProofTotal, Announced: 25, Rows: 25, Pages: 3},
		`"total_page":3`:            {Kind: events.ProofPages, Announced: 3, Rows: 25, Pages: 3},
		``:                          {Kind: events.ProofEnd, Rows: 25, Pages: 3},
	} {
		t.Run(tag, func(t *testing.T) {
			s := eventstest.Journal(t)
			src := sourcetest.New(t, 25)
			src.Fault = func(page, _ int) sourcetest.Fault {
				all := []string{src.Header}
				for n := (page - 1) * 10; n < min(page*10, 25); n++ {
					all = append(all, src.Row(n))
				}
				return sourcetest.Body(fmt.Sprintf(`{"errcode":0,"data":{"data":[%s],"pagetag":{%s}}}`, strings.Join(all, ","), tag))
			}
			start(t, s, src.Client, Config{})
			crawled := ended(t, s, request(t, s, events.Export{}, src.URL, 10, 0))
			require.Equal(t, &want, crawled.Proof)
		})
	}
}
