// Package callback receives the callbacks of exports.
//
//	receiver, err := callback.New(secret) // of sheaf callback-secret
//	http.Handle("/done", receiver.Handler(func(ctx context.Context, c *callback.Callback) error {
//		fmt.Println(c.Log.Title, c.Event, c.DownURL)
//		return nil
//	}))
//
// Callbacks are signed according to Standard Webhooks. A receiver can get one more than once, with the same ID.
package callback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Values of Callback.Event.
const (
	Completed = "export.completed"
	Failed    = "export.failed"
	Cancelled = "export.cancelled"
)

// Callback says how an export has ended.
type Callback struct {
	ID     string    `json:"-"` // webhook-id: the same for every attempt; "" if it came by NATS
	SentAt time.Time `json:"-"` // webhook-timestamp of the attempt

	Event     string `json:"event"`                // Completed, Failed or Cancelled
	Log       Log    `json:"log"`                  // the export
	File      File   `json:"file"`                 // zero unless it completed
	DownURL   string `json:"down_url"`             // signed link to the file; "" without one
	ErrorCode string `json:"error_code,omitempty"` // of a failed export
}

// Log is the export.
type Log struct {
	ID         uint64    `json:"id"`
	HashKey    string    `json:"hash_key"`
	Title      string    `json:"title"`
	ExtType    string    `json:"ext_type"`
	SourceType string    `json:"source_type"`
	Param      string    `json:"param"` // the source as JSON text, without headers
	UserID     string    `json:"user_id"`
	Callback   string    `json:"callback"`
	Status     int       `json:"status"` // 2 succeeded, 3 failed, 4 cancelled
	FailReason string    `json:"fail_reason"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"` // when it ended
}

// File is the finished file.
type File struct {
	ID       uint64    `json:"id"`
	HashKey  string    `json:"hash_key"`
	Path     string    `json:"path"` // the part of the link after /v1/down/
	Type     string    `json:"type"`
	CreateAt time.Time `json:"create_at"`
	UpdateAt time.Time `json:"update_at"`
}

// MaxBody bounds the body of a callback, in bytes. The parameters of the source are most of it.
const MaxBody = 4 << 20

// ErrBody is a body that is not the callback of an export.
var ErrBody = errors.New("the body is not the callback of an export")

// Receiver verifies callbacks. It is safe for concurrent use.
type Receiver struct {
	keys []*standardwebhooks.Webhook
}

// New returns a receiver that accepts what one of the secrets has signed. Each is a whsec_ text of sheaf
// callback-secret. More than one is needed while the secret key of the server is rotated.
func New(secrets ...string) (*Receiver, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no secret to verify callbacks with; sheaf callback-secret prints it")
	}
	r := &Receiver{}
	for _, secret := range secrets {
		key, err := standardwebhooks.NewWebhook(secret)
		if err != nil || secret == "" {
			return nil, errors.New("the secret is not one of sheaf callback-secret, which begins with whsec_")
		}
		r.keys = append(r.keys, key)
	}
	return r, nil
}

// Verify checks the signature and the age of a callback, at most 5 minutes, and reads it.
func (r *Receiver) Verify(header http.Header, body []byte) (*Callback, error) {
	var err error
	for _, key := range r.keys {
		if err = key.Verify(body, header); err == nil {
			return read(header, body)
		}
	}
	return nil, err
}

// Read reads a callback that came by NATS, where permissions guard its subject instead of a signature.
func Read(body []byte) (*Callback, error) { return read(http.Header{}, body) }

func read(header http.Header, body []byte) (*Callback, error) {
	var c Callback
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	if c.Event == "" || c.Log.HashKey == "" {
		return nil, ErrBody
	}
	c.ID = header.Get(standardwebhooks.HeaderWebhookID)
	if seconds, err := json.Number(header.Get(standardwebhooks.HeaderWebhookTimestamp)).Int64(); err == nil {
		c.SentAt = time.Unix(seconds, 0)
	}
	return &c, nil
}

// Handler serves callbacks. It answers 204 once do has returned nil, and 500 after an error, so that the server
// sends the callback again. A callback that is not signed by a secret gets 401.
//
// do may be called more than once for one callback: remember its ID.
func (r *Receiver) Handler(do func(ctx context.Context, c *Callback) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "want POST", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, MaxBody))
		if err != nil {
			http.Error(w, "the body cannot be read", http.StatusBadRequest)
			return
		}
		c, err := r.Verify(req.Header, body)
		switch {
		case errors.Is(err, ErrBody):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case err != nil:
			http.Error(w, "the signature is not valid", http.StatusUnauthorized)
		case do(req.Context(), c) != nil:
			http.Error(w, "try again", http.StatusInternalServerError)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
}
