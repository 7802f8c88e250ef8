package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// certificateEvery is how soon a renewed certificate is used.
const certificateEvery = 10 * time.Second

// certificate is the one that the ingress and the embedded NATS server show. It
// is read again when its files change, so a renewal needs no restart.
type certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
	seen              [2]fs.FileInfo
}

func openCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return c, nil
}

func (c *certificate) read() error {
	seen := c.stat()
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.seen = seen
	c.current.Store(&pair)
	return nil
}

func (c *certificate) stat() (infos [2]fs.FileInfo) {
	infos[0], _ = os.Stat(c.certFile)
	infos[1], _ = os.Stat(c.keyFile)
	return infos
}

// watch reads the files again when they change, until ctx ends. While they do not
// fit together, as in the middle of a renewal, the certificate before stays.
func (c *certificate) watch(ctx context.Context) error {
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed := false
		for i, info := range c.stat() {
			was := c.seen[i]
			changed = changed || info != nil && (was == nil || !os.SameFile(info, was) || !info.ModTime().Equal(was.ModTime()))
		}
		if !changed {
			continue
		}
		if err := c.read(); err != nil {
			slog.Warn("the TLS certificate cannot be read; the one before stays", "file", c.certFile, "error", err)
			continue
		}
		slog.Info("TLS certificate read", "file", c.certFile)
	}
}

// config is for servers: TLS 1.2 or newer, with what Go holds to be safe.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// tlsListener speaks TLS on the connections of a listener whose deadline can
// still be set. The handshake is left to whoever serves the connection.
type tlsListener struct {
	*net.TCPListener
	config *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(conn, l.config), nil
}
