package main

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
	"sheaf/services/ingress/request"
)

// A request that the ingress accepts is one that the crawler can send.
func FuzzAcceptedRequestsCanBeSent(f *testing.F) {
	for _, p := range request.Presets() {
		f.Add(`"rows":"a[*].b","method":"POST","preset":"` + p.Name + `","paging":{"cursor":"a.b"},"body":{}`)
		f.Add(`"preset":"` + p.Name + `"`)
	}
	for _, members := range []string{
		`"param":{"_per_page":500},"rows":"data","paging":{"type":"page","page_param":"_page","limit_param":"_per_page","total":"items","total_pages":"pages"}`,
		`"preset":"link","param":{"_page":1,"_limit":500},"paging":{"total":"header:X-Total-Count"}`,
		`"method":"POST","body":{"query":"q","variables":{"first":500}},"rows":"data.a.edges[*].node","paging":{"type":"cursor","cursor":"row:id","cursor_param":"body:variables.after","cursor_start":7}`,
		`"method":"POST","param":{"a":{"b":1}},"paging":{"type":"page","page_param":"body:a.c","limit_param":"query:x","start":0,"more":"!last","end":["short","repeat"]}`,
		`"method":"POST","body":{"a":1},"body_type":"form","paging":{"type":"offset","offset_param":"body:o","limit_param":"header:X-Size","total":"n","estimate":true}`,
		`"format":"csv","paging":{"type":"none","total":"header:Content-Range"}`,
		`"format":"ndjson","header_row":true,"paging":{"type":"link","hosts":["h"],"rel":"last"}`,
		`"auth":{"type":"basic","username":"a","password":""},"max_wait":3600`,
		`"auth":{"type":"api_key","name":"k","value":"v","in":"query"},"paging":{"type":"next_url","next_url":"['@odata.nextLink']"}`,
		`"auth":{"type":"oauth2","token_url":"http://h?a=b","client_id":"i","client_secret":"s","scope":"a b"},"paging":{"type":"none"}`,
		`"error":{"path":"code","ok":[0,"x",null,true],"retry":[1],"message":"errors[0].message","retry_status":[403]},"paging":{"type":"none"}`,
		`"param":{"t":"x"},"secret_param":["t"],"header":{"A":"b"},"paging":{"type":"page"}`,
	} {
		f.Add(members)
	}
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, members string) {
		body := `{"ext_type":"XLSX","source_http":{"url":"http://h/p",` + members + `}}`
		checked, err := request.Parse(keys, events.DefaultTenant, events.SourceHTTP, []events.Format{events.XLSX}, []byte(body))
		if err != nil {
			return
		}
		stored, err := json.Marshal(checked.Request)
		require.NoError(t, err)
		x := events.Export{Tenant: events.DefaultTenant, Key: checked.Key}
		require.NoError(t, json.Unmarshal(stored, &x.Request))
		header, _, auth := secrets.Split(checked.Secrets)
		_, err = source.New(http.DefaultClient, source.NewRequest(&x, header, x.Request.HTTP.Param, auth), source.Policy{})
		require.NoError(t, err, string(stored))
	})
}
