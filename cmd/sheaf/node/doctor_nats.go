package node

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sheaf/events"
	"sheaf/events/journal"
)

// cluster checks the NATS servers, their JetStream and the streams that are there.
func (d *doctor) cluster(ctx context.Context) {
	const check = "nats"
	n := &node{cfg: d.cfg, log: d.cfg.Log}
	n.metrics = n.newProcessMetrics()
	conn, err := n.dial()
	if err != nil {
		d.fail(check, "check --nats, --nats-creds and whether the servers run", "%v", err)
		return
	}
	defer conn.Close()
	version := conn.ConnectedServerVersion()
	js, err := jetstream.New(conn)
	if err != nil || !newEnough(version) {
		d.fail(check, "update the servers to 2.14.0 or newer", "the server is %s", version)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		d.fail(check, "enable JetStream on the servers and for this account, and check that most servers run", "JetStream: %v", err)
		return
	}
	d.ok(check, "connected to %s, version %s, messages of at most %s", conn.ConnectedUrlRedacted(), version, ByteSize(conn.MaxPayload()))
	if conn.MaxPayload() < 1<<20 {
		d.warn(check, "set max_payload to 8MB", "messages may have %s; large pages and requests need more", ByteSize(conn.MaxPayload()))
	}
	if servers := len(conn.Servers()); d.cfg.Replicas > servers {
		d.warn(check, "start more servers, or lower --replicas", "%d servers are known, --replicas asks for %d copies", servers, d.cfg.Replicas)
	}
	d.streams(ctx, js, conn)
}

// streams compares the streams that are there with the settings, and the clock with that of the servers.
func (d *doctor) streams(ctx context.Context, js jetstream.JetStream, conn *nats.Conn) {
	want := journal.Config{MaxPagesBytes: int64(d.cfg.MaxPagesBytes), MaxEventsBytes: int64(d.cfg.MaxLogBytes)}
	for name, limit := range map[string]int64{events.StreamPages: want.MaxPagesBytes, events.StreamEvents: want.MaxEventsBytes} {
		asked := time.Now()
		st, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			d.ok("streams", "%s does not exist; the first start makes it", name)
			continue
		}
		if err != nil {
			d.fail("streams", "check that most servers run", "%s: %v", name, err)
			continue
		}
		info := st.CachedInfo()
		if limit > 0 && info.Config.MaxBytes < limit {
			d.ok("streams", "%s has %s; the next start raises the limit to %s", name, ByteSize(info.Config.MaxBytes), ByteSize(limit))
		} else {
			d.ok("streams", "%s has %s of %s", name, ByteSize(info.State.Bytes), ByteSize(info.Config.MaxBytes))
		}
		if name == events.StreamEvents && !info.TimeStamp.IsZero() {
			d.clock("the NATS server "+conn.ConnectedServerName(), asked, info.TimeStamp)
		}
	}
}

// clock compares this clock with another machine's, which was read between asked and now.
func (d *doctor) clock(whose string, asked, theirs time.Time) {
	skew := time.Duration(0)
	switch now := time.Now(); {
	case theirs.Before(asked):
		skew = asked.Sub(theirs)
	case theirs.After(now):
		skew = theirs.Sub(now)
	}
	if skew > clockSkew {
		d.warn("clock", "let both machines set their clocks by NTP", "%v away from that of %s", skew.Round(time.Second), whose)
		return
	}
	d.ok("clock", "agrees with %s", whose)
}
