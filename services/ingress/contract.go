package ingress

import (
	_ "embed"
	"errors"
	"fmt"
	"net/http"

	"sheaf/events"
	"sheaf/services/ingress/docs"
	"sheaf/services/ingress/request"

	"github.com/go-chi/chi/v5"
)

// openAPI describes REST. Tests hold it to the routes and to the answers.
//
//go:embed openapi.yaml
var openAPI []byte

// newDocs returns the documents about this API.
func newDocs(cfg Config) *docs.Docs {
	return docs.New(docs.Config{
		OpenAPI: openAPI, AsyncAPI: events.AsyncAPI(), Schema: events.SchemaFile,
		URL: cfg.PublicURL, Keys: cfg.Authenticate != nil,
	})
}

// contracts returns the routes of those documents. They need no API key.
func (s *Service) contracts() []route {
	d := s.docs
	get := func(path, about string, handler docs.Handler) route {
		return route{http.MethodGet, path, func(w http.ResponseWriter, r *http.Request) {
			if err := handler(w, r); err != nil {
				respond(w, r, nil, err)
			}
		}, about}
	}
	return []route{
		get("/docs", "this API for people, in English and Chinese", d.Page),
		get("/docs/docs.css", "", d.Style),
		get("/openapi.yaml", "this API for programs (OpenAPI 3.1)", d.OpenAPI),
		get("/openapi.json", "", d.OpenAPIJSON),
		get("/asyncapi.yaml", "the subjects of NATS for programs (AsyncAPI 3)", d.AsyncAPI),
		get("/schema/{name}", "", func(w http.ResponseWriter, r *http.Request) error {
			name := chi.URLParam(r, "name")
			err := d.Schema(w, r, name)
			if errors.Is(err, docs.ErrUnknown) {
				return &apiError{
					Errcode: errcodeNotFound, Status: http.StatusNotFound,
					Msg: fmt.Sprintf("no schema has the name %q; /asyncapi.yaml names them", request.Cut(name, 64)),
				}
			}
			return err
		}),
	}
}
