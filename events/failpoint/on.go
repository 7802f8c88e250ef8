//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	chosen string
	left   atomic.Int64 // remaining hits of chosen
	signal = syscall.SIGKILL
)

func init() {
	name, count, counted := strings.Cut(os.Getenv("SHEAF_FAILPOINT"), ":")
	if name == "" {
		return
	}
	count, how, said := strings.Cut(count, ":")
	if said {
		if how != "stop" {
			refuse("a failpoint kills or, with :stop, stops")
		}
		signal = syscall.SIGSTOP
	}
	n := int64(1)
	if counted {
		var err error
		if n, err = strconv.ParseInt(count, 10, 64); err != nil || n < 1 {
			refuse("the number of hits must be 1 or more")
		}
	}
	if !slices.Contains(Names, name) {
		refuse("no such failpoint")
	}
	chosen = name
	left.Store(n)
}

func refuse(why string) {
	fmt.Fprintf(os.Stderr, "SHEAF_FAILPOINT=%s: %s\n", os.Getenv("SHEAF_FAILPOINT"), why)
	os.Exit(2)
}

// Hit ends or stops the process at the chosen hit of the chosen failpoint.
func Hit(name string) {
	if name != chosen || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), signal)
	time.Sleep(100 * time.Millisecond) // the signal may take a moment
}
