package ingress

import (
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// envelope is the shape of every answer. Data is null after a failure.
type envelope struct {
	Errcode   int    `json:"errcode"`
	Msg       string `json:"msg"`
	Data      any    `json:"data"`
	RequestID string `json:"request_id"`
}

// seal encodes the answer of an operation. It also returns the caller's form of the error, nil after a
// success.
func seal(data any, err error, requestID string) ([]byte, *apiError) {
	var failure *apiError
	e := envelope{Data: data, RequestID: requestID}
	if err != nil {
		failure = asAPIError(err)
		e.Errcode, e.Msg, e.Data = failure.Errcode, failure.Msg, nil
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // links hold "&"
	if err := enc.Encode(e); err != nil {
		failure = internal(err)
		return []byte(`{"errcode":500,"msg":"internal error","data":null,"request_id":` + strconv.Quote(requestID) + "}\n"), failure
	}
	return []byte(b.String()), failure
}

// respond writes the answer of an operation.
func respond(w http.ResponseWriter, r *http.Request, data any, err error) {
	body, failure := seal(data, err, requestID(r))
	respondSealed(w, r, body, failure)
}

// respondSealed writes the result of seal.
func respondSealed(w http.ResponseWriter, r *http.Request, body []byte, failure *apiError) {
	status := http.StatusOK
	h := w.Header()
	if failure != nil {
		status = failure.Status
		if failure.RetryAfter > 0 {
			h.Set("Retry-After", retryAfter(failure))
		}
		l := lineOf(r)
		l.errcode = failure.Errcode
		logFailure(r.Context(), l.logger(), failure)
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="sheaf"`)
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error means that the caller has disconnected
}

// retryAfter returns the value of the Retry-After header, in seconds.
func retryAfter(failure *apiError) string {
	return strconv.Itoa(int(math.Ceil(failure.RetryAfter.Seconds())))
}

// requestIDHeaders name the headers with a caller's request id. B3 tracing sends the first, and callers have
// always used it.
var requestIDHeaders = []string{"x-b3-traceid", "X-Request-Id"}

var saneID = regexp.MustCompile(`^[A-Za-z0-9._:/+=@~,-]{1,128}$`)

// chooseRequestID returns the caller's id if it is valid in a log and a header. Otherwise it makes one. get
// reads a header by name.
func chooseRequestID(get func(name string) string) string {
	for _, name := range requestIDHeaders {
		if id := get(name); saneID.MatchString(id) {
			return id
		}
	}
	return uuid.NewString()
}

// log returns the log of one request.
func (s *Service) log(requestID string) *slog.Logger { return s.cfg.Log.With("request_id", requestID) }

// line is the log line of a request, for every transport.
type line struct {
	log     *slog.Logger // the service's log
	id      string
	tenant  string // "" until known
	caller  string // id of its API key; "" without one, and by NATS
	key     string // of the export that was made or named; "" for none
	errcode int    // of the answer; 0 for a success
	trace   string // its trace id; "" if it is not traced
}

func (l *line) logger() *slog.Logger {
	log := l.log.With("request_id", l.id, "tenant", l.tenant, "key_id", l.caller, "hash_key", l.key, "errcode", l.errcode)
	if l.trace != "" {
		log = log.With("trace_id", l.trace)
	}
	return log
}
