package events

import (
	"fmt"
	"regexp"
	"strings"
)

// Subject prefixes. Tokens go from general to specific, so that a wildcard can select a tenant, a type or a
// key.
const (
	subjectAPI      = "sheaf.api."      // sheaf.api.<tenant>.<operation>
	subjectSubmit   = "sheaf.submit."   // sheaf.submit.<tenant>.http|raw
	SubjectEvent    = "sheaf.event."    // sheaf.event.<tenant>.<type>.<key>
	SubjectPage     = "sheaf.page."     // sheaf.page.<tenant>.<key>.<run>.<page>.<part>
	SubjectProgress = "sheaf.progress." // sheaf.progress.<tenant>.<key>
	SubjectLease    = "sheaf.lease."    // sheaf.lease.<process>
	SubjectLeased   = "sheaf.leased."   // sheaf.leased.<process>: leases that are stored, from the server
	SubjectCallback = "sheaf.callback." // sheaf.callback.<tenant>.<name>: results for producers without HTTP
	SubjectWork     = "sheaf.work."     // sheaf.work.<tenant>.<key>.<run>.<from>: pages for any crawler to fetch
	SubjectSpan     = "sheaf.span."     // sheaf.span.<tenant>.<key>.<run>.<owner>: reports about them, on plain NATS
)

// DefaultTenant is the tenant of every caller while no API keys are configured.
const DefaultTenant = "default"

var (
	tenantPattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	keyPattern    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	// NATS allows more characters, but these are safe in every client and shell.
	callbackNamePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// ValidTenant reports whether s can be the tenant token of a subject.
func ValidTenant(s string) bool { return tenantPattern.MatchString(s) }

// ValidKey reports whether s has the form of an export's key: 32 lower-case hexadecimal characters.
func ValidKey(s string) bool { return keyPattern.MatchString(s) }

// CheckName refuses a tenant or key that is not a plain token: in a filter it could match other exports.
func CheckName(tenant, key string) error {
	if !ValidTenant(tenant) {
		return fmt.Errorf("tenant %q: want 1 to 32 of a-z, 0-9, _ and -", tenant)
	}
	if !ValidKey(key) {
		return fmt.Errorf("key %q: want 32 of 0-9 and a-f", key)
	}
	return nil
}

// APISubject returns the request/reply subject of an operation, such as "http" or "detail"; tenant may be "*".
func APISubject(tenant, operation string) string { return subjectAPI + tenant + "." + operation }

// SubmitSubject returns the durable submission subject of a source type, "http" or "raw".
func SubmitSubject(tenant, sourceType string) string {
	return subjectSubmit + tenant + "." + sourceType
}

// EventSubject returns the subject of an export's events of a type.
func EventSubject(tenant string, t Type, key string) string {
	return SubjectEvent + tenant + "." + string(t) + "." + key
}

// KeyFilter matches every event of one key. It is the fence's filter. A cluster matches writes in flight by
// its literal text, so it is defined only here. It names the tenant, because with 400,000 subjects
// "*.*.<key>" costs 8.5 ms a publish and "<tenant>.*.<key>" 0.9 ms (measured).
func KeyFilter(tenant, key string) string { return SubjectEvent + tenant + ".*." + key }

// ProgressSubject returns the subject of an export's progress, on plain NATS.
func ProgressSubject(tenant, key string) string { return SubjectProgress + tenant + "." + key }

// CallbackSubject resolves a callback of the form "nats:<subject>" for a tenant. The subject must begin with
// sheaf.callback.<tenant>., so that no tenant can publish to another's.
func CallbackSubject(tenant, callback string) (string, error) {
	subject, ok := strings.CutPrefix(callback, "nats:")
	if !ok {
		return "", fmt.Errorf("callback %q has no nats: in front", callback)
	}
	name, ok := strings.CutPrefix(subject, SubjectCallback+tenant+".")
	if !ok || !callbackNamePattern.MatchString(name) || len(subject) > 200 {
		return "", fmt.Errorf("a nats: callback must name a subject under %s%s., without wildcards",
			SubjectCallback, tenant)
	}
	return subject, nil
}

// SplitSubject returns the tokens of subject after prefix, or an error unless there are exactly n.
func SplitSubject(subject, prefix string, n int) ([]string, error) {
	rest, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return nil, fmt.Errorf("subject %q does not begin with %q", subject, prefix)
	}
	tokens := strings.Split(rest, ".")
	if len(tokens) != n {
		return nil, fmt.Errorf("subject %q has %d tokens after %q, want %d", subject, len(tokens), prefix, n)
	}
	return tokens, nil
}

// ParseSubmitSubject returns the tenant and source type of a submission. The tenant always comes from the
// subject, never from the payload, because a NATS user's permissions apply to subjects.
func ParseSubmitSubject(subject string) (tenant, sourceType string, err error) {
	t, err := SplitSubject(subject, subjectSubmit, 2)
	if err != nil {
		return "", "", err
	}
	if !ValidTenant(t[0]) {
		return "", "", fmt.Errorf("tenant %q: want 1 to 32 of a-z, 0-9, _ and -", t[0])
	}
	return t[0], t[1], nil
}

// ParseAPISubject returns the tenant and operation of a request to the micro service.
func ParseAPISubject(subject string) (tenant, operation string, err error) {
	t, err := SplitSubject(subject, subjectAPI, 2)
	if err != nil {
		return "", "", err
	}
	if !ValidTenant(t[0]) {
		return "", "", fmt.Errorf("tenant %q: want 1 to 32 of a-z, 0-9, _ and -", t[0])
	}
	return t[0], t[1], nil
}
