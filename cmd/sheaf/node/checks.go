package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sheaf/services/ingress"
)

// checks returns what this process needs to work, for operators.
func (n *node) checks(ctx context.Context) []ingress.Check {
	if n.phase.Load() == phaseStarting {
		return []ingress.Check{ingress.RunCheck("start", func() error { return n.startup.reason() })}
	}
	list := []ingress.Check{
		ingress.RunCheck("nats", n.natsHealth),
		ingress.RunCheck("streams", func() error {
			asked, cancel := context.WithTimeout(ctx, quorumWait)
			defer cancel()
			return n.journal.Quorum(asked)
		}),
		ingress.RunCheck("secret-key", n.checkSecretKey),
		ingress.RunCheck("losses", n.losses),
	}
	if n.disk != nil {
		list = append(list, ingress.RunCheck("disk", func() error { return n.disk.room(0) }),
			ingress.RunCheck("data-folder", n.checkLock))
	}
	if n.keys != nil {
		list = append(list, ingress.RunCheck("keys-file", func() error { return readable(n.cfg.APIKeys) }))
	}
	if n.cert != nil {
		list = append(list, ingress.RunCheck("tls", n.checkCertificate))
	}
	return list
}

// allChecks returns the checks of the process and of its ingress.
func (n *node) allChecks(ctx context.Context) []ingress.Check {
	if in, ok := n.roles[roleIngress].(*ingress.Service); ok && n.phase.Load() == phaseWorking {
		return in.Checks(ctx)
	}
	list := n.checks(ctx)
	if n.phase.Load() == phaseStopping {
		list = append(list, ingress.RunCheck("draining", func() error { return errors.New("shutting down") }))
	}
	return list
}

// checkSecretKey returns an error if other users can read the secret key, or if it is gone: the next start
// would not find it.
func (n *node) checkSecretKey() error {
	file := n.cfg.SecretKeyFile
	if name, ok := strings.CutPrefix(n.cfg.SecretKey, "@"); ok {
		file = name
	} else if n.cfg.SecretKey != "" {
		return nil
	}
	if file == "" {
		file = filepath.Join(n.cfg.Data, keptKeyName)
	}
	info, err := os.Stat(file)
	if err != nil {
		return withoutPath(err)
	}
	if n.cfg.SecretKeyFile == "" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("other users can read it (mode %v); chmod 600 it", info.Mode().Perm())
	}
	return nil
}

// checkLock returns an error if the lock of the data folder is gone: a second process could use the folder.
func (n *node) checkLock() error {
	_, err := os.Stat(filepath.Join(n.cfg.Data, lockName))
	return withoutPath(err)
}

// checkCertificate returns an error once the certificate has expired.
func (n *node) checkCertificate() error {
	if leaf := n.cert.current.Load().Leaf; leaf != nil && time.Now().After(leaf.NotAfter) {
		return fmt.Errorf("the certificate expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}

func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return withoutPath(err)
	}
	return f.Close()
}

// withoutPath returns the cause of a file error.
func withoutPath(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// serveChecks answers /readyz?verbose: a line for each check, or JSON for a caller that accepts it.
func (n *node) serveChecks(w http.ResponseWriter, r *http.Request) {
	list := n.allChecks(r.Context())
	ready := !slices.ContainsFunc(list, func(c ingress.Check) bool { return !c.OK })
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "checks": list})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	for _, c := range list {
		mark := "[+]"
		if !c.OK {
			mark = "[-]"
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%s %-12s %8.3f ms  %s", mark, c.Name, c.Milliseconds, c.Reason), " "))
	}
	_, _ = fmt.Fprintln(w, map[bool]string{true: "ready", false: "not ready"}[ready])
}
