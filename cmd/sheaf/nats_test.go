package main

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestAccountMustHoldEveryCopy(t *testing.T) {
	t.Parallel()
	limits := func(bytes int64) jetstream.AccountLimits { return jetstream.AccountLimits{MaxStore: bytes} }
	account := func(bytes int64) *jetstream.AccountInfo {
		return &jetstream.AccountInfo{Tier: jetstream.Tier{Limits: limits(bytes)}}
	}
	tiered := func(name string, bytes int64) *jetstream.AccountInfo {
		return &jetstream.AccountInfo{Tiers: map[string]jetstream.Tier{name: {Limits: limits(bytes)}}}
	}
	for name, c := range map[string]struct {
		info     *jetstream.AccountInfo
		replicas int
		enough   bool
	}{
		"no limit":                        {account(-1), 3, true},
		"one copy fits":                   {account(10 << 30), 1, true},
		"one copy fits, three do not":     {account(10 << 30), 3, false},
		"three copies fit":                {account(30 << 30), 3, true},
		"a tier counts what is asked for": {tiered("R3", 10<<30), 3, true},
		"a tier that is too small":        {tiered("R3", 4<<30), 3, false},
	} {
		err := accountRoom(c.info, Config{Replicas: c.replicas, MaxPagesBytes: 4 << 30})
		if c.enough {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, "raise the account's limit", name)
		}
	}
}
