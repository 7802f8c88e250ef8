package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// minDownload is 1 KiB per second over 30 s.
	minDownload = 30 << 10
	// downloadAttempts is how often a download begins or resumes.
	downloadAttempts = 5
)

// Download writes the file of a finished export to w and returns the export. It resumes a broken transfer and
// compares the bytes with the SHA-256 of the file. After an error, discard what w received.
func (c *Client) Download(ctx context.Context, key string, w io.Writer) (*Export, error) {
	x, err := c.Detail(ctx, key)
	if err != nil {
		return nil, err
	}
	return x, c.Fetch(ctx, x, w)
}

// Fetch is Download for an export whose detail is known.
func (c *Client) Fetch(ctx context.Context, x *Export, w io.Writer) error {
	switch {
	case x.Status == Processing:
		return ErrUnfinished
	case x.Err() != nil:
		return x.Err()
	case x.DownURL == "" || len(x.Files) == 0:
		return fmt.Errorf("%w: %s", ErrGone, cmp.Or(OneLine(x.Reason), "it has expired"))
	}
	want, sum, got := x.Files[0], sha256.New(), int64(0)
	for attempt := 1; ; attempt++ {
		n, err := c.fetchFrom(ctx, x.DownURL, io.MultiWriter(w, sum), got, want.Size)
		got += n
		if err == nil {
			return checkFile(want, got, sum)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if attempt == downloadAttempts || (n == 0 && !temporary(err)) || errors.Is(err, ErrDamaged) {
			return err
		}
		if err := pause(ctx, time.Duration(attempt)*200*time.Millisecond); err != nil {
			return err
		}
	}
}

func checkFile(want File, size int64, sum hash.Hash) error {
	if size != want.Size {
		return fmt.Errorf("%w: it has %d bytes, the export %d", ErrDamaged, size, want.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.SHA256 != "" && got != want.SHA256 {
		return fmt.Errorf("%w: it has sha256 %s, the export %s", ErrDamaged, got, want.SHA256)
	}
	return nil
}

// link returns the address to download from. The signature of a link covers only its path, so a REST client
// asks the server that it knows: the public name may not be reachable from here.
func (c *Client) link(downURL string) (*url.URL, error) {
	u, err := url.Parse(downURL)
	if err != nil {
		return nil, fmt.Errorf("the link of the server: %w", bare(err))
	}
	if at := strings.Index(u.Path, "/v1/down/"); at >= 0 && c.base != nil {
		query := u.RawQuery
		u = c.base.JoinPath(u.Path[at:])
		u.RawQuery = query
	}
	return u, nil
}

// fetchFrom copies the file from an offset up to its size, and returns the number of bytes copied.
func (c *Client) fetchFrom(ctx context.Context, downURL string, w io.Writer, offset, size int64) (int64, error) {
	u, err := c.link(downURL)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Prefer", "no-redirect") // to the server of the file store: this client follows none
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		want = http.StatusPartialContent
	}
	res, err := do(c.files, req, &url.URL{Scheme: u.Scheme, Host: u.Host})
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		var answer struct {
			Errcode   int    `json:"errcode"`
			Msg       string `json:"msg"`
			RequestID string `json:"request_id"`
		}
		_ = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&answer) // a proxy may answer with other text
		return 0, newError(res.StatusCode, answer.Errcode, cmp.Or(answer.Msg, "the download failed"), answer.RequestID, 0)
	}
	tooLarge := fmt.Errorf("%w: it is larger than the export: %d bytes", ErrDamaged, size)
	if res.ContentLength > size-offset {
		return 0, tooLarge
	}
	body := &flow{r: io.LimitReader(res.Body, size-offset+1)}
	defer body.watch(c.bounds.idle, func() {
		cancel(fmt.Errorf("less than %d KiB came in %s", minDownload>>10, c.bounds.idle))
	})()
	n, err := io.Copy(w, body)
	switch {
	case err != nil:
		return n, fmt.Errorf("downloading: %w", cmp.Or(context.Cause(ctx), err))
	case n > size-offset:
		return n, tooLarge
	}
	return n, nil
}

// flow counts the bytes read.
type flow struct {
	r io.Reader
	n atomic.Int64
}

func (f *flow) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.n.Add(int64(n))
	return n, err
}

// watch calls stalled, once, when fewer than minDownload bytes arrived in a span of time. stop ends the
// check.
func (f *flow) watch(over time.Duration, stalled func()) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(over)
		defer tick.Stop()
		for before := int64(0); ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := f.n.Load()
			if now-before < minDownload {
				stalled()
				return
			}
			before = now
		}
	})
	return func() {
		close(done)
		ended.Wait()
	}
}
