package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

// convert begins an export that makes other files of the pages of a finished one. Its source is not asked.
func (s *Service) convert(ctx context.Context, c call) (any, error) {
	key, err := request.ConvertKey(c.body)
	if err != nil {
		return nil, err
	}
	named := c
	named.params = url.Values{"key": {key}}
	x, err := s.find(ctx, named)
	if err != nil {
		return nil, err
	}
	// The pages outlive the file, if they are kept for longer.
	if x.State != events.StateCompleted && x.State != events.StateExpired {
		return nil, conflict("the export is %s; only a finished one can be converted", x.State)
	}
	sub, err := request.ParseConvert(s.journal.Keys(), c.tenant, s.cfg.Formats, &x, c.body)
	if err != nil {
		return nil, err
	}
	logBytes := int64(eventBytes + len(c.body))
	if r := x.Request; r.HTTP != nil || len(r.Sheets) > 0 {
		logBytes += eventBytes * int64(r.SheetCount())
	}
	return s.accept(ctx, c, sub, logBytes, func() error { return s.pagesKept(ctx, c.tenant, sub.Request.From, gonePages) })
}

// gonePages answers a conversion whose pages are no longer kept.
func gonePages(format string, args ...any) *apiError {
	return &apiError{Errcode: errcodeGone, Status: http.StatusGone, Field: "key", Msg: "key: " + fmt.Sprintf(format, args...)}
}

// pagesKept returns the error of gone unless the first page of each sheet is there, and its time has not
// passed.
func (s *Service) pagesKept(ctx context.Context, tenant string, from *events.Origin, gone func(string, ...any) *apiError) error {
	x, err := s.tasks.Get(from.Key)
	if err != nil && !errors.Is(err, storage.ErrUnknownKey) {
		return err
	}
	if until := x.PagesUntil; !until.IsZero() && !time.Now().Before(until) {
		return gone("the pages of this export were kept until %s; submit its request again", localTime(until))
	}
	for i, sheet := range from.Sheets {
		if sheet.Pages == 0 {
			continue
		}
		page, err := s.pages.Get(ctx, pages.ID{Tenant: tenant, Key: from.Key, Run: sheet.Run, Sheet: i, Number: 1})
		if errors.Is(err, events.ErrPageMissing) || errors.Is(err, events.ErrPageDamaged) {
			return gone("the pages of this export are no longer kept; submit its request again, with options.keep_pages to convert it later")
		}
		if err != nil {
			return err
		}
		page.Release()
	}
	return nil
}

// pagesGone reports whether the pages that an export keeps for other files were purged before their time, because
// space ran short.
func (s *Service) pagesGone(ctx context.Context, x *events.Export) bool {
	if !time.Now().Before(x.PagesUntil) {
		return false
	}
	for i := range x.Request.SheetCount() {
		sheet := x.CrawledSheet(i)
		if sheet.Pages == 0 {
			continue
		}
		has, err := s.pages.Has(ctx, pages.ID{Tenant: x.Tenant, Key: x.Key, Run: sheet.Run, Sheet: i, Number: 1})
		return err == nil && !has // all pages of an export are purged together
	}
	return false
}
