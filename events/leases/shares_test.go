package leases

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drawWants(rt *rapid.T) map[string]int {
	return rapid.MapOf(rapid.StringMatching(`[a-z]{1,3}`), rapid.IntRange(0, 40)).Draw(rt, "wants")
}

func sum(values map[string]int) (n int) {
	for _, v := range values {
		n += v
	}
	return n
}

// The shares use the limit up, exceed neither it nor a want, and are max-min fair.
func TestSharesAreMaxMinFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		wants, limit := drawWants(rt), rapid.IntRange(0, 100).Draw(rt, "limit")
		shares := Shares(limit, "host:x", rapid.Uint64().Draw(rt, "round"), wants)
		require.Equal(rt, min(limit, sum(wants)), sum(shares))
		for id, share := range shares {
			require.LessOrEqual(rt, share, wants[id])
			require.GreaterOrEqual(rt, share, 0)
		}
		for id, want := range wants {
			if shares[id] == want {
				continue
			}
			for other, share := range shares { // a member that wants more has as much as any other, but for the rest
				require.LessOrEqual(rt, share, shares[id]+1, "%s has less than %s", id, other)
			}
		}
	})
}

// The order of the members does not matter: maps have none, and a copy has another one.
func TestSharesAreDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		wants, limit, round := drawWants(rt), rapid.IntRange(0, 100).Draw(rt, "limit"), rapid.Uint64().Draw(rt, "round")
		again := map[string]int{}
		for _, id := range rapid.Permutation(slices.Sorted(maps.Keys(wants))).Draw(rt, "order") {
			again[id] = wants[id]
		}
		require.Equal(rt, Shares(limit, "tenant:t", round, wants), Shares(limit, "tenant:t", round, again))
	})
}

// With fewer leases than members each member gets its turn.
func TestSharesRotate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		members := rapid.IntRange(2, 20).Draw(rt, "members")
		limit := rapid.IntRange(1, members-1).Draw(rt, "limit")
		wants := map[string]int{}
		for i := range members {
			wants[fmt.Sprint(i)] = rapid.IntRange(1, 40).Draw(rt, "want")
		}
		first, served := uint64(rapid.Uint32().Draw(rt, "round")), map[string]bool{}
		for round := range uint64(members) {
			for id, share := range Shares(limit, "host:y", first+round, wants) {
				if share > 0 {
					served[id] = true
				}
			}
		}
		require.Len(rt, served, members)
	})
}

// A single member has the whole limit, as a process without others does.
func TestOneMemberHasTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(0, 1000).Draw(rt, "limit")
		require.Equal(rt, limit, Shares(limit, "r", 0, map[string]int{"a": limit})["a"])
	})
}
