package main

import (
	"archive/zip"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"

	"sheaf/events/client"
)

// remote is a running server, as a command calls it.
type remote struct{ *client.Client }

// newRemote returns the server at a base URL such as http://127.0.0.1:8080, for the
// exports of a tenant, "" for that of the key. A call is not repeated: a person or
// a script decides that.
func newRemote(address string, as callerFlags, tenant string) (*remote, error) {
	trust, err := trusting(as.CACert)
	if err != nil {
		return nil, err
	}
	key := as.APIKey
	if name, ok := strings.CutPrefix(key, "@"); ok {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--api-key: %w", err)
		}
		key = strings.TrimSpace(string(data))
	}
	c, err := client.New(address, client.Options{Key: key, Tenant: tenant, Patience: -1, TLS: trust})
	if err != nil {
		return nil, usagef("--server: %w", err)
	}
	return &remote{c}, nil
}

// trusting returns settings of a client that trusts the authorities in a file in addition to the system's.
func trusting(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-cert: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("--ca-cert %s: holds no certificate in PEM", caFile)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

// reworded is an error with another text.
type reworded struct {
	error
	text string
}

func (e reworded) Error() string { return e.text }
func (e reworded) Unwrap() error { return e.error }

// hinted adds to an error what the reader can do.
func hinted(err error, hint string) error { return reworded{err, err.Error() + "; " + hint} }

// explained adds to an error of a server what the caller of a command can do, if that is known.
func explained(err error) error {
	var unreachable *client.UnreachableError
	var refusal *client.Error
	var redirect *client.RedirectError
	if errors.As(err, &refusal) {
		refusal.Msg = oneLanguage(refusal.Msg, userLanguage())
	}
	switch {
	case errors.As(err, &unreachable):
		return hinted(err, "does sheaf serve run there? (see --server)")
	case errors.As(err, &redirect):
		return hinted(err, "if that server is yours, name it with --server")
	case errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized:
		return hinted(err, "say --api-key or SHEAF_API_KEY")
	case errors.As(err, &refusal) && refusal.Errcode == errcodeScope:
		return hinted(err, "use a key with more rights (see sheaf keys add --scope)")
	case errors.Is(err, client.ErrUnfinished):
		return hinted(err, "see sheaf watch")
	case errors.Is(err, client.ErrGone):
		return hinted(err, "see sheaf retry")
	case errors.Is(err, client.ErrTooLarge):
		return hinted(err, "see --limit")
	}
	return err
}

// bilingual matches a message of the contract: "key 不能为空 (key is required)".
var bilingual = regexp.MustCompile(`^([\w.]+: )?([^("]*\p{Han}[^("]*) \((.*)\)$`)

// oneLanguage returns a message of the contract in the language of the reader: Chinese for "zh…", else English.
func oneLanguage(msg, language string) string {
	m := bilingual.FindStringSubmatch(msg)
	switch {
	case m == nil:
		return msg
	case strings.HasPrefix(language, "zh"):
		return m[1] + m[2]
	}
	return m[1] + m[3]
}

// userLanguage returns the locale of messages, such as zh_CN.UTF-8.
func userLanguage() string {
	return cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG"))
}

// errcodeScope answers an API key that must not use an operation.
const errcodeScope = 40301

// wait waits until the export has ended and shows its progress. The error is nil only for a successful export.
// The export is nil if the server has not answered.
func (s *remote) wait(ctx context.Context, key string, show progress) (x *client.Export, err error) {
	defer show.close()
	for report, err := range s.Watch(ctx, key) {
		if err != nil {
			return x, err
		}
		x = report
		show.update(x)
	}
	return x, x.Err()
}

// download writes the export's file to a new file.
func (s *remote) download(ctx context.Context, x *client.Export, name string) error {
	return writeNew(name, func(f *os.File) error { return s.Fetch(ctx, x, f) })
}

// writeNew creates a file with the permissions of the umask.
func writeNew(name string, write func(*os.File) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// extract unpacks the one document in a zip that has a suffix.
func extract(archive, name, suffix string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("opening the downloaded zip: %w", err)
	}
	defer z.Close()
	var found []*zip.File
	var names []string
	for _, f := range z.File {
		if names = append(names, oneLine(f.Name)); extension(f.Name) == suffix {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("the export holds no file that ends in %s (%s); choose one of its suffixes or .zip, or sheaf convert for another format",
			suffix, shortened(names))
	}
	if len(found) != 1 {
		return fmt.Errorf("the export holds %d files that end in %s, not one (%s); choose an output that ends in .zip",
			len(found), suffix, shortened(names))
	}
	entry, err := found[0].Open()
	if err != nil {
		return fmt.Errorf("opening the downloaded zip: %w", err)
	}
	defer entry.Close()
	return writeNew(name, func(f *os.File) error {
		if _, err := io.Copy(f, entry); err != nil {
			return fmt.Errorf("extracting the file: %w", err)
		}
		return nil
	})
}

// shortened lists the first of some names.
func shortened(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
