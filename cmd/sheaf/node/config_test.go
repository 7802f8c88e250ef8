package node

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoopbackMayBeCalledOnlyWhileNobodyElseCanAsk(t *testing.T) {
	t.Parallel()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []netip.Prefix
	}{
		"default":             {func(*Config) {}, loopback},
		"open HTTP":           {func(c *Config) { c.HTTP = "0.0.0.0:80"; c.InsecureNoAuth = true }, nil},
		"open NATS":           {func(c *Config) { c.NATSListen = ":4222"; c.InsecureNoAuth = true }, nil},
		"in-process NATS":     {func(c *Config) { c.NATSListen = "none" }, loopback},
		"cluster":             {func(c *Config) { c.NATS = []string{"nats://a:4222"}; c.SecretKey = "x" }, nil},
		"cluster here":        {func(c *Config) { c.NATS = []string{"localhost:4222"}; c.SecretKey = "x" }, loopback},
		"context":             {func(c *Config) { c.NATSContext = "a"; c.SecretKey = "x" }, nil},
		"none":                {func(c *Config) { c.AllowCIDR = []string{"none"} }, nil},
		"named":               {func(c *Config) { c.AllowCIDR = []string{"10.1.2.3/8", "fd00::/8"} }, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
		"IPv6 loopback":       {func(c *Config) { c.HTTP = "[::1]:80" }, loopback},
		"mapped loopback":     {func(c *Config) { c.HTTP = "[::ffff:127.0.0.1]:80" }, loopback},
		"behind a proxy":      {func(c *Config) { c.PublicURL = "https://sheaf.example.com/exports" }, nil},
		"public on loopback":  {func(c *Config) { c.PublicURL = "http://localhost:8080" }, loopback},
		"IPv6, all addresses": {func(c *Config) { c.HTTP = "[::]:80"; c.InsecureNoAuth = true }, nil},
	} {
		cfg := OneShot(t.TempDir())
		cfg.NATSListen = "127.0.0.1:0"
		c.change(&cfg)
		require.NoError(t, cfg.Complete(), name)
		got, err := cfg.allowed()
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
}

func TestByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "1024": 1024, "4GiB": 4 << 30, "1.5 MiB": 3 << 19, "10GB": 1e10, "2k": 2048, "7B": 7} {
		var b ByteSize
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		require.Equal(t, ByteSize(want), b, text)
	}
	for _, text := range []string{"", "GiB", "-1", "1e99", "NaN", "Inf", "1 XB", "9999999TiB"} {
		var b ByteSize
		require.ErrorContains(t, b.UnmarshalText([]byte(text)), "not a size", text)
	}
}
