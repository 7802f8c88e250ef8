package ingress

import (
	"context"
	"net/http"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/ingress/request"
)

// Previewer finds out how to request all pages of a source.
type Previewer interface {
	// Preview previews the source of a submission, whose paging may be missing. check validates submissions,
	// and returns them with their secrets in clear. An error is that of check, or of ctx. The answer is
	// encoded as JSON; it says if the source failed.
	Preview(ctx context.Context, submission []byte, check func([]byte) (*events.Request, secrets.Values, error)) (answer any, err error)
}

const (
	// previewWait bounds a preview. The source gets most of it.
	previewWait = 30 * time.Second
	// maxTenantPreviews limits the concurrent previews of a tenant, and maxPreviews those of all. Further ones
	// wait. Each holds two pages in memory.
	maxTenantPreviews = 2
	maxPreviews       = 4
)

// preview proposes a submission for a source. It stores nothing.
func (s *Service) preview(ctx context.Context, c call) (any, error) {
	if s.cfg.Previewer == nil {
		return nil, &apiError{Errcode: errcodeNotFound, Status: http.StatusNotFound, Msg: "this server makes no previews"}
	}
	return s.cfg.Previewer.Preview(ctx, c.body, func(body []byte) (*events.Request, secrets.Values, error) {
		req, opened, err := request.ParseOpened(s.journal.Keys(), c.tenant, s.cfg.Formats, body)
		if err == nil {
			err = s.checkKeepPages(req.Options)
		}
		return req, opened, err
	})
}

// operationWait is how long an operation may take.
func (s *Service) operationWait(c call) time.Duration {
	switch c.operation {
	case previewOperation:
		return previewWait
	case bulkOperation:
		return bulkWait
	}
	return s.cfg.OperationWait + time.Duration(len(c.body)>>20)*time.Second
}

const previewOperation = "preview"
