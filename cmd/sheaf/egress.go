package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// errAddressNotAllowed is what a source or callback at a private address
// meets. It does not tell the address: the caller may be fishing for what a
// name resolves to inside.
var errAddressNotAllowed = fmt.Errorf("address not allowed (see --allow-cidr): %w", ssrf.ErrProhibitedIP)

// forbidden are addresses that no setting opens, because what answers there
// hands out credentials of the machine. Link-local holds the metadata services
// of most clouds (169.254.169.254, fe80::); the others are of AWS (IPv6),
// Alibaba Cloud, Azure and Oracle.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("192.0.0.192/32"),
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: the last 32 bits are an IPv4 address

// newEgress returns the one client for sources and callbacks. It dials public
// addresses and the allowed private ranges, on any port. The address is
// checked when it is dialled, after DNS, so a name cannot be pointed elsewhere
// between check and use. It follows no redirect, uses no proxy and bounds
// everything but the time of a body, which is the caller's to bound.
func newEgress(allowed []netip.Prefix) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: guard(allowed)}
	return &http.Client{
		Transport: &http.Transport{
			// A proxy would do the dialling, out of the guard's sight.
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  2 * time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			// One export may ask with many requests at once; each is to find
			// its connection again for the next page.
			MaxIdleConns:        1024,
			MaxIdleConnsPerHost: 128,
			IdleConnTimeout:     90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard returns a net.Dialer.Control that lets only safe addresses through.
func guard(allowed []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	var v4, v6 []netip.Prefix
	for _, p := range allowed {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	guardian := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	return func(network, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || (network != "tcp4" && network != "tcp6") {
			return errAddressNotAllowed
		}
		ip := to.Addr().Unmap().WithZone("")
		if isForbidden(ip) || guardian.SafeAddr(ip) != nil {
			return errAddressNotAllowed
		}
		return nil
	}
}

func isForbidden(ip netip.Addr) bool {
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	for _, p := range forbidden {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
