package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"code.dny.dev/ssrf"
)

// errAddressNotAllowed is returned for a source or callback at a private address. It omits the address,
// because the caller may be probing what a name resolves to inside the network.
var errAddressNotAllowed = fmt.Errorf("address not allowed (see --allow-cidr): %w", ssrf.ErrProhibitedIP)

// forbidden are addresses that no setting allows, because servers there hand out credentials of the machine.
// Link-local includes the metadata services of most clouds (169.254.169.254, fe80::). The others belong to
// AWS, Google Cloud, Oracle and Scaleway (IPv6), Alibaba Cloud, Azure and Oracle.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),
	netip.MustParsePrefix("fd20:ce::254/128"),
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"),
	netip.MustParsePrefix("fd00:42::42/128"),
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("192.0.0.192/32"),
}

// embedding are IPv6 prefixes whose addresses lead to the IPv4 address in them, which starts at byte at.
// Teredo stores its client's address inverted.
var embedding = []struct {
	prefix   netip.Prefix
	at       int
	inverted bool
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, false},    // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12, false},  // NAT64 of local use, RFC 8215
	{netip.MustParsePrefix("2002::/16"), 2, false},        // 6to4, RFC 3056
	{netip.MustParsePrefix("2001::/32"), 12, true},        // Teredo, RFC 4380
	{netip.MustParsePrefix("::/96"), 12, false},           // IPv4-compatible, RFC 4291
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, false}, // SIIT, RFC 7915
}

// otherPorts are ports of other protocols that could misread an HTTP request: those that browsers refuse
// (Fetch standard, "bad port") and that mail, login, chat and printing use. On public addresses they are not
// dialled.
var otherPorts = map[uint16]bool{
	7: true, 9: true, 19: true, 20: true, 21: true, 22: true, 23: true, 25: true, 53: true, 69: true,
	110: true, 111: true, 119: true, 123: true, 135: true,
	137: true, 139: true, 143: true, 161: true, 179: true, 389: true, 427: true, 465: true, 512: true,
	513: true, 514: true, 515: true, 526: true,
	548: true, 554: true, 563: true, 587: true, 601: true, 636: true, 989: true, 990: true, 993: true,
	995: true, 1719: true, 1720: true, 1723: true,
	2049: true, 3659: true, 4045: true, 5060: true, 5061: true, 6000: true, 6566: true, 6665: true,
	6666: true, 6667: true, 6668: true, 6669: true, 6697: true, 10080: true,
}

// guard returns a net.Dialer.Control that allows only safe addresses.
func guard(allowed []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	var v4, v6 []netip.Prefix
	for _, p := range allowed {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	guardian := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...),
		ssrf.WithAllowedV6Prefixes(v6...))
	return func(network, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || (network != "tcp4" && network != "tcp6") {
			return errAddressNotAllowed
		}
		ip := to.Addr().Unmap().WithZone("")
		if isForbidden(ip) || guardian.SafeAddr(ip) != nil {
			return errAddressNotAllowed
		}
		if otherPorts[to.Port()] &&
			!slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return errAddressNotAllowed
		}
		return nil
	}
}

// Refusal explains why a client with these allowed ranges does not dial an address, "" if it does. It is for the
// owner of this machine: a caller must not read it.
func Refusal(allowed []netip.Prefix, to netip.AddrPort) string {
	network := "tcp4"
	if to.Addr().Is6() {
		network = "tcp6"
	}
	if guard(allowed)(network, to.String(), nil) == nil {
		return ""
	}
	switch ip := to.Addr().Unmap(); {
	case isForbidden(ip):
		return "no setting allows link-local addresses and the metadata services of clouds"
	case ip.IsLoopback(), ip.IsPrivate():
		return "it is a private address, and --allow-cidr does not name its range"
	case otherPorts[to.Port()]:
		return fmt.Sprintf("port %d belongs to another protocol", to.Port())
	}
	return "it is not a public address, and --allow-cidr does not name its range"
}

func isForbidden(ip netip.Addr) bool {
	for _, e := range embedding {
		if !e.prefix.Contains(ip) || ip.IsUnspecified() || ip.IsLoopback() {
			continue
		}
		b := ip.As16()
		v4 := [4]byte(b[e.at : e.at+4])
		if e.inverted {
			for i := range v4 {
				v4[i] = ^v4[i]
			}
		}
		if isForbidden(netip.AddrFrom4(v4)) {
			return true
		}
	}
	for _, p := range forbidden {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
