package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"sheaf/events"
	"sheaf/events/client"
)

// progress shows how far an export is.
type progress interface {
	update(*client.Export)
	close()
}

// newProgress draws a bar on a terminal and writes a line now and then
// elsewhere.
func newProgress(std stdio) progress {
	if s, ok := std.err.(*screen); ok && isTerminal(s) {
		return &barProgress{std: std, screen: s}
	}
	return &lineProgress{std: std}
}

// screen is stderr. It separates a progress bar from all other text: it erases the bar before a text and
// draws it again below.
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

// keep leaves the bar on screen: text continues in the next line.
func (b barWriter) keep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn {
		b.drawn = false
		_, _ = io.WriteString(b.w, "\n")
	}
}

func isTerminal(w io.Writer) bool {
	switch wrapped := w.(type) {
	case *screen:
		w = wrapped.w
	case *noted:
		w = wrapped.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// barProgress draws one bar: crawling fills its first half, assembling the
// second.
type barProgress struct {
	std    stdio
	screen *screen
	begun  time.Time // zero before the bar is drawn
	last   *client.Export
	drawn  time.Time
}

func (p *barProgress) update(d *client.Export) {
	if p.last = d; failed(d) || d.Progress == nil || d.Progress.Phase == "" {
		return
	}
	if d.Status != client.Processing || time.Since(p.drawn) > 65*time.Millisecond {
		p.draw(d)
	}
}

func (p *barProgress) draw(d *client.Export) {
	p.drawn = time.Now()
	if p.begun.IsZero() {
		p.begun = p.drawn
	}
	const width = 32
	done, all := d.Progress.PagesDone, max(2*d.Progress.PagesTotal, 1)
	if d.Progress.Phase == events.PhaseAssembling || d.Status == client.Succeeded {
		done += d.Progress.PagesTotal
	}
	done = min(done, all)
	full := width * done / all
	_, _ = fmt.Fprintf(barWriter{p.screen}, clearLine+"%-18s %11s rows  %3d%% %s%s  %s", phaseName(d.Progress.Phase), thousands(d.Progress.Rows),
		100*done/all, strings.Repeat("█", full), strings.Repeat("░", width-full), p.drawn.Sub(p.begun).Round(time.Second).String()+p.std.until(d))
}

func (p *barProgress) close() {
	switch {
	case p.begun.IsZero():
	case p.last != nil && failed(p.last):
		_, _ = p.screen.Write(nil) // the error replaces the bar
	default:
		barWriter{p.screen}.keep()
	}
}

// failed reports whether an export ended without a file. The phase of such an export is "done" too.
func failed(d *client.Export) bool {
	return d.Status != client.Processing && d.Status != client.Succeeded
}

// lineProgress writes a line when a phase begins, at each tenth of its pages, and every 10 s.
type lineProgress struct {
	std      stdio
	phase    string
	tenth    int
	reported time.Time
}

func (p *lineProgress) update(d *client.Export) {
	if failed(d) || d.Progress == nil || d.Progress.Phase == "" {
		return
	}
	tenth := 0
	if d.Progress.PagesTotal > 0 {
		tenth = d.Progress.PagesDone * 10 / d.Progress.PagesTotal
	}
	if d.Progress.Phase == p.phase && tenth <= p.tenth && time.Since(p.reported) < 10*time.Second {
		return
	}
	p.phase, p.tenth, p.reported = d.Progress.Phase, tenth, time.Now()
	pages := thousands(int64(d.Progress.PagesDone))
	if d.Progress.PagesTotal > 0 {
		pages += " of " + thousands(int64(d.Progress.PagesTotal))
	}
	fmt.Fprintf(p.std.err, "%s: %s pages, %s rows\n", phaseName(p.phase)+p.std.until(d), pages, thousands(d.Progress.Rows))
}

func (*lineProgress) close() {}

func phaseName(phase string) string { return strings.ReplaceAll(phase, "_", " ") }

// until is when a pause ends that the source asked for, such as " until 15:04:05", "" without one.
func (std stdio) until(d *client.Export) string {
	if d.Progress == nil || d.Progress.Until.IsZero() {
		return ""
	}
	return " until " + std.local(d.Progress.Until).Format(time.TimeOnly)
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
