package leases

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// Shares divides limit among the members that want some of a resource. The division is max-min fair: nothing
// is left while a member wants more, and no member gets more than another that wants as much, but for a
// difference of one. All processes compute the same, whatever the order of wants.
//
// If there are more members than limit, each round serves the next ones, so every member gets its turn.
func Shares(limit int, resource string, round uint64, wants map[string]int) map[string]int {
	shares := make(map[string]int, len(wants))
	members := make([]string, 0, len(wants))
	for id, want := range wants {
		if want > 0 {
			members = append(members, id)
		}
	}
	slices.SortFunc(members, func(a, b string) int {
		return cmp.Or(cmp.Compare(wants[a], wants[b]), cmp.Compare(rank(resource, a), rank(resource, b)), cmp.Compare(a, b))
	})
	left := max(limit, 0)
	for i, id := range members {
		level := left / (len(members) - i)
		if wants[id] > level {
			divide(shares, members[i:], level, left, resource, round)
			break
		}
		shares[id] = wants[id]
		left -= wants[id]
	}
	return shares
}

// divide gives level to members that all want more, and the rest of left to some of them, one each.
func divide(shares map[string]int, members []string, level, left int, resource string, round uint64) {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(resource, a), rank(resource, b)), cmp.Compare(a, b))
	})
	rest, first := left-level*len(members), 0
	if level == 0 && rest > 0 {
		first = int(round % uint64(len(members)) * uint64(rest) % uint64(len(members)))
	}
	for i, id := range members {
		shares[id] = level
		if (i-first+len(members))%len(members) < rest {
			shares[id]++
		}
	}
}

// rank orders the members of a resource, differently for each resource, so that no member has every remainder.
func rank(resource, id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(resource))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}
