package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"
)

const (
	// pullWait is how long a pull waits on the server for messages.
	pullWait = 30 * time.Second
	// pullHeartbeat is the interval at which the server confirms a pull. After two missed ones all pulls are
	// repeated, because a server that dies loses its pulls without notice.
	pullHeartbeat = 3 * time.Second
	// maxPulled is how many messages a process requests ahead of its load.
	maxPulled = 16
	// priorityGroup is the only one of a consumer. A consumer without priorities ignores it.
	priorityGroup = "load"
)

// levels are the priorities of pulls, by load: level i is for slots from levels[i] up to levels[i+1]. The
// server serves the lowest level first, and the pulls of one level in turn. Ten is its maximum.
var levels = [...]int{0, 4, 8, 12, 18, 28, 42, 64, 96, 144}

// upper returns the end of a level.
func upper(level, slots int) int {
	if level+1 < len(levels) {
		return min(levels[level+1], slots)
	}
	return slots
}

// intake requests the messages of a consumer and runs a handler for each. It numbers the slots of the process:
// while n handlers run, the next messages get the slots n, n+1, and so on. For each level of free slots one
// pull waits on the server. So a message goes to the process with the smallest load.
//
// A handler that ends frees a slot, whose level gets a new pull once the old one is used up. So few pulls serve
// many messages, and a level is at most its own width from the truth.
type intake struct {
	log         *Log
	consumer    string
	subject     string // of pull requests
	slots       int
	handle      func(message)
	running     int
	pulls       [len(levels)]pull
	messages    chan *nats.Msg
	ended       chan struct{} // one value for each handler that has returned
	handlers    sync.WaitGroup
	heard       time.Time // when the server last sent anything
	askNotUntil time.Time // after a refusal
	failures    rate.Sometimes
}

// pull is the request of a level that waits on the server.
type pull struct {
	sub    *nats.Subscription
	inbox  string
	number int // of the newest request
	left   int // messages that it may still bring
}

func newIntake(log *Log, stream, consumer string, slots int, handle func(message)) *intake {
	return &intake{
		log: log, consumer: consumer, slots: slots, handle: handle,
		subject: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		// More than all levels request together, so that a message finds room.
		messages: make(chan *nats.Msg, 4*len(levels)*maxPulled),
		ended:    make(chan struct{}),
		// During an outage all requests fail, so log it only once a minute.
		failures: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// run handles messages until ctx ends and the handlers have returned.
func (in *intake) run(ctx context.Context) {
	connected := in.log.nc.StatusChanged(nats.CONNECTED)
	defer in.log.nc.RemoveStatusListener(connected)
	look := time.NewTicker(time.Second)
	defer look.Stop()
	in.heard = time.Now()
	for ctx.Err() == nil {
		in.ask()
		select {
		case m := <-in.messages:
			in.take(m)
		case <-in.ended:
			in.running--
		case _, open := <-connected:
			if !open {
				connected = nil
			}
			in.forget() // the server has dropped them
		case <-look.C:
			in.look()
		case <-ctx.Done():
		}
	}
	in.drain()
}

// look forgets the pulls if the server has been silent for too long.
func (in *intake) look() {
	if in.waiting() == 0 {
		in.heard = time.Now()
	} else if time.Since(in.heard) > 2*pullHeartbeat {
		if in.log.nc.IsConnected() {
			in.failed(fmt.Errorf("no heartbeat from the server"))
		}
		in.forget()
	}
}

// waiting returns how many messages the pulls may still bring.
func (in *intake) waiting() (n int) {
	for i := range in.pulls {
		n += in.pulls[i].left
	}
	return n
}

func (in *intake) forget() {
	for i := range in.pulls {
		in.pulls[i].left = 0
	}
	in.heard = time.Now()
}

// ask sends a pull for each level of the next slots that has none. Never more messages are requested than
// slots are free, so no message waits here while another process is idle.
func (in *intake) ask() {
	free := in.slots - in.running - in.waiting()
	if free <= 0 || !in.log.nc.IsConnected() || time.Now().Before(in.askNotUntil) {
		return
	}
	for level := range in.pulls {
		next := min(upper(level, in.slots), in.running+maxPulled) - max(levels[level], in.running)
		if n := min(next, free); n > 0 && in.pulls[level].left == 0 {
			if err := in.pull(level, n); err != nil {
				in.failed(err)
				return
			}
			free -= n
		}
	}
}

// pullRequest is a request of JetStream's API, ADR-13 and ADR-42.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
	Group     string        `json:"group"`
	Priority  int           `json:"priority"`
}

func (in *intake) pull(level, n int) error {
	p := &in.pulls[level]
	if p.sub == nil {
		p.inbox = in.log.nc.NewInbox()
		sub, err := in.log.nc.ChanSubscribe(p.inbox+".*", in.messages)
		if err != nil {
			return err
		}
		p.sub = sub
	}
	request, err := json.Marshal(pullRequest{n, pullWait, pullHeartbeat, priorityGroup, level})
	if err != nil {
		return err
	}
	p.number++
	if err := in.log.nc.PublishRequest(in.subject, p.inbox+"."+strconv.Itoa(p.number), request); err != nil {
		return err
	}
	p.left = n
	return nil
}

// failed logs why pulling fails, and lets the next pull wait.
func (in *intake) failed(err error) {
	in.askNotUntil = time.Now().Add(time.Second)
	in.failures.Do(func() {
		in.log.cfg.Log.Warn("pulling messages; trying again", "consumer", in.consumer, "error", err)
	})
}

// take handles a message of the consumer, or a status of a pull.
func (in *intake) take(m *nats.Msg) {
	in.heard = time.Now()
	p := in.pullOf(m)
	if p == nil {
		return
	}
	if isStatus(m) {
		in.status(p, m)
		return
	}
	p.left = max(p.left-1, 0)
	if in.running >= in.slots { // its pull had expired here
		in.refuse(m)
		return
	}
	in.running++
	in.handlers.Go(func() {
		in.handle(message{m, in.log.nc})
		in.ended <- struct{}{}
	})
}

func (in *intake) pullOf(m *nats.Msg) *pull {
	for i := range in.pulls {
		if in.pulls[i].sub == m.Sub {
			return &in.pulls[i]
		}
	}
	return nil
}

// isStatus reports whether m is about a pull instead of a message of the stream.
func isStatus(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") != "" }

// status reads what the server says about a pull. Every status but a heartbeat ends it.
func (in *intake) status(p *pull, m *nats.Msg) {
	status := m.Header.Get("Status")
	if status == "100" || !strings.HasSuffix(m.Subject, "."+strconv.Itoa(p.number)) {
		return
	}
	p.left = 0
	switch description := m.Header.Get("Description"); {
	case status == "408": // it expired
	case strings.Contains(description, "Leadership Change"): // the next one goes to the new leader
	case status == "503":
		in.failed(nats.ErrNoResponders)
	default:
		in.failed(fmt.Errorf("the server answers %s %s", status, description))
	}
}

// drainWait is how long messages in transit may take.
const drainWait = 2 * time.Second

// drain ends the pulls, hands back what is in transit, so that it does not wait for its AckWait, and waits for
// the handlers.
func (in *intake) drain() {
	connected := in.log.nc.IsConnected()
	for _, p := range in.pulls {
		switch {
		case p.sub == nil:
		case connected:
			_ = p.sub.Drain()
		default: // nothing arrives
			_ = p.sub.Unsubscribe()
		}
	}
	done := make(chan struct{})
	go func() {
		if connected {
			_ = in.log.nc.FlushTimeout(drainWait) // what the server sent before it got the end of the pulls
		}
		in.handlers.Wait()
		close(done)
	}()
	for {
		select {
		case m := <-in.messages:
			in.refuse(m)
		case <-in.ended:
		case <-done:
			for len(in.messages) > 0 {
				in.refuse(<-in.messages)
			}
			return
		}
	}
}

// refuse hands a message back.
func (in *intake) refuse(m *nats.Msg) {
	if !isStatus(m) {
		_ = handBack(message{m, in.log.nc})
	}
}

// message is a delivery of a consumer, whose answers are those of JetStream's acknowledgements.
type message struct {
	*nats.Msg
	nc *nats.Conn
}

func (m message) answer(text string) error { return m.nc.Publish(m.Reply, []byte(text)) }

func (m message) ack() error                 { return m.answer("+ACK") }
func (m message) inProgress() error          { return m.answer("+WPI") }
func (m message) giveUp(reason string) error { return m.answer("+TERM " + reason) }
func (m message) redeliver(after time.Duration) error {
	return m.answer(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}
