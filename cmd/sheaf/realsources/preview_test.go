package realsources

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// previewed is a submission of somebody who knows an address of a server, and the preset and the proof of the
// request that a preview finds for it.
type previewed struct{ source, preset, proof string }

var previews = map[string][]previewed{
	pocketbase.folder: {{`{"url":"%s/api/collections/orders/records?sort=n"}`, "pocketbase", "total"}},
	jsonServer0.folder: {
		{`{"url":"%s/orders?_page=1"}`, "", "total"},
		{`{"url":"%s/orders","param":{"_page":1,"_limit":500}}`, "", "total"},
		{`{"url":"%s/orders"}`, "", "end"},
	},
	jsonServer1.folder: {
		{`{"url":"%s/orders?_page=1"}`, "", "total"},
		{`{"url":"%s/orders"}`, "", "end"},
	},
	graphqlYoga.folder: {{`{"url":"%s/graphql","method":"POST","body":` + fmt.Sprintf(yogaBody, 500) + `}`, "graphql-relay", "total"}},
	feathers.folder:    {{`{"url":"%s/orders"}`, "feathers", "total"}},
	drf.folder: {
		{`{"url":"%s/page/"}`, "drf", "total"},
		{`{"url":"%s/offset/"}`, "drf-offset", "total"},
		{`{"url":"%s/cursor/"}`, "drf-cursor", "end"},
	},
}

// requireWhole submits the request that the preview finds, as it is. The export must have every row.
func (c previewed) requireWhole(t *testing.T, sheaf *sheaf, url string, rows []json.RawMessage) {
	var preview struct {
		Request struct {
			Source json.RawMessage `json:"source_http"`
		}
		Preset   string
		Needed   []any
		Requests int
	}
	body := `{"source_http":` + strings.Replace(c.source, "%s", url, 1) + `}`
	code, msg := sheaf.call(t, http.MethodPost, "/v1/export/preview", body, &preview)
	require.Zero(t, code, msg)
	require.NotEmpty(t, preview.Request.Source, "%v", preview.Needed)
	require.Equal(t, c.preset, preview.Preset, "%s", preview.Request.Source)
	require.LessOrEqual(t, preview.Requests, 3)
	o := sheaf.export(t, preview.Request.Source)
	require.Equal(t, completed, o.Status, "%s: %s: %s", preview.Request.Source, o.ErrorCode, o.FailReason)
	require.Equal(t, c.proof, o.Proof.Kind, "%s", preview.Request.Source)
	requireRows(t, rows, sheaf.cells(t, o))
}
