package node

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// certificate is the certificate of the ingress and the embedded NATS server.
type certificate struct {
	*watchedFiles
	current atomic.Pointer[tls.Certificate]
}

func openCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{}
	c.watchedFiles = &watchedFiles{what: "TLS certificate", names: []string{certFile, keyFile}, read: func() error {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err == nil {
			c.current.Store(&pair)
		}
		return err
	}}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return c, nil
}

// config returns the settings for servers: TLS 1.2 or newer, with Go's secure defaults.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
