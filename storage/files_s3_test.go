package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

const (
	s3TestURL    = "s3://sheaf-test/some/prefix"
	s3TestKey    = "AKIATESTKEY"
	s3TestSecret = "sehr-geheim-und-lang"
)

// s3Server is a server for tests, and how to reach it.
type s3Server struct {
	S3
	raw     minio.Core // as another program uses the bucket
	restart func()     // kills and starts versitygw
}

// startS3 runs a server in this process, behind a handler that a test may put in front of it.
func startS3(t *testing.T, front func(http.Handler) http.Handler, options ...gofakes3.Option) *s3Server {
	t.Helper()
	handler := gofakes3.New(s3mem.New(), options...).Server()
	if front != nil {
		handler = front(handler)
	}
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return useS3(t, srv.URL)
}

// useS3 makes the bucket of the tests on a server.
func useS3(t *testing.T, endpoint string) *s3Server {
	t.Helper()
	folder := t.TempDir()
	cfg := S3{Endpoint: endpoint, PathStyle: true, AccessKeyFile: filepath.Join(folder, "id"),
		SecretKeyFile: filepath.Join(folder, "secret")}
	require.NoError(t, os.WriteFile(cfg.AccessKeyFile, []byte(s3TestKey+"\n"), 0o600))
	require.NoError(t, os.WriteFile(cfg.SecretKeyFile, []byte(s3TestSecret+"\n"), 0o600))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	raw, err := minio.NewCore(strings.TrimPrefix(endpoint, "http://"), &minio.Options{Region: defaultS3Region,
		Creds: credentials.NewStaticV4(s3TestKey, s3TestSecret, ""), Transport: transport,
		BucketLookup: minio.BucketLookupPath})
	require.NoError(t, err)
	require.NoError(t, raw.MakeBucket(t.Context(), "sheaf-test", minio.MakeBucketOptions{}))
	return &s3Server{S3: cfg, raw: *raw}
}

func (s *s3Server) open(t *testing.T) *S3Files {
	t.Helper()
	files, err := OpenFiles(t.Context(), s3TestURL, FilesConfig{DataDir: t.TempDir(), S3: s.S3})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	return files.(*S3Files)
}

// uploads returns the number of unfinished uploads in parts.
func (s *s3Server) uploads(t *testing.T) int {
	t.Helper()
	list, err := s.raw.ListMultipartUploads(t.Context(), "sheaf-test", "", "", "", "", 1000)
	require.NoError(t, err)
	return len(list.Uploads)
}

// startVersitygw runs a real server, which .ci/s3 installs. The test is skipped without it.
func startVersitygw(t *testing.T) *s3Server {
	t.Helper()
	installed := os.Getenv("SHEAF_S3_SERVERS")
	if installed == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		installed = filepath.Join(home, ".cache", "sheaf-s3")
	}
	program := filepath.Join(installed, "versitygw")
	if _, err := os.Stat(program); err != nil {
		t.Skip("versitygw is not installed; .ci/s3 installs it")
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(eventstest.FreePort()))
	folder := t.TempDir()
	kill := func() {}
	restart := func() {
		kill()
		ctx, stop := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, program, "--port", address, "--quiet", "posix", folder)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3TestKey, "ROOT_SECRET_KEY="+s3TestSecret)
		require.NoError(t, cmd.Start())
		kill = sync.OnceFunc(func() { stop(); _ = cmd.Wait() })
	}
	t.Cleanup(func() { kill() })
	restart()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	server := useS3(t, "http://"+address)
	server.restart = restart
	return server
}

// A real server that is killed while a file goes up and starts again loses nothing that was committed, and
// the file that it interrupted is whole in the end.
func TestS3ServerIsKilled(t *testing.T) {
	t.Parallel()
	eventstest.LongRunning(t)
	server := startVersitygw(t)
	var parts atomic.Int32
	to := &url.URL{Scheme: "http", Host: strings.TrimPrefix(server.Endpoint, "http://")}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	through := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isPart(r) && parts.Add(1) == 6 { // within the part
			r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 1<<20), killer(server.restart), r.Body))
		}
		proxy.ServeHTTP(w, r)
	}))
	defer through.Close()
	files := server.open(t)
	before, content := noise(50, 1000), noise(51, 10*s3Part+5)
	put(t, files, "default/before.zip", before)

	server.Endpoint = through.URL
	sending := server.open(t)
	d := draft(t, sending, content)
	err := sending.Commit(t.Context(), d, name)
	for range 5 { // the parts that it had may be gone
		if err == nil {
			break
		}
		t.Log(err)
		err = sending.Commit(t.Context(), d, name)
	}
	require.NoError(t, err)
	require.Greater(t, parts.Load(), int32(10))
	require.True(t, bytes.Equal(content, get(t, files, name)))
	require.True(t, bytes.Equal(before, get(t, files, "default/before.zip")))
	_, err = files.Sweep(t.Context(), func(string) bool { return true }, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, server.uploads(t))
}

// killer is a reader that ends at once, after a call.
type killer func()

func (k killer) Read([]byte) (int, error) { k(); return 0, io.EOF }

// Refusals of a real server get the same advice as those of the table.
func TestVersitygwRefuses(t *testing.T) {
	t.Parallel()
	server := startVersitygw(t)
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	for refusal, c := range map[string]struct {
		url    string
		change func(*S3)
		want   string
	}{
		"no such bucket": {"s3://another", func(*S3) {}, "the bucket another is not at"},
		"unknown key":    {s3TestURL, func(c *S3) { c.AccessKeyFile = write("AKIAANOTHER") }, "check AWS_ACCESS_KEY_ID"},
		"wrong secret":   {s3TestURL, func(c *S3) { c.SecretKeyFile = write("another secret") }, "check AWS_ACCESS_KEY_ID"},
		"another region": {s3TestURL, func(c *S3) { c.Region = "eu-west-1" }, "give --s3-region"},
	} {
		cfg := server.S3
		c.change(&cfg)
		_, err := OpenFiles(t.Context(), c.url, FilesConfig{DataDir: t.TempDir(), S3: cfg})
		require.ErrorContains(t, err, c.want, refusal)
		require.ErrorContains(t, ProbeS3(t.Context(), c.url, cfg), c.want, refusal)
	}
	require.NoError(t, ProbeS3(t.Context(), s3TestURL, server.S3))
}

// strict stands for the servers and proxies that refuse what AWS alone understands.
func strict(t *testing.T) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sum := r.Header.Get("X-Amz-Content-Sha256")
			for header, wrong := range map[string]bool{
				"aws-chunked":       strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked"),
				"a streamed sum":    strings.HasPrefix(sum, "STREAMING-"),
				"a trailer":         r.Header.Get("X-Amz-Trailer") != "" || len(r.Trailer) > 0,
				"no length":         r.ContentLength < 0,
				"an unsigned body":  r.ContentLength > 0 && len(sum) != 64,
				"deletes in bulk":   r.Method == http.MethodPost && r.URL.Query().Has("delete"),
				"a condition":       r.Method != http.MethodGet && r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != "",
				"a newer algorithm": r.Header.Get("X-Amz-Sdk-Checksum-Algorithm") != "" || hasPrefix(r.Header, "X-Amz-Checksum-"),
			} {
				if wrong {
					t.Errorf("%s %s has %s", r.Method, r.URL, header)
					http.Error(w, "not implemented", http.StatusNotImplemented)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

func hasPrefix(h http.Header, prefix string) bool {
	for name := range h {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// cut closes a connection without an answer.
func cut() { panic(http.ErrAbortHandler) }

// isPart reports whether a request stores a part.
func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

// isFile reports whether a request concerns the file of the tests.
func isFile(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, name) }

// hurts are faults of servers and networks that Commit and reads ride out.
var hurts = map[string]func(next http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool{
	"503 SlowDown": func(_ http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if !isFile(r) || times.Add(1)%3 != 0 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
		return true
	},
	"500 in XML": func(_ http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if !isFile(r) || times.Add(1)%3 != 0 {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>`)
		return true
	},
	"a connection that breaks within a part": func(_ http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if !isPart(r) || times.Add(1) > 2 {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		cut()
		return true
	},
	"a lost answer to a part": func(next http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if !isPart(r) || times.Add(1) != 1 {
			return false
		}
		next.ServeHTTP(httptest.NewRecorder(), r)
		cut()
		return true
	},
	"a lost answer to the last request": func(next http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") || times.Add(1) != 1 {
			return false
		}
		next.ServeHTTP(httptest.NewRecorder(), r)
		cut()
		return true
	},
	"a download that breaks": func(next http.Handler, times *atomic.Int32, w http.ResponseWriter, r *http.Request) bool {
		if !isFile(r) || r.Method != http.MethodGet || times.Add(1)%2 == 0 {
			return false
		}
		whole := httptest.NewRecorder()
		next.ServeHTTP(whole, r)
		for header, values := range whole.Header() {
			w.Header()[header] = values
		}
		w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
		w.WriteHeader(whole.Code)
		_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		cut()
		return true
	},
}

// Faults that pass are repeated, and the file is whole.
func TestS3RidesOutFaults(t *testing.T) {
	t.Parallel()
	for fault, hurt := range hurts {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			var times atomic.Int32
			server := startS3(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !hurt(next, &times, w, r) {
						next.ServeHTTP(w, r)
					}
				})
			})
			files, content := server.open(t), noise(40, s3Part+maxChunk+3)
			put(t, files, name, content)
			require.True(t, bytes.Equal(content, get(t, files, name)))
			require.Positive(t, times.Load(), "the fault has happened")
			require.Zero(t, server.uploads(t))
			require.NoError(t, files.Delete(t.Context(), name))
		})
	}
}

// A server that dies within a part fails the commit. The draft is unchanged, nothing of it is visible, and the
// parts are aborted later.
func TestS3ServerDiesWithinAPart(t *testing.T) {
	t.Parallel()
	var dead, died atomic.Bool
	server := startS3(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isPart(r) && r.URL.Query().Get("partNumber") == "2" && died.CompareAndSwap(false, true) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				dead.Store(true)
			}
			if dead.Load() {
				cut()
			}
			next.ServeHTTP(w, r)
		})
	})
	files, content := server.open(t), noise(41, 2*s3Part+1)
	d := draft(t, files, content)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // not all repetitions
	defer cancel()
	require.Error(t, files.Commit(ctx, d, name))
	require.True(t, died.Load())

	dead.Store(false)
	absentFile(t, files, name)
	require.Equal(t, 1, server.uploads(t))
	require.NoError(t, files.Commit(t.Context(), d, name))
	require.True(t, bytes.Equal(content, get(t, files, name)))
	keep := func(string) bool { return true }
	removed, err := files.Sweep(t.Context(), keep, time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Zero(t, removed, "perhaps still being committed")
	removed, err = files.Sweep(t.Context(), keep, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Zero(t, server.uploads(t))
	require.True(t, bytes.Equal(content, get(t, files, name)))
}

// Bytes that the server stored wrongly are noticed before Commit succeeds, and are removed.
func TestS3ReadsBackWhatItStored(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, s3Part + 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			var wrong atomic.Bool
			wrong.Store(true)
			server := startS3(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if wrong.Load() && isFile(r) && r.Method == http.MethodPut && r.ContentLength > 0 {
						body, _ := io.ReadAll(r.Body)
						body[len(body)/2] ^= 1
						r.Body = io.NopCloser(bytes.NewReader(body))
					}
					next.ServeHTTP(w, r)
				})
			})
			files, content := server.open(t), noise(42, size)
			d := draft(t, files, content)
			require.ErrorContains(t, files.Commit(t.Context(), d, name), "read back")
			absentFile(t, files, name)
			wrong.Store(false)
			require.NoError(t, files.Commit(t.Context(), d, name))
			require.True(t, bytes.Equal(content, get(t, files, name)))
		})
	}
}

// Everything that Sheaf sends is understood by servers that know no newer checksums.
func TestS3UsesWhatAllServersShare(t *testing.T) {
	t.Parallel()
	server := startS3(t, strict(t))
	require.NoError(t, ProbeS3(t.Context(), s3TestURL, server.S3))
	files := server.open(t)
	require.True(t, files.Made(), "the probe has not made it")
	for _, size := range []int{0, 1, s3Part, 2*s3Part + 1} {
		put(t, files, name, noise(43, size))
		require.Len(t, get(t, files, name), size)
		require.NoError(t, files.Delete(t.Context(), name))
	}
	put(t, files, "default/orphan.zip", nil)
	_, err := files.Sweep(t.Context(), func(string) bool { return false }, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.NoError(t, files.Accept())
}

// A search for orphans reads all pages of both listings, and leaves what is not a file of the store.
func TestS3SweepReadsAllPages(t *testing.T) {
	t.Parallel()
	const many = s3Page + 3
	server := startS3(t, nil)
	files := server.open(t)
	stored := func(key string) {
		_, err := server.raw.PutObject(t.Context(), "sheaf-test", key, strings.NewReader("x"), 1, "", "",
			minio.PutObjectOptions{DisableContentSha256: true})
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < many; i += 8 {
				stored(fmt.Sprintf("some/prefix/default/%04d.zip", i))
				_, err := server.raw.NewMultipartUpload(t.Context(), "sheaf-test",
					fmt.Sprintf("some/prefix/default/%04d.zip", i), minio.PutObjectOptions{})
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	foreign := []string{"some/prefixed.zip", "other/a.zip", "some/prefix/README.md", "some/prefix/.hidden/a"}
	for _, key := range foreign {
		stored(key)
	}
	_, err := server.raw.NewMultipartUpload(t.Context(), "sheaf-test", "other/a.zip", minio.PutObjectOptions{})
	require.NoError(t, err)

	kept := "default/0500.zip"
	removed, err := files.Sweep(t.Context(), func(name string) bool { return name == kept },
		time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 2*many-1, removed)
	require.Equal(t, "x", string(get(t, files, kept)))
	require.Equal(t, 1, server.uploads(t), "that of another program")
	for _, key := range append(foreign, "some/prefix/"+markerName) {
		_, err := server.raw.StatObject(t.Context(), "sheaf-test", key, minio.StatObjectOptions{})
		require.NoError(t, err, key)
	}
}

// A bucket that is gone, emptied or replaced is no proof that a file is lost.
func TestS3StoreThatIsGone(t *testing.T) {
	t.Parallel()
	server := startS3(t, nil)
	files := server.open(t)
	require.True(t, files.Made())
	require.True(t, server.open(t).Made(), "not accepted yet")
	require.NoError(t, files.Accept())
	require.False(t, server.open(t).Made())
	put(t, files, name, []byte("x"))
	f, err := files.Open(t.Context(), name)
	require.NoError(t, err)

	for _, key := range []string{name, markerName} {
		require.NoError(t, server.raw.RemoveObject(t.Context(), "sheaf-test", "some/prefix/"+key, minio.RemoveObjectOptions{}))
	}
	gone := func() {
		t.Helper()
		require.ErrorIs(t, files.Check(t.Context()), ErrNoStore)
		_, err := files.Open(t.Context(), name)
		require.ErrorIs(t, err, ErrNoStore)
		require.False(t, IsLost(err))
		require.ErrorIs(t, files.Commit(t.Context(), draft(t, files, nil), name), ErrNoStore)
	}
	gone()
	_, err = io.ReadAll(f)
	require.ErrorIs(t, err, ErrNoStore)
	require.NoError(t, f.Close())
	require.NoError(t, server.raw.RemoveBucket(t.Context(), "sheaf-test"))
	gone()
	_, err = OpenFiles(t.Context(), s3TestURL, FilesConfig{DataDir: t.TempDir(), S3: server.S3})
	require.ErrorContains(t, err, "the bucket sheaf-test is not at")
}

// Each refusal at the start says what to do, and no error repeats the secret.
func TestS3RefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	refuse := func(status int, code, more string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && strings.Count(r.URL.Path, "/") < 3 { // makes the bucket
					next.ServeHTTP(w, r)
					return
				}
				w.WriteHeader(status)
				_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message>%s</Error>", code, more)
			})
		}
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	for refusal, c := range map[string]struct {
		front   func(http.Handler) http.Handler
		options []gofakes3.Option
		change  func(*S3)
		url     string
		want    string
	}{
		"no such bucket": {url: "s3://another", want: "the bucket another is not at http://"},
		"access denied": {front: refuse(403, "AccessDenied", ""),
			want: "may not use the bucket sheaf-test: allow s3:ListBucket"},
		"unknown key":  {front: refuse(403, "InvalidAccessKeyId", ""), want: "check AWS_ACCESS_KEY_ID"},
		"wrong secret": {front: refuse(403, "SignatureDoesNotMatch", ""), want: "check AWS_ACCESS_KEY_ID"},
		"another region": {front: refuse(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
			want: "give --s3-region eu-west-1"},
		"path style":       {front: refuse(403, "SecondLevelDomainForbidden", ""), want: "remove --s3-path-style"},
		"another endpoint": {front: refuse(301, "PermanentRedirect", ""), want: "give --s3-region REGION, and --s3-endpoint"},
		"a clock 20 minutes off": {options: []gofakes3.Option{gofakes3.WithTimeSource(gofakes3.FixedTimeSource(time.Now().Add(20 * time.Minute)))},
			want: "set their clocks by NTP"},
		"nothing listens": {change: func(c *S3) { c.Endpoint = closed.URL }, want: "no S3 server answers at http://"},
		"https to http": {change: func(c *S3) { c.Endpoint = strings.Replace(c.Endpoint, "http", "https", 1) },
			want: "speaks http, not https"},
		"http to https": {change: func(c *S3) { c.Endpoint = strings.Replace(tls.URL, "https", "http", 1) },
			want: "refuses a request"},
		"unknown name":   {change: func(c *S3) { c.Endpoint = "http://s3.invalid" }, want: "check --s3-endpoint"},
		"no key file":    {change: func(c *S3) { c.SecretKeyFile = "/no/such" }, want: "/no/such"},
		"empty key file": {change: func(c *S3) { c.SecretKeyFile = os.DevNull }, want: "is empty"},
	} {
		t.Run(refusal, func(t *testing.T) {
			t.Parallel()
			server := startS3(t, c.front)
			if c.options != nil {
				server.Endpoint = startS3Bare(t, c.options...)
			}
			if c.change != nil {
				c.change(&server.S3)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if c.url == "" {
				c.url = s3TestURL
			}
			_, err := OpenFiles(ctx, c.url, FilesConfig{DataDir: t.TempDir(), S3: server.S3})
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), s3TestSecret)
			t.Log(err)
		})
	}
}

// startS3Bare runs a server without a bucket.
func startS3Bare(t *testing.T, options ...gofakes3.Option) string {
	t.Helper()
	srv := httptest.NewServer(gofakes3.New(s3mem.New(), options...).Server())
	t.Cleanup(srv.Close)
	return srv.URL
}

// A signed link gives ranges and the name in Chinese, and ends in time.
func TestS3Link(t *testing.T) {
	t.Parallel()
	for server, start := range map[string]func(*testing.T) *s3Server{
		"versitygw": startVersitygw,
		"gofakes3":  func(t *testing.T) *s3Server { return startS3(t, nil) },
	} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			files, content := start(t).open(t), noise(44, 1000)
			put(t, files, name, content)
			const disposition = "attachment; filename=\"订单.zip\"; filename*=UTF-8''%E8%AE%A2%E5%8D%95.zip"
			fetch := func(link, ranges string) (status int, header http.Header, body []byte) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
				require.NoError(t, err)
				if ranges != "" {
					r.Header.Set("Range", ranges)
				}
				resp, err := http.DefaultClient.Do(r)
				require.NoError(t, err)
				defer func() { require.NoError(t, resp.Body.Close()) }()
				body, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
				return resp.StatusCode, resp.Header, body
			}
			link, err := files.Link(t.Context(), name, time.Now().Add(time.Hour), "application/zip", disposition)
			require.NoError(t, err)
			require.NotContains(t, link, s3TestSecret)
			status, header, body := fetch(link, "")
			require.Equal(t, http.StatusOK, status)
			require.True(t, bytes.Equal(content, body))
			require.Equal(t, disposition, header.Get("Content-Disposition"))
			require.Equal(t, "application/zip", header.Get("Content-Type"))
			status, _, body = fetch(link, "bytes=10-19")
			require.Equal(t, http.StatusPartialContent, status)
			require.True(t, bytes.Equal(content[10:20], body))

			link, err = files.Link(t.Context(), name, time.Now().Add(2500*time.Millisecond), "application/zip", disposition)
			require.NoError(t, err)
			require.Contains(t, link, "X-Amz-Expires=2&")
			_, err = files.Link(t.Context(), name, time.Now(), "application/zip", disposition)
			require.Error(t, err, "a link cannot end before it begins")
			far, err := files.Link(t.Context(), name, time.Now().Add(1000*time.Hour), "application/zip", disposition)
			require.NoError(t, err)
			require.Contains(t, far, "X-Amz-Expires=3600&")
			if server == "versitygw" { // the other one checks no signature
				require.Eventually(t, func() bool {
					status, _, _ := fetch(link, "")
					return status == http.StatusForbidden
				}, 20*time.Second, 100*time.Millisecond)
			}
		})
	}
}

// Keys in files may be replaced while Sheaf runs.
func TestS3KeyFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	cfg := useS3(t, startS3Bare(t)).S3
	keys := cfg.keys().(*s3KeyFiles)
	value, err := keys.RetrieveWithCredContext(nil)
	require.NoError(t, err)
	require.Equal(t, s3TestSecret, value.SecretAccessKey)
	require.False(t, keys.IsExpired())
	keys.CurrentTime = func() time.Time { return time.Now().Add(s3KeyAge) }
	require.True(t, keys.IsExpired())
	require.NoError(t, os.WriteFile(cfg.SecretKeyFile, []byte("another"), 0o600))
	value, err = keys.RetrieveWithCredContext(nil)
	require.NoError(t, err)
	require.Equal(t, "another", value.SecretAccessKey)
}

// Keys that are gone prove nothing about a file or the store.
func TestS3KeysThatAreGone(t *testing.T) {
	t.Parallel()
	server := startS3(t, nil)
	put(t, server.open(t), name, []byte("x"))
	files, err := newS3Files(s3TestURL, server.S3)
	require.NoError(t, err)
	defer files.closeIdle()
	require.NoError(t, os.Remove(server.SecretKeyFile))
	_, err = files.Open(t.Context(), name)
	for _, err := range []error{err, files.Delete(t.Context(), name), files.Check(t.Context())} {
		require.ErrorContains(t, err, "keys of the S3 server")
		require.False(t, IsLost(err))
		require.NotErrorIs(t, err, ErrNoFile)
		require.NotErrorIs(t, err, ErrNoStore)
	}
}

func TestS3KeysOfTheEnvironment(t *testing.T) {
	server := startS3(t, nil)
	server.AccessKeyFile, server.SecretKeyFile = "", ""
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "")
	_, err := OpenFiles(t.Context(), s3TestURL, FilesConfig{DataDir: t.TempDir(), S3: server.S3})
	require.ErrorContains(t, err, "set AWS_ACCESS_KEY_ID")
	t.Setenv("AWS_ACCESS_KEY_ID", s3TestKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3TestSecret)
	put(t, server.open(t), name, []byte("x"))
}

func TestParseS3URL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][2]string{
		"s3://bucket": {"bucket", ""}, "s3://bucket/": {"bucket", ""}, "s3://b-1.x/a/B_c.d/": {"b-1.x", "a/B_c.d"},
	} {
		bucket, prefix, err := ParseS3URL(url)
		require.NoError(t, err, url)
		require.Equal(t, want, [2]string{bucket, prefix}, url)
	}
	for _, url := range []string{"", "s3://", "s3:///a", "s3://ab", "s3://Bucket", "s3://bucket/../x", "s3://bucket//x",
		"s3://bucket/.x", "s3://key:secret@bucket", "s3://bucket/a b", "s3://bucket/" + strings.Repeat("a", 513)} {
		_, _, err := ParseS3URL(url)
		require.ErrorContains(t, err, "want s3://BUCKET/PREFIX", url)
	}
}
