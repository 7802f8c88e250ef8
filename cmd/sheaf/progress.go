package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"sheaf/events"
)

// progress shows how far an export is.
type progress interface {
	update(exportDetail)
	close()
}

// newProgress draws a bar on a terminal and writes a line now and then
// elsewhere.
func newProgress(w io.Writer) progress {
	if s, ok := w.(*screen); ok && isTerminal(w) {
		return &barProgress{screen: s}
	}
	return &lineProgress{w: w}
}

// screen is stderr. It keeps a progress bar and all other text apart: text clears the bar's line first, and the
// bar is drawn again below it.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	drawn bool // the cursor is at the end of a bar
}

// clearLine moves the cursor to the first column and erases the line.
const clearLine = "\r\x1b[K"

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drawn {
		s.drawn = false
		if _, err := io.WriteString(s.w, clearLine); err != nil {
			return 0, err
		}
	}
	return s.w.Write(p)
}

// barWriter writes a bar to a screen.
type barWriter struct{ *screen }

func (b barWriter) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drawn = true
	return b.w.Write(p)
}

// keep leaves the bar where it is: text goes on in the next line.
func (b barWriter) keep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn {
		b.drawn = false
		_, _ = io.WriteString(b.w, "\n")
	}
}

func isTerminal(w io.Writer) bool {
	if s, ok := w.(*screen); ok {
		w = s.w
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// barProgress draws one bar: crawling fills its first half, assembling the
// second.
type barProgress struct {
	screen *screen
	bar    *progressbar.ProgressBar
	failed bool
}

func (p *barProgress) update(d exportDetail) {
	if p.failed = failed(d); p.failed || d.Progress == nil || d.Progress.Phase == "" {
		return
	}
	done, total := int64(d.Progress.PagesDone), int64(d.Progress.PagesTotal)
	if d.Progress.Phase == events.PhaseAssembling || d.Status == statusSucceeded {
		done += total
	}
	if p.bar == nil {
		// A bar without a length would turn a wheel in a goroutine of its own.
		p.bar = progressbar.NewOptions64(max(2*total, 1),
			progressbar.OptionSetWriter(barWriter{p.screen}),
			progressbar.OptionSetWidth(32),
			progressbar.OptionThrottle(65*time.Millisecond),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░", BarStart: " ", BarEnd: " "}),
		)
	}
	if total > 0 && p.bar.GetMax64() != 2*total {
		p.bar.ChangeMax64(2 * total)
	}
	// A full bar is not drawn again, so the text goes first.
	p.bar.Describe(fmt.Sprintf("%-18s %11s rows", phaseName(d.Progress.Phase), thousands(d.Progress.Rows)))
	_ = p.bar.Set64(min(done, 2*total)) // drawing is all that can fail
}

func (p *barProgress) close() {
	if p.bar == nil {
		return
	}
	_ = p.bar.Exit()
	if p.failed {
		_, _ = p.screen.Write(nil) // the error takes the bar's place
		return
	}
	barWriter{p.screen}.keep()
}

// failed reports whether an export ended without a file. The phase of such a one is "done" too.
func failed(d exportDetail) bool { return d.Status != statusProcessing && d.Status != statusSucceeded }

// lineProgress writes a line when a phase begins, at each tenth of its pages,
// and every 10 s.
type lineProgress struct {
	w     io.Writer
	phase string
	tenth int
	told  time.Time
}

func (p *lineProgress) update(d exportDetail) {
	if failed(d) || d.Progress == nil || d.Progress.Phase == "" {
		return
	}
	tenth := 0
	if d.Progress.PagesTotal > 0 {
		tenth = d.Progress.PagesDone * 10 / d.Progress.PagesTotal
	}
	if d.Progress.Phase == p.phase && tenth <= p.tenth && time.Since(p.told) < 10*time.Second {
		return
	}
	p.phase, p.tenth, p.told = d.Progress.Phase, tenth, time.Now()
	pages := thousands(int64(d.Progress.PagesDone))
	if d.Progress.PagesTotal > 0 {
		pages += " of " + thousands(int64(d.Progress.PagesTotal))
	}
	fmt.Fprintf(p.w, "%s: %s pages, %s rows\n", phaseName(p.phase), pages, thousands(d.Progress.Rows))
}

func (*lineProgress) close() {}

func phaseName(phase string) string { return strings.ReplaceAll(phase, "_", " ") }

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
