// Package assembler binds the pages of an export into a file, such as a workbook.
//
// It takes ExportCrawled events, reads the pages of the run by subject and in
// order, writes them in the format that was asked for (see package encode) and
// proves the result against the log before it appends ExportCompleted.
//
// What it promises:
//
//   - ExportCompleted is only appended when the file is durable, every page
//     from 1 to the last was in it once, and its rows agree with the totals
//     that the source announced. Otherwise the export fails, with the numbers.
//   - The same request and the same pages give the same bytes.
//   - Memory is bounded whatever the row count.
//   - Of two assemblers on one export one wins; the other removes its file
//     after it has read the event that names another.
package assembler

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/assembler/encode"
	"sheaf/storage"

	"github.com/prometheus/client_golang/prometheus"
)

// Config of the assembler. The zero value works.
type Config struct {
	Workbooks int           // large ones written at once; default 4
	Small     int           // small ones written at once, beside them; default 16
	ReadAhead int64         // bytes of rows read ahead of one workbook's writer; default 16 MiB
	KeepFiles time.Duration // until a finished file expires; default 168h
	MaxStarts int           // starts of one assembly before CRASHED_WORKER; default 5
	Parallel  int           // encoders of one workbook; default one a core
	RoomWait  time.Duration // how long a workbook may find no room on the disk before LIMIT_BYTES; default 10m
	// Room returns nil while the disk has room for a workbook in progress to grow
	// by so many bytes. Default: always.
	Room func(bytes int64) error
	Log  *slog.Logger // default: nothing is logged
	// Metrics is where the service registers its metrics. Default: none.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	c.Workbooks = cmp.Or(c.Workbooks, 4)
	c.Small = cmp.Or(c.Small, 16)
	c.ReadAhead = cmp.Or(c.ReadAhead, 16<<20)
	c.KeepFiles = cmp.Or(c.KeepFiles, 168*time.Hour)
	c.MaxStarts = cmp.Or(c.MaxStarts, 5)
	c.RoomWait = cmp.Or(c.RoomWait, 10*time.Minute)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "assembler")
	if c.Room == nil {
		c.Room = func(int64) error { return nil }
	}
	return c
}

// Service is the assembler role.
type Service struct {
	cfg     Config
	journal *journal.Log
	pages   *pages.Store
	files   storage.Files
	metrics *metrics

	shares  *journal.Shares  // of the slots for small workbooks
	large   chan struct{}    // holds the large workbooks that are written
	running *journal.Running // set by Run
	short   atomic.Bool      // the last workbook found no room on the disk
	waited  sync.Map         // since when a crawled export finds no room, by CrawledSeq
}

// aloneFor is how long a suspect keeps the others waiting at most.
const aloneFor = 30 * time.Second

// New returns an assembler that keeps finished files in files. It does no I/O.
func New(cfg Config, log *journal.Log, files storage.Files) (*Service, error) {
	if log == nil || files == nil {
		return nil, errors.New("assembler: a log and files are required")
	}
	cfg = cfg.withDefaults()
	return &Service{cfg: cfg, journal: log, pages: log.Pages(), files: files, metrics: newMetrics(cfg.Metrics), large: make(chan struct{}, cfg.Workbooks),
		shares: journal.NewShares((cfg.Small+3)/4, cfg.Small, offers)}, nil
}

// Run assembles until ctx ends, hands back what is under way, and returns nil.
func (s *Service) Run(ctx context.Context) error {
	var err error
	if s.running, err = s.journal.Watch(); err != nil {
		return fmt.Errorf("assembler: %w", err)
	}
	defer s.running.Close()
	if err := s.journal.Consume(ctx, events.StreamEvents, events.ConsumerAssembler, s.cfg.Small, s.handle); err != nil {
		return fmt.Errorf("assembler: %w", err)
	}
	return nil
}

// failure ends an export for good.
type failure struct {
	code   string
	reason string
	page   int
}

func (f *failure) Error() string { return f.reason }

// smallRows is the most rows that a small workbook can have. It takes some 20 ms
// of one core, and a few MiB.
const smallRows = 5000

// smallAhead is how many bytes of rows are read ahead of its writer.
const smallAhead = 2 << 20

// isSmall reports whether the workbook of an export is small. A page has at most
// limit rows and the header; how many there are in a page that came with its
// request does not matter, for a request is small itself.
func isSmall(x *events.Export) bool {
	limit := 1
	if x.Request.HTTP != nil {
		limit += max(x.Request.HTTP.Limit, 1)
	}
	return x.Pages <= smallRows/limit
}

// offers is how many of a tenant's exports that wait for its share of the slots, and have
// no place in this process, are offered again in a second.
const offers = 300

// laneWait is how long a large workbook at least stays with the server when this
// process writes as many as it may. Another process may have a place for it.
const laneWait = time.Second

var errLaneFull = errors.New("as many large workbooks as may be are being written")

// handle assembles the export of one crawled event. The slots are for small
// workbooks, which are written there; large ones are written beside them. So a
// hundred giants, each at work for minutes, keep no small one waiting.
func (s *Service) handle(ctx context.Context, d journal.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	return s.shares.Run(ctx, ev.Tenant, len(d.Data), func() error { return s.handleEvent(ctx, d, ev) })
}

// handleEvent does that when the export's tenant has its turn.
func (s *Service) handleEvent(ctx context.Context, d journal.Delivery, ev events.Event) error {
	assembleCtx, leave, err := s.running.Enter(ctx, ev.Key)
	if err != nil {
		return err
	}
	x, err := s.journal.ReadSince(assembleCtx, ev)
	if err != nil || stillOpen(&x, d.Sequence) != nil {
		leave()
		return err // ended, or requested anew: nothing to do for this event
	}
	d.Concerns(&x)
	if isSmall(&x) {
		defer leave()
		return s.carryOut(ctx, assembleCtx, x, d)
	}
	select {
	case s.large <- struct{}{}:
	default:
		leave()
		return journal.RetryAfter(errLaneFull, laneWait+rand.N(laneWait))
	}
	return journal.Beside(func() error {
		defer leave()
		defer func() { <-s.large }()
		return s.carryOut(ctx, assembleCtx, x, d)
	})
}

// carryOut writes the workbook of x and appends the event that says how it went.
func (s *Service) carryOut(ctx, assembleCtx context.Context, x events.Export, d journal.Delivery) error {
	log := x.With(s.cfg.Log)
	begun := time.Now()
	if err := s.cfg.Room(0); err != nil && s.waits(&x) < s.cfg.RoomWait {
		return s.awaitRoom(&x, log, err)
	}

	mark := "assemble:" + strconv.FormatUint(d.Sequence, 10)
	starts, recorded := 0, 0
	var err error
	if !d.Fresh { // of a fresh one nobody has begun
		if starts, err = s.journal.Starts(assembleCtx, x.Tenant, x.Key, mark); err != nil {
			return err
		}
		if starts++; starts >= journal.SuspectAfter { // the first one is not recorded
			select {
			case <-time.After(s.journal.SuspectPause(starts)):
			case <-assembleCtx.Done():
				return assembleCtx.Err()
			}
			leave, err := s.journal.Alone(assembleCtx, aloneFor)
			if err != nil {
				return err
			}
			defer leave()
		}
		if recorded, err = s.journal.CountStart(assembleCtx, x.Tenant, x.Key, mark); err != nil {
			return err
		}
	}
	var completed *events.ExportCompleted
	if starts >= s.cfg.MaxStarts {
		err = &failure{code: events.CodeCrashedWorker, reason: fmt.Sprintf("assembling began %d times; the process ended each time", s.cfg.MaxStarts)}
	} else {
		completed, err = s.assemble(assembleCtx, &x, d.Sequence)
	}
	if journal.Ended(assembleCtx) {
		log.Info("assembly stopped: the export has ended")
		err = journal.ErrEnded
	}

	if errors.Is(err, errNoRoom) || storage.IsNoSpace(err) {
		if waited := s.waits(&x); waited >= s.cfg.RoomWait {
			err = &failure{code: events.CodeLimitBytes, reason: fmt.Sprintf(
				"no room for the workbook within %s: %v; make room there, use a larger disk or export less at once", s.cfg.RoomWait, err)}
		}
	} else {
		s.waited.Delete(x.CrawledSeq)
	}

	var f *failure
	switch {
	case err == nil:
		var after events.Export
		after, err = s.journal.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
			return completed, stillOpen(x, d.Sequence)
		})
		if err == nil {
			if s.short.Swap(false) {
				log.Info("there is room for workbooks again")
			}
			log.Info("export completed", "pages", completed.Pages, "rows", completed.Rows, "bytes", completed.Files[0].Size,
				"elapsed", time.Since(begun).Round(time.Millisecond))
			s.metrics.ended.WithLabelValues(string(events.TypeCompleted), "").Inc()
			s.metrics.rows.Add(float64(completed.Rows))
			s.metrics.bytes.Add(float64(completed.Files[0].Size))
			s.metrics.seconds.Observe(time.Since(begun).Seconds())
			return nil
		}
		s.discard(ctx, after, completed.Files[0].Store, err)
	case errors.As(err, &f):
		log.Warn("export failed", "error_code", f.code, "reason", f.reason)
		_, err = s.journal.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
			return &events.ExportFailed{
				Code: f.code, Reason: f.reason, Phase: events.PhaseAssembling, Page: f.page,
				Run: x.Run, RunSpoiled: f.code != events.CodeCrashedWorker && f.code != events.CodeLimitBytes,
			}, stillOpen(x, d.Sequence)
		})
		if err == nil {
			s.metrics.ended.WithLabelValues(string(events.TypeFailed), f.code).Inc()
		}
	case !errors.Is(err, journal.ErrEnded):
		s.handBack(ctx, &x, mark, recorded, log)
		if errors.Is(err, errNoRoom) || storage.IsNoSpace(err) {
			return s.awaitRoom(&x, log, err)
		}
		return err
	}
	if errors.Is(err, journal.ErrEnded) || errors.Is(err, events.ErrNotAllowed) {
		return nil
	}
	return err
}

// assemble writes the workbook and proves it. The file it returns is durable.
func (s *Service) assemble(ctx context.Context, x *events.Export, crawled uint64) (*events.ExportCompleted, error) {
	draft, err := s.files.Create(ctx)
	if err != nil {
		return nil, fmt.Errorf("creating the file: %w", err)
	}
	defer draft.Discard()

	req, format := x.Request, formatOf(x.Request.ExtType)
	entry := EntryName(req.Title, req.ExtType, req.SourceType == events.SourceHTTP)
	ahead, parallel := s.cfg.ReadAhead, s.cfg.Parallel
	if isSmall(x) { // there may be many, and a core each is enough
		ahead, parallel = min(ahead, smallAhead), 1
	}
	pages := readPages(ctx, x.Pages, ahead, func(ctx context.Context, n int) (pages.Page, error) {
		return s.pages.Get(ctx, pages.ID{Tenant: x.Tenant, Key: x.Key, Run: x.Run, Number: n})
	})
	defer pages.Close()
	check, keys := newProof(), newRowKeys(req.RowKey)
	created := time.Time{} // the writer's fixed default: never the clock
	if req.Timestamp > 0 {
		created = time.Unix(req.Timestamp, 0).UTC()
	}
	told := time.Now()
	next := func(ctx context.Context) (encode.Page, error) {
		p, err := pages.Next(ctx)
		if err != nil {
			return encode.Page{}, err
		}
		// What a page adds to the file is never more than its rows.
		if err := s.cfg.Room(int64(len(p.Rows))); err != nil {
			return encode.Page{}, fmt.Errorf("%w: %w", errNoRoom, err)
		}
		if err := check.add(p); err != nil {
			return encode.Page{}, err
		}
		keys.add(p)
		if time.Since(told) > 250*time.Millisecond {
			told = time.Now()
			s.journal.PublishProgress(x.Tenant, x.Key, events.Progress{Phase: events.PhaseAssembling, PagesDone: p.Number, PagesTotal: x.Pages, Rows: check.rows})
		}
		return encode.Page{Number: p.Number, Rows: p.Rows, RowCount: p.RowCount, SkipFirst: p.Number > 1 && p.HeaderRow, Release: p.Release}, nil
	}
	doc := encode.Document{Entry: entry, Title: req.Title, Creator: req.UserID, Created: created, Parallel: parallel}
	handed := false
	first, firstErr := next(ctx) // it has the header
	if firstErr == nil {
		doc.Sheet.Columns = encode.Columns(first.Rows)
	}
	res, err := format.Write(ctx, draft.File(), doc, func(ctx context.Context) (encode.Page, error) {
		if !handed {
			handed = true
			return first, firstErr
		}
		return next(ctx)
	})
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	warnings, problem := check.judge(x.Pages, x.Manifest)
	if problem == "" && res.Rows != check.rows {
		problem = fmt.Sprintf("%d rows were written of %d that were read", res.Rows, check.rows)
	}
	if problem != "" {
		return nil, &failure{code: events.CodeSourceIncomplete, reason: problem}
	}

	// No folder of its own: making one durable takes five times as long as the
	// file (measured on ext4).
	store := fmt.Sprintf("%s/%s-%s%s", x.Tenant, x.Key, events.NewID(), format.Ext)
	if err := s.files.Commit(ctx, draft, store); err != nil {
		// It may have got its name, and the next attempt makes another. What this does
		// not remove, the keeper does.
		_ = s.files.Delete(ctx, store)
		return nil, fmt.Errorf("keeping the file: %w", err)
	}
	all := slices.Concat(x.Warnings, warnings, keys.warnings())
	for _, w := range res.Warnings {
		all = append(all, events.Warning{Code: w.Code, Message: w.Message})
	}
	return &events.ExportCompleted{
		Run: x.Run, Pages: x.Pages, Manifest: x.Manifest, Rows: res.Rows, Warnings: all,
		Files: []events.File{{
			Name:  EntryName(req.Title, format.Ext, false),
			Store: store, Size: res.Size, SHA256: hex.EncodeToString(res.Sha256[:]), Rows: res.Rows,
		}},
		ExpiresAt: time.Now().UTC().Add(s.cfg.KeepFiles).Truncate(time.Second),
	}, nil
}

// explain turns what went wrong while writing into a failure where trying
// again would not help.
func (s *Service) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var columns *encode.TooManyColumnsError
	var malformed *encode.RowsError
	switch {
	case errors.Is(err, events.ErrPageMissing), errors.Is(err, events.ErrPageDamaged):
		return &failure{code: events.CodeStore, reason: err.Error() + "; a retry crawls from the beginning"}
	case errors.As(err, &columns):
		return &failure{code: events.CodeLimitColumns, reason: err.Error()}
	case errors.Is(err, encode.ErrTooLarge):
		return &failure{code: events.CodeLimitBytes, reason: err.Error()}
	case errors.Is(err, encode.ErrNoHeader), errors.Is(err, encode.ErrNoPages), errors.Is(err, encode.ErrPageOrder), errors.As(err, &malformed):
		return &failure{code: events.CodeSourceIncomplete, reason: err.Error()}
	}
	return fmt.Errorf("writing the workbook: %w", err)
}

// discard removes a file that lost: only after an event that names another
// was read, for an unknown outcome may still turn out to be a win.
func (s *Service) discard(ctx context.Context, after events.Export, store string, err error) {
	if !errors.Is(err, journal.ErrEnded) && !errors.Is(err, events.ErrNotAllowed) {
		return
	}
	for _, f := range after.Files {
		if f.Store == store {
			return
		}
	}
	if err := s.files.Delete(ctx, store); err != nil {
		after.With(s.cfg.Log).Warn("losing file not removed; the keeper will remove it", "file", store, "error", err)
	}
}

// handBack takes the start back, if it was recorded: the assembly did not crash.
func (s *Service) handBack(ctx context.Context, x *events.Export, mark string, count int, log *slog.Logger) {
	if count == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.journal.UncountStart(ctx, x.Tenant, x.Key, mark, count); err != nil && !errors.Is(err, journal.ErrTakenOver) {
		log.Warn("start not taken back", "error", err)
	}
}

// errNoRoom gives a workbook in progress up for now: the disk is almost full.
// What was written of it is free again at once, for a smaller one.
var errNoRoom = errors.New("no room for the workbook")

// roomWait is how long an export at least waits for room before its workbook is
// begun again. Twice that is the most, so that two that are too large together
// do not meet again and again.
const roomWait = 3 * time.Second

// waits returns for how long an export has found no room, which begins now at
// the latest.
func (s *Service) waits(x *events.Export) time.Duration {
	since, _ := s.waited.LoadOrStore(x.CrawledSeq, time.Now())
	return time.Since(since.(time.Time))
}

// awaitRoom has the export come again. That it waits is seen in its progress,
// and told to the log once for all exports.
func (s *Service) awaitRoom(x *events.Export, log *slog.Logger, err error) error {
	if !s.short.Swap(true) {
		log.Warn("workbooks wait for room on the disk", "error", err)
	}
	s.journal.PublishProgress(x.Tenant, x.Key, events.Progress{Phase: events.PhaseWaitingForSpace, PagesDone: x.Pages, PagesTotal: x.Pages})
	return journal.RetryAfter(err, roomWait+rand.N(roomWait))
}

// stillOpen refuses to add to an export that is no longer the one that was
// taken.
func stillOpen(x *events.Export, crawled uint64) error {
	if x.State != events.StateCrawled || x.CrawledSeq != crawled {
		return journal.ErrEnded
	}
	return nil
}
