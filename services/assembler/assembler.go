// Package assembler writes the pages of an export into a file, such as a workbook.
//
// It takes ExportCrawled events, reads the pages of the run in order, and writes them in the requested format
// (see package encode). It compares the result with the log before it appends ExportCompleted.
//
// It promises:
//
//   - ExportCompleted is only appended when the file is durable, contains every page from 1 to the last
//     exactly once, and its rows agree with the totals that the source announced. Otherwise the export fails,
//     with the numbers.
//   - The same request and the same pages give the same bytes.
//   - Memory is bounded whatever the row count.
//   - Of two assemblers on one export, one wins. The loser removes its file after it has read the event that
//     names the winner's.
package assembler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/tracing"
	"sheaf/services/assembler/encode"
	"sheaf/storage"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures the assembler. The zero value works.
type Config struct {
	Workbooks int           // large workbooks written at once; default 4
	Small     int           // small workbooks written at once, in addition; default 16
	ReadAhead int64         // bytes of rows read ahead for one workbook; default 16 MiB
	KeepFiles time.Duration // until a finished file expires; default 168h
	// MaxKeepPages bounds how long pages are kept after success, as options.keep_pages asks; default 168h.
	MaxKeepPages time.Duration
	MaxStarts    int           // starts of one assembly before CRASHED_WORKER; default 5
	Parallel     int           // encoders per workbook; default one per core
	RoomWait     time.Duration // how long a workbook may wait for disk space before LIMIT_BYTES; default 10m
	// Room returns nil while the disk has space for a workbook in progress to grow by so many bytes. Default:
	// always.
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
	c.MaxKeepPages = cmp.Or(c.MaxKeepPages, 168*time.Hour)
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
	large   chan struct{}    // one entry per large workbook in progress
	running *journal.Running // set by Run
	short   atomic.Bool      // the last workbook found no space on the disk
	waited  sync.Map         // by CrawledSeq: when a crawled export first found no space
	needs   sync.Map         // what this version lacks, as logged
}

// aloneFor is the maximum time that a suspect keeps the others waiting.
const aloneFor = 30 * time.Second

// New returns an assembler that stores finished files in files. It does no I/O.
func New(cfg Config, log *journal.Log, files storage.Files) (*Service, error) {
	if log == nil || files == nil {
		return nil, errors.New("assembler: a log and files are required")
	}
	cfg = cfg.withDefaults()
	return &Service{cfg: cfg, journal: log, pages: log.Pages(), files: files, metrics: newMetrics(cfg.Metrics, cfg.Small+cfg.Workbooks), large: make(chan struct{}, cfg.Workbooks),
		shares: journal.NewShares((cfg.Small+3)/4, cfg.Small, offers)}, nil
}

// Run assembles until ctx ends, hands back unfinished exports, and returns nil.
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

// failure ends an export permanently.
type failure struct {
	code   string
	reason string
	page   int
}

func (f *failure) Error() string { return f.reason }

// smallRows is the maximum number of rows of a small workbook. Such a workbook takes about 20 ms of one core
// and a few MiB.
const smallRows = 5000

// smallAhead is the number of bytes of rows read ahead for a small workbook.
const smallAhead = 2 << 20

// isSmall reports whether the documents of an export are small. A page of the standard format has at most
// limit rows and the header. A declared source may give more, so its rows were counted. Rows that came with
// the request do not matter, because a request is small itself.
func isSmall(x *events.Export) bool {
	rows := int64(0)
	for i := range min(x.Request.SheetCount(), max(len(x.Sheets), 1)) {
		from, crawled := x.Request.Sheet(i).HTTP, x.CrawledSheet(i)
		switch {
		case from != nil && from.Paging != nil && crawled.Proof != nil:
			rows += crawled.Proof.Rows
		case from != nil:
			rows += int64(crawled.Pages) * int64(1+max(from.Limit, 1))
		default:
			rows += int64(crawled.Pages)
		}
	}
	return rows*int64(max(len(events.FormatNames(x.Request.ExtType)), 1)) <= smallRows
}

// offers is how many exports of a tenant that wait for its share of the slots are redelivered per second.
const offers = 300

// laneWait is the minimum time that a large workbook stays with the server while this process writes its
// maximum. Another process may have a free slot.
const laneWait = time.Second

var errLaneFull = errors.New("as many large files as may be are being written")

// handle assembles the export of one crawled event. Small workbooks are written in the slots and large ones
// beside them, so many slow exports never delay a small one.
func (s *Service) handle(ctx context.Context, d journal.Delivery) error {
	ev, err := d.Event()
	if err != nil {
		return err
	}
	return s.shares.Run(ctx, ev.Tenant, len(d.Data), func() error { return s.handleEvent(ctx, d, ev) })
}

// handleEvent assembles the export once its tenant has a slot.
func (s *Service) handleEvent(ctx context.Context, d journal.Delivery, ev events.Event) error {
	assembleCtx, leave, err := s.running.Enter(ctx, ev.Key)
	if err != nil {
		return err
	}
	x, err := s.journal.ReadDelivered(assembleCtx, d, ev)
	if err != nil || stillOpen(&x, d.Sequence) != nil {
		leave()
		return err // ended, or requested again: nothing to do for this event
	}
	d.Concerns(&x)
	if need := x.Request.UnknownNeed(); need != "" {
		leave()
		return s.leave(&x, need)
	}
	work := func() error {
		defer leave()
		ctx, span := s.journal.Process(ctx, d, ev, events.ConsumerAssembler)
		defer span.End("")
		return s.carryOut(ctx, tracing.Adopt(assembleCtx, ctx), x, d)
	}
	if isSmall(&x) {
		return work()
	}
	select {
	case s.large <- struct{}{}:
	default:
		leave()
		return journal.RetryAfter(errLaneFull, laneWait+rand.N(laneWait))
	}
	return journal.Beside(func() error {
		defer func() { <-s.large }()
		return work()
	})
}

// leave leaves an export to a process of a later version.
func (s *Service) leave(x *events.Export, need string) error {
	if _, logged := s.needs.LoadOrStore(need, true); !logged {
		x.With(s.cfg.Log).Warn("exports are left to a process of a later version", "needs", need)
	}
	return journal.RetryAfter(errNeeds, needsWait+rand.N(needsWait))
}

var errNeeds = errors.New("this version cannot assemble the export")

// needsWait is the minimum time that an export stays with the server for another process.
const needsWait = time.Second

// carryOut writes the workbook of x and appends the event with the outcome.
func (s *Service) carryOut(ctx, assembleCtx context.Context, x events.Export, d journal.Delivery) error {
	log := x.With(s.cfg.Log)
	s.metrics.busy.Inc()
	defer s.metrics.busy.Dec()
	begun := time.Now()
	if err := s.cfg.Room(0); err != nil && s.waits(&x) < s.cfg.RoomWait {
		return s.awaitRoom(&x, log, err)
	}

	mark := "assemble:" + strconv.FormatUint(d.Sequence, 10)
	starts, recorded := 0, 0
	var err error
	if !d.Fresh { // no attempt precedes a fresh one
		if starts, err = s.journal.Starts(assembleCtx, x.Tenant, x.Key, mark); err != nil {
			return err
		}
		if starts++; starts >= journal.SuspectAfter { // the first start is not recorded
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
		completed, err = s.assemble(assembleCtx, &x)
	}
	if journal.Ended(assembleCtx) {
		log.Info("assembly stopped: the export has ended")
		err = journal.ErrEnded
	}

	if errors.Is(err, errNoRoom) || storage.IsNoSpace(err) {
		if waited := s.waits(&x); waited >= s.cfg.RoomWait {
			err = &failure{code: events.CodeLimitBytes, reason: fmt.Sprintf(
				"no room for the file within %s: %v; make room there, use a larger disk or export less at once", s.cfg.RoomWait, err)}
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
				log.Info("there is room for files again")
			}
			s.metrics.rows.Add(float64(completed.Rows))
			s.metrics.bytes.Add(float64(completed.Files[0].Size))
			s.metrics.seconds.Observe(time.Since(begun).Seconds())
			return nil
		}
		s.discard(ctx, after, completed.Files[0].Store, err)
	case errors.As(err, &f):
		tracing.Fail(ctx, f.code)
		log.Warn("export failed", "error_code", f.code, "reason", f.reason)
		_, err = s.journal.Append(ctx, x, "", func(x *events.Export) (events.Payload, error) {
			return &events.ExportFailed{
				Code: f.code, Reason: f.reason, Phase: events.PhaseAssembling, Page: f.page,
				Run: x.Run, RunSpoiled: f.code != events.CodeCrashedWorker && f.code != events.CodeLimitBytes,
			}, stillOpen(x, d.Sequence)
		})
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

// assemble writes the documents and verifies them. The file it returns is durable.
func (s *Service) assemble(ctx context.Context, x *events.Export) (*events.ExportCompleted, error) {
	draft, err := s.files.Create(ctx)
	if err != nil {
		return nil, fmt.Errorf("creating the file: %w", err)
	}
	defer draft.Discard()
	a, err := s.newAssembly(ctx, x)
	if err != nil {
		return nil, err
	}
	writing, span := s.journal.Tracer().Inside(ctx, "write file", tracing.Run.Int64(int64(x.Run)), tracing.Pages.Int(x.Pages))
	file, err := a.write(writing, draft.File())
	span.Set(tracing.Rows.Int64(file.Rows))
	span.End(spanError(err))
	if err != nil {
		return nil, err
	}

	// The file has no folder of its own: making one durable takes five times as long as the file (measured on
	// ext4).
	ext := events.Zip.Ext
	if !a.zipped {
		ext = a.formats[0].Ext
	}
	file.Store = fmt.Sprintf("%s/%s-%s%s", x.Tenant, x.Key, events.NewID(), ext)
	storing, span := s.journal.Tracer().Inside(ctx, "store file")
	err = s.files.Commit(storing, draft, file.Store)
	span.End(spanError(err))
	if err != nil {
		// The file may have its name already, and the next attempt makes another. The keeper removes the
		// files that remain.
		_ = s.files.Delete(ctx, file.Store)
		return nil, fmt.Errorf("keeping the file: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	completed := &events.ExportCompleted{
		Run: x.Run, Pages: x.Pages, Manifest: x.Manifest, Rows: file.Rows, Warnings: a.warnings,
		Files: []events.File{file}, ExpiresAt: now.Add(s.cfg.KeepFiles),
	}
	// The pages of another export are kept as long as that one asks.
	if keep := time.Duration(a.options.KeepPages) * time.Hour; keep > 0 && x.Request.From == nil {
		completed.PagesUntil = now.Add(min(keep, s.cfg.MaxKeepPages))
	}
	return completed, nil
}

// spanError classifies an error of a step, "" for none.
func spanError(err error) string {
	var f *failure
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.code
	}
	return "stopped"
}

// explain turns an error of writing a document into a failure if a retry would not help. about names the
// document, if there are several.
func (s *Service) explain(ctx context.Context, err error, about string) error {
	if ctx.Err() != nil {
		return err
	}
	var columns *encode.TooManyColumnsError
	var empty *encode.NoValuesError
	var malformed *encode.RowsError
	code := ""
	switch {
	case errors.Is(err, events.ErrPageMissing), errors.Is(err, events.ErrPageDamaged):
		return &failure{code: events.CodeStore, reason: about + err.Error() + "; a retry crawls from the beginning"}
	case errors.As(err, &columns):
		code = events.CodeLimitColumns
	case errors.As(err, &empty):
		return &failure{code: events.CodeSourcePath, reason: about + empty.Error()}
	case errors.Is(err, encode.ErrTooLarge):
		code = events.CodeLimitBytes
	case errors.Is(err, encode.ErrNoHeader), errors.Is(err, encode.ErrNoPages), errors.Is(err, encode.ErrPageOrder), errors.As(err, &malformed):
		code = events.CodeSourceIncomplete
	default:
		return fmt.Errorf("writing the document: %s%w", about, err)
	}
	return &failure{code: code, reason: about + err.Error()}
}

// discard removes a losing file. It does so only after it has read an event that names another file, because
// an unknown outcome may still be a win.
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

// handBack removes the recorded start, if any: the assembly did not crash.
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

// errNoRoom stops a workbook in progress because the disk is almost full. Its space is free at once, for a
// smaller one.
var errNoRoom = errors.New("no room for the file")

// roomWait is the minimum wait for disk space before a workbook restarts. The maximum is twice that, so that
// two workbooks that do not fit together do not collide repeatedly.
const roomWait = 3 * time.Second

// waits returns for how long an export has waited for disk space. The first call starts the wait.
func (s *Service) waits(x *events.Export) time.Duration {
	since, _ := s.waited.LoadOrStore(x.CrawledSeq, time.Now())
	return time.Since(since.(time.Time))
}

// awaitRoom schedules a redelivery of the export. The export's progress shows the wait; the log reports it
// once for all exports.
func (s *Service) awaitRoom(x *events.Export, log *slog.Logger, err error) error {
	if !s.short.Swap(true) {
		log.Warn("files wait for room on the disk", "error", err)
	}
	s.journal.PublishProgress(x.Tenant, x.Key, events.Progress{Phase: events.PhaseWaitingForSpace, PagesDone: x.Pages, PagesTotal: x.Pages})
	return journal.RetryAfter(err, roomWait+rand.N(roomWait))
}

// stillOpen refuses to append to an export that has ended or restarted since it was taken.
func stillOpen(x *events.Export, crawled uint64) error {
	if x.State != events.StateCrawled || x.CrawledSeq != crawled {
		return journal.ErrEnded
	}
	return nil
}
