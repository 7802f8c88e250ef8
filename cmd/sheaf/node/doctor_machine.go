package node

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// ports checks that the addresses are free. It reports whether a Sheaf runs on the data folder: then they are
// its own.
func (d *doctor) ports() (running bool) {
	if _, err := os.Stat(filepath.Join(d.cfg.Data, lockName)); err == nil && d.cfg.embedded() {
		unlock, err := lockData(d.cfg.Data)
		if err == nil {
			unlock()
		}
		running = err != nil
	}
	addresses := map[string]string{"--ops": d.cfg.Ops}
	if d.cfg.has(roleIngress) {
		addresses["--http"] = d.cfg.HTTP
	}
	if d.cfg.embedded() && d.cfg.NATSListen != "none" {
		addresses["--nats-listen"] = d.cfg.NATSListen
	}
	for _, flag := range []string{"--http", "--nats-listen", "--ops"} {
		address := addresses[flag]
		if address == "" {
			continue
		}
		l, err := net.Listen("tcp", address)
		switch {
		case err == nil:
			_ = l.Close()
			d.ok("ports", "%s %s is free", flag, address)
		case running:
			d.ok("ports", "%s %s is in use; a Sheaf runs on this data folder", flag, address)
		default:
			d.fail("ports", "stop the other program, or choose another "+flag, "%s %s: %v", flag, address, err)
		}
	}
	return running
}

// limits checks what the system allows this process.
func (d *doctor) limits() {
	if files, known := maxFiles(); known && files < minFiles {
		d.warn("file-descriptors", fmt.Sprintf("raise the limit to %d or more, such as LimitNOFILE= of systemd", minFiles), "at most %d", files)
	} else if known {
		d.ok("file-descriptors", "at most %d", files)
	}
	if memory, known := maxMemory(); known && memory < minMemory {
		d.warn("memory", fmt.Sprintf("allow %s or more", ByteSize(minMemory)), "at most %s", ByteSize(memory))
	} else if known {
		d.ok("memory", "at most %s", ByteSize(memory))
	}
}

// certificate checks --tls-cert.
func (d *doctor) certificate() {
	const check = "tls"
	if d.cfg.TLSCert == "" {
		return
	}
	c, err := openCertificate(d.cfg.TLSCert, d.cfg.TLSKey)
	if err != nil {
		d.fail(check, "give a certificate and its private key in PEM", "%v", err)
		return
	}
	pair := c.current.Load()
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(cert)
		}
	}
	left := time.Until(pair.Leaf.NotAfter)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Intermediates: between})
	switch {
	case left <= 0:
		d.fail(check, "renew it", "the certificate expired on %s", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	case left < certificateSoon:
		d.warn(check, "renew it", "the certificate expires in %d days", int(left.Hours()/24))
	case err != nil:
		d.warn(check, "put the intermediate certificates into the file, or let callers trust the authority", "this machine does not trust the certificate: %v", err)
	default:
		d.ok(check, "good for %d days", int(left.Hours()/24))
	}
}
