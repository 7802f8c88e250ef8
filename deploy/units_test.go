package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Both units confine the process in the same way.
func TestUnitsAreConfinedAlike(t *testing.T) {
	t.Parallel()
	confinement := func(unit string) string {
		_, text, ok := strings.Cut(read(t, unit), "\nStateDirectoryMode=")
		require.True(t, ok)
		return text
	}
	require.Equal(t, confinement("sheaf.service"), confinement("sheaf@.service"))
	for _, line := range []string{"NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "SystemCallFilter=@system-service"} {
		require.Contains(t, confinement("sheaf.service"), "\n"+line+"\n")
	}
}

// systemd gives a process the time of a drain: 15 s, and 2 s before it in which an ingress still answers.
func TestUnitsLeaveTimeToDrain(t *testing.T) {
	t.Parallel()
	for unit, least := range map[string]int{"sheaf.service": 15, "sheaf@.service": 17} {
		m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(read(t, unit))
		require.Len(t, m, 2)
		seconds, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		require.GreaterOrEqual(t, seconds, least+5)
	}
}

// systemd knows every directive, and rates the units as safe.
func TestUnitsAreVerified(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	program, err := exec.LookPath("true")
	require.NoError(t, err)
	for _, unit := range []string{"sheaf.service", "sheaf@.service"} {
		path := filepath.Join(t.TempDir(), strings.ReplaceAll(unit, "@", "@crawler"))
		text := strings.ReplaceAll(read(t, unit), "/usr/local/bin/sheaf", program)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotContains(t, string(out), filepath.Base(path)+":", "a line that systemd ignores")
		out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", path).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
