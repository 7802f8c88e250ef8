package node

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/services/ingress"
)

// A key is sheaf_<id>_<secret>: the id names it in lists and logs, the secret is 32 random bytes. Only the
// SHA-256 of the whole is stored. A slow hash would add nothing, because 256 random bits cannot be guessed.
const apiKeyPrefix = "sheaf_"

var (
	apiKeyPattern = regexp.MustCompile(`^sheaf_([a-z2-7]{8})_[A-Za-z0-9_-]{43}$`)
	apiKeyID      = regexp.MustCompile(`^[a-z2-7]{8}$`)
)

// maxAPIKeysFile bounds the size of the key file: about 100,000 keys.
const maxAPIKeysFile = 16 << 20

// APIKey is one line of the key file: id, tenant, SHA-256, creation time, scope, and an optional name for
// people. Lines of earlier versions have no scope, which is scope=operate. Earlier versions take the scope for
// a part of the name.
type APIKey struct {
	ID      string
	Tenant  string
	Hash    [sha256.Size]byte
	Created time.Time
	Scope   ingress.Scope
	Name    string
}

const scopePrefix = "scope="

func (k APIKey) line() string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s %s %s%s %s", k.ID, k.Tenant, hex.EncodeToString(k.Hash[:]),
		k.Created.UTC().Format(time.RFC3339), scopePrefix, k.Scope, k.Name), " ") + "\n"
}

// CheckScope returns an error if a key of a tenant cannot have a scope. Every NATS caller of the tenant of
// operators is an admin, so its keys must be.
func CheckScope(tenant string, scope ingress.Scope) error {
	if tenant == ingress.AdminTenant && scope != ingress.ScopeAdmin {
		return fmt.Errorf("tenant %s is for operators: its keys need the scope admin", tenant)
	}
	return nil
}

// parseAPIKeys reads a key file. It skips lines that are empty or begin with #. Every other line must be
// valid: a silently ignored key would lock out a caller.
func parseAPIKeys(data []byte) (map[string]APIKey, error) {
	keys := map[string]APIKey{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		wrong := func(what string) error {
			return fmt.Errorf("line %d: %s; want ID TENANT SHA256 TIME [scope=SCOPE] [NAME]", n, what)
		}
		if len(fields) < 4 {
			return nil, wrong("too few fields")
		}
		k := APIKey{ID: fields[0], Tenant: fields[1], Scope: ingress.ScopeOperate}
		rest := fields[4:]
		if len(rest) > 0 && strings.HasPrefix(rest[0], scopePrefix) {
			var ok bool
			if k.Scope, ok = ingress.ParseScope(strings.TrimPrefix(rest[0], scopePrefix)); !ok {
				return nil, wrong("a scope is read, submit, operate or admin")
			}
			rest = rest[1:]
		}
		k.Name = strings.Join(rest, " ")
		sum, err := hex.DecodeString(fields[2])
		if err != nil || copy(k.Hash[:], sum) != sha256.Size || len(sum) != sha256.Size {
			return nil, wrong("no SHA-256 in hexadecimal")
		}
		if k.Created, err = time.Parse(time.RFC3339, fields[3]); err != nil {
			return nil, wrong("no time as RFC 3339 has it")
		}
		switch {
		case !apiKeyID.MatchString(k.ID):
			return nil, wrong("no id")
		case !events.ValidTenant(k.Tenant):
			return nil, wrong("a tenant is 1 to 32 of a-z, 0-9, _ and -")
		}
		if err := CheckScope(k.Tenant, k.Scope); err != nil {
			return nil, wrong(err.Error())
		}
		if _, twice := keys[k.ID]; twice {
			return nil, wrong("the id is there twice")
		}
		keys[k.ID] = k
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return keys, nil
}

// apiKeys are the keys that callers authenticate with. It is safe for concurrent use.
type apiKeys struct {
	*watchedFiles
	keys    atomic.Pointer[map[string]APIKey]
	used    sync.Map // id -> *atomic.Int64, seconds since 1970 of the last use
	changed func()   // called when the valid keys have changed; set before watch
}

// openAPIKeys reads a key file. While there is no file, no key is valid.
func openAPIKeys(path string, log *slog.Logger) (*apiKeys, error) {
	a := &apiKeys{changed: func() {}}
	a.keys.Store(&map[string]APIKey{})
	a.watchedFiles = &watchedFiles{what: "API keys", names: []string{path}, read: func() error {
		data, _, err := readAPIKeys(path)
		if err != nil {
			return err
		}
		keys, err := parseAPIKeys(data)
		if err != nil {
			return err
		}
		if before := a.keys.Swap(&keys); !maps.Equal(*before, keys) {
			a.changed()
		}
		return nil
	}}
	if err := a.load(); err != nil {
		return nil, fmt.Errorf("--api-keys %s: %w", path, err)
	}
	if len(*a.keys.Load()) == 0 {
		log.Warn("there are no API keys, so every caller is refused; add one with: sheaf keys add --api-keys "+path+" --tenant NAME", "file", path)
	}
	return a, nil
}

// readAPIKeys returns the text of a key file, and whether the file exists.
func readAPIKeys(path string) (data []byte, exists bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, maxAPIKeysFile+1))
	if err == nil && len(data) > maxAPIKeysFile {
		err = fmt.Errorf("is larger than %d bytes", maxAPIKeysFile)
	}
	return data, true, err
}

// Principal returns the owner of a key. It takes a microsecond and does no I/O.
func (a *apiKeys) Principal(key string) (ingress.Principal, bool) {
	m := apiKeyPattern.FindStringSubmatch(key)
	if m == nil {
		return ingress.Principal{}, false
	}
	known, ok := (*a.keys.Load())[m[1]]
	sum := sha256.Sum256([]byte(key))
	if subtle.ConstantTimeCompare(sum[:], known.Hash[:]) != 1 || !ok {
		return ingress.Principal{}, false
	}
	a.use(known.ID)
	return known.principal(), true
}

// use records that a key was used now.
func (a *apiKeys) use(id string) {
	at, ok := a.used.Load(id)
	if !ok {
		at, _ = a.used.LoadOrStore(id, &atomic.Int64{})
	}
	at.(*atomic.Int64).Store(time.Now().Unix())
}

// lastUse returns when a key was last used, zero for never.
func (a *apiKeys) lastUse(id string) time.Time {
	at, ok := a.used.Load(id)
	if !ok {
		return time.Time{}
	}
	return time.Unix(at.(*atomic.Int64).Load(), 0)
}

// ByID returns the owner of the key with an id, while the file has it.
func (a *apiKeys) ByID(id string) (ingress.Principal, bool) {
	known, ok := (*a.keys.Load())[id]
	return known.principal(), ok
}

func (k APIKey) principal() ingress.Principal {
	return ingress.Principal{ID: k.ID, Tenant: k.Tenant, Scope: k.Scope}
}

// Tenant returns the tenant of a key.
func (a *apiKeys) Tenant(key string) (tenant string, ok bool) {
	p, ok := a.Principal(key)
	return p.Tenant, ok
}

// AddAPIKey creates a key for a tenant and appends its hash to a key file, which it creates if necessary. It
// returns the key, which is stored nowhere, and its id.
func AddAPIKey(file, tenant string, scope ingress.Scope, name string) (key, id string, err error) {
	var random [5]byte
	var secret [32]byte
	rand.Read(random[:])
	rand.Read(secret[:])
	k := APIKey{ID: strings.ToLower(base32.StdEncoding.EncodeToString(random[:])), Tenant: tenant, Created: time.Now(), Scope: scope, Name: name}
	key = apiKeyPrefix + k.ID + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
	k.Hash = sha256.Sum256([]byte(key))
	return key, k.ID, changeAPIKeys(file, func(data []byte) ([]byte, error) {
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		return append(data, k.line()...), nil
	})
}

// ListAPIKeys returns the keys of a file, oldest first.
func ListAPIKeys(file string) ([]APIKey, error) {
	data, exists, err := readAPIKeys(file)
	if err == nil && !exists {
		err = errNoAPIKeys(file)
	}
	if err != nil {
		return nil, err
	}
	keys, err := parseAPIKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return slices.SortedFunc(maps.Values(keys), func(a, b APIKey) int { return a.Created.Compare(b.Created) }), nil
}

// RevokeAPIKey removes a key, or the key with an id, from a file. It returns the id.
func RevokeAPIKey(file, key string) (id string, err error) {
	id = key
	if m := apiKeyPattern.FindStringSubmatch(key); m != nil {
		id = m[1]
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return id, errNoAPIKeys(file)
	}
	return id, changeAPIKeys(file, func(data []byte) ([]byte, error) {
		var kept bytes.Buffer
		found := false
		for line := range bytes.Lines(data) {
			if f := bytes.Fields(line); len(f) > 0 && string(f[0]) == id {
				found = true
				continue
			}
			kept.Write(line)
		}
		if !found {
			return nil, fmt.Errorf("%s has no key %s (see sheaf keys list)", file, id)
		}
		return kept.Bytes(), nil
	})
}

func errNoAPIKeys(file string) error {
	return fmt.Errorf("there is no file %s (see --api-keys); sheaf keys add makes it", file)
}

// changeAPIKeys replaces the file atomically. Concurrent processes wait for each other.
func changeAPIKeys(name string, edit func([]byte) ([]byte, error)) error {
	file, err := embedded.LinkTarget(name)
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", name, err)
	}
	data, _, err := readAPIKeys(name)
	if err != nil {
		return err
	}
	if _, err := parseAPIKeys(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if data, err = edit(data); err != nil {
		return err
	}
	return embedded.ReplaceFile(file, data)
}
