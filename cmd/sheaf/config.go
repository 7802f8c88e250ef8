package main

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/cmd/sheaf/node"
	"sheaf/events/similar"
)

// inDays matches a duration that begins with whole days, at most 99999, so that it fits.
var inDays = regexp.MustCompile(`^([0-9]{1,5})d([0-9.].*)?$`)

// parseDuration is time.ParseDuration with days of 24 hours in front: 7d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	var days, rest time.Duration
	var err error
	clock := text
	if m := inDays.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // up to five digits
		days, clock = time.Duration(n)*24*time.Hour, cmp.Or(m[2], "0")
	}
	if rest, err = time.ParseDuration(clock); err != nil || days > math.MaxInt64-max(rest, 0) {
		return 0, fmt.Errorf("%q is not a duration; want one such as 30s, 12h, 7d or 1d12h", text)
	}
	return days + rest, nil
}

// decodeDuration makes every flag of this type accept days, also in lists and behind pointers.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := parseDuration(text)
	if err != nil {
		return err
	}
	target.SetInt(int64(d))
	return nil
}

// configFile is the path of the YAML file. Its keys are the names of flags without the dashes. An unknown key
// is an error, because a silently ignored setting is worse than none.
type configFile string

// BeforeResolve looks up the file's settings for every flag that was not set otherwise.
func (configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFile))
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	settings := fileSettings{path: path}
	if err := yaml.Unmarshal(data, &settings.values); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	ctx.AddResolver(settings)
	// Validate is needed because Kong validates only the resolvers that it was created with.
	return settings.Validate(ctx.Model)
}

type fileSettings struct {
	path   string
	values map[string]yaml.Node
}

// Validate refuses keys that name no setting.
func (f fileSettings) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, flag := range settings(app) {
		known[flag.Name] = true
	}
	delete(known, "config")
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if !known[key] {
			return fmt.Errorf("--config %s: unknown setting %q%s; settings are named like the flags of sheaf serve, without dashes in front",
				f.path, key, didYouMean(key, maps.Keys(known)))
		}
	}
	return nil
}

// settings are the flags of all commands that the environment and the YAML file can set too.
func settings(app *kong.Application) (flags []*kong.Flag) {
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error { // no visit fails
		if flag, ok := n.(*kong.Flag); ok && len(flag.Envs) > 0 {
			flags = append(flags, flag)
		}
		return next(nil)
	})
	return flags
}

// ofServices matches the variables that Kubernetes and Docker set for a service whose name begins with sheaf.
var ofServices = regexp.MustCompile(`^SHEAF_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)$`)

// checkVariables refuses unknown SHEAF_ variables, because a silently ignored setting is worse than none.
func checkVariables(app *kong.Application, environ []string) error {
	known := map[string]bool{"SHEAF_FAILPOINT": true} // see package failpoint
	for _, flag := range settings(app) {
		known[flag.Envs[0]] = true
	}
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "SHEAF_") && !known[name] && !ofServices.MatchString(name) {
			return usagef("unknown environment variable %s%s", name, didYouMean(name, maps.Keys(known)))
		}
	}
	return nil
}

// didYouMean proposes the known name that is most similar to a wrong one, if any is similar enough.
func didYouMean(wrong string, known iter.Seq[string]) string {
	name := similar.Name(wrong, known)
	if name == "" {
		return ""
	}
	return ", did you mean " + name + "?"
}

// Resolve returns the file's text for a setting. The environment takes precedence over the file. A flag of
// another command may have the name of a setting.
func (f fileSettings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	node, ok := f.values[flag.Name]
	if !ok || node.Tag == "!!null" || len(flag.Envs) == 0 {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value, nil
	case yaml.SequenceNode:
		var texts []string
		if err := node.Decode(&texts); err != nil {
			return nil, fmt.Errorf("%s, line %d: want a list of texts", f.path, node.Line)
		}
		return strings.Join(texts, ","), nil
	}
	return nil, fmt.Errorf("%s, line %d: want a text or a list of texts", f.path, node.Line)
}

// dropEmptyVariables unsets empty SHEAF_ variables: container platforms set a variable to "" when a setting
// is left out.
func dropEmptyVariables() {
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); value == "" && strings.HasPrefix(name, "SHEAF_") {
			_ = os.Unsetenv(name)
		}
	}
}

// usageError reports a command line that cannot run as written.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var usage usageError
	var setting node.SettingError
	var option filesource.OptionError
	return errors.As(err, &usage) || errors.As(err, &setting) || errors.As(err, &option)
}
