package source

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2/clientcredentials"
)

// A token is replaced a minute before it ends, a short one after half of its life, and one without an end only
// after a refusal.
func TestTokensAreReplacedInTime(t *testing.T) {
	t.Parallel()
	for life, want := range map[int]time.Duration{3600: 3540 * time.Second, 120: time.Minute, 60: 30 * time.Second, 0: 0} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"abc","expires_in":%d}`, life)
		}))
		defer server.Close()
		tokens := newTokens(server.Client(), &clientcredentials.Config{TokenURL: server.URL})
		begun := time.Now()
		header, err := tokens.get(t.Context())
		require.NoError(t, err)
		require.Equal(t, "Bearer abc", header)
		if want == 0 {
			require.Zero(t, tokens.until)
			continue
		}
		require.WithinRange(t, tokens.until, begun.Add(want-time.Second), time.Now().Add(want))
		tokens.until = time.Now().Add(-1)
		require.Empty(t, tokens.current())
	}
}

// A refusal of an earlier token does not drop the one that replaced it.
func TestOnlyTheRefusedTokenIsDropped(t *testing.T) {
	t.Parallel()
	tokens := &tokens{header: "Bearer new"}
	tokens.drop("Bearer old")
	require.Equal(t, "Bearer new", tokens.current())
	tokens.drop("Bearer new")
	require.Empty(t, tokens.current())
}
