package filesource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"sheaf/services/ingress"
)

// Serve serves a handler as a source until stop is called. There is no authentication, so it accepts only its
// own host names, plus names. Otherwise any web site could read the source through a visitor's browser.
func Serve(listen string, h http.Handler, names ...string) (url string, stop func(), err error) {
	_, port, malformed := net.SplitHostPort(listen)
	if _, err := strconv.ParseUint(port, 10, 16); malformed != nil || err != nil {
		return "", nil, optionf("--listen %q: want HOST:PORT such as 127.0.0.1:8090", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", nil, fmt.Errorf("the source cannot listen (choose another --listen): %w", err)
	}
	own := ingress.OwnHosts(l.Addr(), names...)
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !own(r.Host) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(http.StatusMisdirectedRequest)
			msg := fmt.Sprintf("this source is not %.64q; ask it by its address, or name it with --host",
				r.Host)
			_ = json.NewEncoder(w).Encode(map[string]any{"errcode": http.StatusMisdirectedRequest,
				"msg": msg, "data": nil})
			return
		}
		h.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: guarded, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // returns only after stop
	}()
	return "http://" + l.Addr().String() + "/", func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if errors.Is(server.Shutdown(ctx), context.DeadlineExceeded) {
			_ = server.Close()
		}
		<-ended
	}, nil
}
