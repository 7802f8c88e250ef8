package pages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

const (
	testKey  = "5ad5f7b92a816b76e70a21e4154c2485"
	otherKey = "68b5e20e3da35f7a4040844a63aaac89"
)

// noise returns incompressible bytes, so that a test knows their number of parts.
func noise(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func page(number int, rows []byte) pages.Page {
	return pages.Page{
		ID:   pages.ID{Tenant: "default", Key: testKey, Run: 7, Number: number},
		Rows: rows, RowCount: 3, HeaderRow: true, Total: 12, TotalPages: 4, Limit: 2, Attempts: 2,
	}
}

func serverWith(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	o.Dir, o.MaxStore, o.Ephemeral = t.TempDir(), 8<<30, true
	srv, err := embedded.Start(o)
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	return srv
}

func requirePage(t *testing.T, want, got pages.Page) {
	t.Helper()
	require.True(t, bytes.Equal(want.Rows, got.Rows), "%d bytes, want %d", len(got.Rows), len(want.Rows))
	require.Equal(t, sha256.Sum256(want.Rows), got.SHA256)
	require.Positive(t, got.Stored)
	require.WithinDuration(t, time.Now(), got.StoredAt, time.Hour)
	got.StoredAt = time.Time{}
	want.Rows, got.Rows, want.SHA256, got.SHA256, got.Stored = nil, nil, [32]byte{}, [32]byte{}, 0
	require.Equal(t, want, got)
}

// Pages of every size are read back unchanged, on servers that accept messages of 64 KiB, 1 MiB (the server's
// default) and 8 MiB (Sheaf's own).
func TestPagesOfEverySize(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		maxPayload int32
		part       int
	}{
		"64 KiB": {64 << 10, 60 << 10}, // less the space for headers
		"1 MiB":  {1 << 20, 1020 << 10},
		"8 MiB":  {8 << 20, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := eventstest.JournalOn(t, serverWith(t, embedded.Options{MaxPayload: tc.maxPayload}),
				journal.Config{})
			overhead := len(s2.Encode(nil, noise(1, tc.part))) - tc.part
			for n, c := range []struct {
				rows  []byte
				parts int
			}{
				{nil, 1},
				{[]byte(`[]`), 1},
				{noise(2, 255), 1},
				{noise(3, 256), 1},
				{noise(4, tc.part-overhead), 1},
				{noise(5, tc.part-overhead+1), 2},
				{noise(6, 2*tc.part), 3},
				{bytes.Repeat([]byte(`{"a":"b"},`), 1_000_000), 1}, // expands more than S2 may claim
				{noise(7, 5<<20), 5<<20/tc.part + 1},
			} {
				p := page(n+1, c.rows)
				p.Key = fmt.Sprintf("%032x", n)
				stored1, err := s.Pages().Publish(t.Context(), p)
				require.NoError(t, err)
				require.True(t, stored1)
				got, err := s.Pages().Get(t.Context(), p.ID)
				require.NoError(t, err)
				requirePage(t, p, got)
				require.Equal(t, 2, got.DataRows())
				require.Len(t, eventstest.Stored(t, s, events.StreamPages, "sheaf.page.default."+p.Key+".>"),
					c.parts, "%d bytes", len(c.rows))
			}
		})
	}
}

func zstdFrame(t *testing.T, rows []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	require.NoError(t, err)
	defer e.Close()
	return e.EncodeAll(rows, nil)
}

// smallParts starts a server on which a part of a page holds 64 KiB.
func smallParts(t *testing.T) *embedded.Server {
	t.Helper()
	return serverWith(t, embedded.Options{MaxPayload: 68 << 10})
}

// A page of many parts is stored. One of more than 1,000 parts is refused permanently.
func TestPagesLargerThanABatch(t *testing.T) {
	t.Parallel()
	eventstest.LongRunning(t) // writes 66 MB
	rows := noise(8, 1000*(64<<10)+1)
	s := eventstest.Journal(t)
	p := page(1, rows)
	_, err := s.Pages().Publish(t.Context(), p)
	require.NoError(t, err)
	got, err := s.Pages().Get(t.Context(), p.ID)
	require.NoError(t, err)
	requirePage(t, p, got)

	small := eventstest.JournalOn(t, smallParts(t), journal.Config{})
	_, err = small.Pages().Publish(t.Context(), p)
	require.ErrorContains(t, err, "max_payload")
	require.NotErrorIs(t, err, events.ErrUnavailable)
	_, err = small.Pages().Get(t.Context(), p.ID)
	require.ErrorIs(t, err, events.ErrPageMissing)
}

// Two crawlers write different responses of one page at once: one of them is stored, completely, whichever
// has more parts.
func TestPagesOfTwoCrawlersNeverMix(t *testing.T) {
	t.Parallel()
	srv := smallParts(t)
	a, b := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	sizes := []int{3 * 64 << 10, 4 * 64 << 10, 2*64<<10 + 1, 1000}
	for round := range 40 {
		mine, others := page(round+1, noise(uint64(round), sizes[round%4])),
			page(round+1, noise(uint64(1000+round), sizes[(round/4)%4]))
		others.Total = 99
		var wg sync.WaitGroup
		won := make([]bool, 2)
		start := make(chan struct{})
		for i, w := range []struct {
			s *journal.Log
			p pages.Page
		}{{a, mine}, {b, others}} {
			wg.Go(func() {
				<-start
				var err error
				won[i], err = w.s.Pages().Publish(t.Context(), w.p)
				if err != nil {
					t.Errorf("publishing: %v", err)
				}
			})
		}
		// An early reader sees nothing or the whole page.
		wg.Go(func() {
			<-start
			for range 3 {
				_, err := a.Pages().Get(t.Context(), mine.ID)
				if err != nil && !errors.Is(err, events.ErrPageMissing) {
					t.Errorf("reading: %v", err)
				}
			}
		})
		close(start)
		wg.Wait()
		require.NotEqual(t, won[0], won[1], "round %d: one was stored, the other was reported as dropped", round)
		got, err := a.Pages().Get(t.Context(), mine.ID)
		require.NoError(t, err)
		if won[0] {
			requirePage(t, mine, got)
		} else {
			requirePage(t, others, got)
		}
	}
}

func TestPagesAfterALostAcknowledgement(t *testing.T) {
	t.Parallel()
	p, behind, direct := eventstest.Proxied(t)
	for n, rows := range [][]byte{[]byte(`[{"a":1}]`), noise(9, 1200<<10)} {
		want := page(n+1, rows)
		eventstest.LoseOnce(&p.OnReply, `{"stream":"SHEAF_PAGES"`, nil)
		_, err := behind.Pages().Publish(t.Context(), want)
		require.NoError(t, err)
		require.Nil(t, p.OnReply.Load())
		got, err := direct.Pages().Get(t.Context(), want.ID)
		require.NoError(t, err)
		requirePage(t, want, got)
	}
}

// part returns a message as Publish creates it, for tests to damage.
func part(p pages.Page, n, parts int, payload []byte) *nats.Msg {
	sum := sha256.Sum256(p.Rows)
	crc := crc32.Checksum(p.Rows, crc32.MakeTable(crc32.Castagnoli))
	return &nats.Msg{Subject: pages.Subject(p.ID, n), Data: payload, Header: nats.Header{
		"ce-crc32c": {fmt.Sprintf("%08x", crc)}, "ce-page": {strconv.Itoa(p.Number)},
		"ce-part": {strconv.Itoa(n)}, "ce-parts": {strconv.Itoa(parts)},
		"ce-rows": {"1"}, "ce-total": {"1"}, "ce-totalpages": {"1"}, "ce-attempts": {"1"},
		"ce-headerrow": {"true"},
		"ce-sha256":    {hex.EncodeToString(sum[:])}, "Content-Encoding": {"zstd"},
	}}
}

// rawFrame returns a zstd frame that claims a content size and contains run-length blocks of 128 KiB, of four
// bytes each.
func rawFrame(claim uint64, blocks int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58} // 2 MiB window, 8 bytes of content size
	b = binary.LittleEndian.AppendUint64(b, claim)
	for i := range blocks {
		h := uint32(1<<1 | 128<<10<<3)
		if i == blocks-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 'x')
	}
	return b
}

// A page is read in either encoding, and with or without a CRC: processes of one cluster may write different
// ones.
func TestPagesInEitherEncoding(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	for n, rows := range [][]byte{nil, []byte("[]"), noise(12, 300<<10),
		bytes.Repeat([]byte(`{"a":"b"},`), 50_000)} {
		for encoding, payload := range map[string][]byte{"zstd": zstdFrame(t, rows),
			"s2": s2.Encode(nil, rows)} {
			p := page(n+1, rows)
			p.Key = fmt.Sprintf("%032x", len(encoding))
			m := part(p, 1, 1, payload)
			m.Header.Set("Content-Encoding", encoding)
			if n%2 == 0 {
				m.Header.Del("ce-crc32c")
			}
			_, err := s.JetStream().PublishMsg(t.Context(), m)
			require.NoError(t, err)
			got, err := s.Pages().Get(t.Context(), p.ID)
			require.NoError(t, err, "%s, %d bytes", encoding, len(rows))
			require.True(t, bytes.Equal(rows, got.Rows), "%s, %d bytes", encoding, len(rows))
		}
	}
}

// Damaged pages are reported: no panic, no wrong rows, and no more memory than their size can need.
func TestDamagedPages(t *testing.T) {
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	rows := noise(10, 100<<10)
	frame, block := zstdFrame(t, rows), s2.Encode(nil, rows)
	half := len(frame) / 2
	p := page(1, rows)
	tooMuch := bytes.Repeat([]byte("x"), 5<<20)
	edit := func(m *nats.Msg, header, value string) *nats.Msg {
		m.Header.Set(header, value)
		return m
	}
	inS2 := func(m *nats.Msg) *nats.Msg { return edit(m, "Content-Encoding", "s2") }
	for name, msgs := range map[string][]*nats.Msg{
		"a part is missing": {part(p, 1, 2, frame[:half])},
		"a part of another answer": {part(p, 1, 2, frame[:half]),
			part(page(1, []byte(`x`)), 2, 2, frame[half:])},
		"a part of another count": {part(p, 1, 2, frame[:half]), part(p, 2, 3, frame[half:])},
		"a part of another page": {part(p, 1, 2, frame[:half]),
			edit(part(p, 2, 2, frame[half:]), "ce-page", "2")},
		"parts in another order":      {part(p, 1, 2, frame[half:]), part(p, 2, 2, frame[:half])},
		"no count":                    {edit(part(p, 1, 1, frame), "ce-parts", "")},
		"no parts":                    {part(p, 1, 0, frame)},
		"a negative count":            {part(p, 1, -1, frame)},
		"more parts than a batch has": {part(p, 1, 1001, frame)},
		"a count that is no number":   {edit(part(p, 1, 1, frame), "ce-parts", "1e3")},
		"truncated":                   {part(p, 1, 1, frame[:half])},
		"empty":                       {part(p, 1, 1, nil)},
		"not compressed":              {part(p, 1, 1, []byte(`[{"a":1}]`))},
		"another encoding":            {edit(part(p, 1, 1, frame), "Content-Encoding", "gzip")},
		"one bit flipped": {part(p, 1, 1,
			append(append([]byte{}, frame[:half]...),
				append([]byte{frame[half] ^ 1}, frame[half+1:]...)...))},
		"sha256 of other rows": {edit(edit(part(p, 1, 1, frame), "ce-sha256",
			strings.Repeat("0", 64)), "ce-crc32c", "")},
		"crc of other rows":         {edit(part(p, 1, 1, frame), "ce-crc32c", "00000000")},
		"crc too short":             {edit(part(p, 1, 1, frame), "ce-crc32c", "0")},
		"sha256 too short":          {edit(part(p, 1, 1, frame), "ce-sha256", "00")},
		"no sha256":                 {edit(part(p, 1, 1, frame), "ce-sha256", "")},
		"stored under another page": {part(page(2, rows), 1, 1, frame)},
		"negative rows":             {edit(part(p, 1, 1, frame), "ce-rows", "-1")},
		"rows beyond any number":    {edit(part(p, 1, 1, frame), "ce-rows", "99999999999999999999")},
		"no attempts":               {edit(part(p, 1, 1, frame), "ce-attempts", "")},
		"no headers at all":         {{Subject: pages.Subject(p.ID, 1), Data: frame}},
		"claims a gigabyte":         {part(p, 1, 1, rawFrame(1<<30, 100))},
		"claims 16 exabytes":        {part(p, 1, 1, rawFrame(1<<64-1, 100))},
		"second frame claims a gigabyte": {part(p, 1, 1,
			append(append([]byte{}, frame...), rawFrame(1<<30, 100)...))},
		"a bomb": {part(p, 1, 1, rawFrame(128<<10*250, 250))},
		"a bomb that claims nothing": {part(p, 1, 1,
			append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x58}, rawFrame(0, 250)[14:]...))},
		"rows and more": {part(p, 1, 1,
			zstdFrame(t, append(append([]byte{}, rows...), tooMuch...)))},
		"thousand parts announced, 5 MiB": {part(p, 1, 1000, noise(11, 5<<20))},
		"skippable frame and nothing more": {part(p, 1, 1,
			[]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff})},
		"a zstd frame as s2": {inS2(part(p, 1, 1, frame))},
		"s2, truncated":      {inS2(part(p, 1, 1, block[:len(block)/2]))},
		"s2, empty":          {inS2(part(p, 1, 1, nil))},
		"s2 of other rows":   {inS2(part(p, 1, 1, s2.Encode(nil, bytes.ToUpper(rows))))},
		"s2, one bit flipped": {inS2(part(p, 1, 1,
			append(append([]byte{}, block[:50]...), append([]byte{block[50] ^ 1}, block[51:]...)...)))},
		"s2, claims a gigabyte": {inS2(part(p, 1, 1,
			append(binary.AppendUvarint(nil, 1<<30), block[3:]...)))},
		"s2, claims 16 exabytes": {inS2(part(p, 1, 1,
			append(binary.AppendUvarint(nil, 1<<64-1), block[3:]...)))},
		"s2, a bomb": {inS2(part(p, 1, 1,
			s2.Encode(nil, bytes.Repeat([]byte("x"), 200<<20))))},
		"s2, rows and more": {inS2(part(p, 1, 1,
			s2.Encode(nil, append(append([]byte{}, rows...), tooMuch...))))},
		"s2, a second block behind": {inS2(part(p, 1, 1,
			append(append([]byte{}, block...), block...)))},
	} {
		t.Run(name, func(t *testing.T) {
			for i, m := range msgs {
				m.Subject = pages.Subject(p.ID, i+1)
				_, err := s.JetStream().PublishMsg(t.Context(), m)
				require.NoError(t, err)
			}
			defer func() { require.NoError(t, s.Pages().Purge(context.Background(), "default", testKey)) }()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.Pages().Get(t.Context(), p.ID)
			runtime.ReadMemStats(&after)
			require.ErrorIs(t, err, events.ErrPageDamaged)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(96<<20), "bytes allocated")
		})
	}
}

func TestPageStreamIsFull(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, smallParts(t), journal.Config{MaxPagesBytes: 1 << 20})
	var err error
	n := 1
	for ; n < 100; n++ {
		if _, err = s.Pages().Publish(t.Context(), page(n, noise(uint64(n), 40<<10))); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, events.ErrNoSpace, "one part")
	require.Greater(t, n, 15)
	_, err = s.Pages().Publish(t.Context(), page(n, noise(1, 300<<10)))
	require.ErrorIs(t, err, events.ErrNoSpace, "a batch")
	stored1, err := s.Pages().Publish(t.Context(), page(1, noise(1, 300<<10)))
	require.NoError(t, err, "existing pages stay")
	require.False(t, stored1)

	require.NoError(t, s.Pages().PurgeRun(t.Context(), "default", testKey, 7, 0))
	for _, size := range []int{40 << 10, 300 << 10} {
		p := page(n, noise(3, size))
		stored1, err = s.Pages().Publish(t.Context(), p)
		require.NoError(t, err)
		require.True(t, stored1)
		got, err := s.Pages().Get(t.Context(), p.ID)
		require.NoError(t, err)
		requirePage(t, p, got)
		n++
	}
	_, err = s.Pages().Publish(t.Context(), page(n, noise(4, 2<<20)))
	require.ErrorIs(t, err, events.ErrNoSpace, "larger than the stream")
}

func TestListAndPurgePages(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	const count = 5000
	frame := zstdFrame(t, []byte(`[]`))
	// Published without waiting for each: this test is about reading.
	for n := range count {
		p := page(count-n, []byte(`[]`))
		_, err := s.JetStream().PublishMsgAsync(part(p, 1, 1, frame))
		require.NoError(t, err)
		if n%1000 == 999 {
			<-s.JetStream().PublishAsyncComplete()
		}
	}
	big := page(count+1, noise(1, 200<<10))
	_, err := s.Pages().Publish(t.Context(), big)
	require.NoError(t, err)
	other := page(3, []byte(`[]`))
	other.Run = 70
	_, err = s.Pages().Publish(t.Context(), other)
	require.NoError(t, err)

	numbers, err := s.Pages().List(t.Context(), "default", testKey, 7, 0)
	require.NoError(t, err)
	require.Len(t, numbers, count+1)
	for i, n := range numbers {
		require.Equal(t, i+1, n)
	}
	for _, empty := range []struct {
		tenant, key string
		run         uint64
	}{{"other", testKey, 7}, {"default", otherKey, 7}, {"default", testKey, 8}} {
		numbers, err = s.Pages().List(t.Context(), empty.tenant, empty.key, empty.run, 0)
		require.NoError(t, err)
		require.Empty(t, numbers)
	}

	require.NoError(t, s.Pages().PurgeRun(t.Context(), "default", testKey, 7, 0))
	_, err = s.Pages().Get(t.Context(), big.ID)
	require.ErrorIs(t, err, events.ErrPageMissing)
	got, err := s.Pages().Get(t.Context(), other.ID)
	require.NoError(t, err, "another run stays, also one whose number begins alike")
	require.Equal(t, `[]`, string(got.Rows))
	require.NoError(t, s.Pages().Purge(t.Context(), "default", testKey))
	require.Empty(t, eventstest.Stored(t, s, events.StreamPages, ">"))

	// A purge with a wildcard as a name would delete other exports' pages.
	_, err = s.Pages().Publish(t.Context(), other)
	require.NoError(t, err)
	require.Error(t, s.Pages().Purge(t.Context(), "default", "*"))
	require.Error(t, s.Pages().Purge(t.Context(), "*", testKey))
	require.Error(t, s.Pages().PurgeRun(t.Context(), "default", ">", 7, 0))
	_, err = s.Pages().Get(t.Context(), other.ID)
	require.NoError(t, err)
}

// After a purge the page can be written again, and the new one is read.
func TestPageAfterItsRunWasPurged(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	for n := range 3 {
		p := page(1, noise(uint64(n), 100<<10))
		stored1, err := s.Pages().Publish(t.Context(), p)
		require.NoError(t, err)
		require.True(t, stored1)
		got, err := s.Pages().Get(t.Context(), p.ID)
		require.NoError(t, err)
		requirePage(t, p, got)
		require.NoError(t, s.Pages().PurgeRun(t.Context(), "default", testKey, 7, 0))
	}
}

func TestPagesAreWrittenConcurrently(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, smallParts(t), journal.Config{})
	var wg sync.WaitGroup
	for n := range 60 { // more batches than the server accepts at once
		wg.Go(func() {
			if _, err := s.Pages().Publish(t.Context(), page(n+1, noise(uint64(n), 70<<10))); err != nil {
				t.Errorf("page %d: %v", n+1, err)
			}
		})
	}
	wg.Wait()
	numbers, err := s.Pages().List(t.Context(), "default", testKey, 7, 0)
	require.NoError(t, err)
	require.Len(t, numbers, 60)
	info, err := s.JetStream().Stream(t.Context(), events.StreamPages)
	require.NoError(t, err)
	require.Equal(t, uint64(120), info.CachedInfo().State.Msgs)
}

// Waiting for a turn among the batches does not reduce the time that the server has for a page.
func TestAPageHasItsTimeFromItsTurn(t *testing.T) {
	t.Parallel()
	s := eventstest.JournalOn(t, smallParts(t),
		journal.Config{PublishTimeout: time.Second, PublishAttempts: 2})
	giveBack := s.Pages().TakeTurns()
	done := make(chan error, 1)
	go func() {
		_, err := s.Pages().Publish(t.Context(), page(1, noise(1, 70<<10)))
		done <- err
	}()
	select {
	case err := <-done:
		require.FailNow(t, "not published in its turn", "%v", err)
	case <-time.After(3 * time.Second): // longer than both attempts
	}
	giveBack()
	require.NoError(t, <-done)
}

func TestPagesRoundTrip(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	ctx := t.Context()
	for n, rows := range [][]byte{[]byte(`[{"a":1}]`), noise(1, 3<<20), bytes.Repeat([]byte("x"), 10<<20)} {
		id := pages.ID{Tenant: "default", Key: testKey, Run: 7, Number: n + 1}
		stored, err := s.Pages().Publish(ctx,
			pages.Page{ID: id, Rows: rows, RowCount: 1, HeaderRow: true, Total: -1, Next: "sealed", Last: n == 2})
		require.NoError(t, err)
		require.True(t, stored)
		stored, err = s.Pages().Publish(ctx, pages.Page{ID: id, Rows: []byte(`[{"a":2}]`), RowCount: 1})
		require.NoError(t, err)
		require.False(t, stored)
		p, err := s.Pages().Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, len(rows), len(p.Rows))
		require.True(t, bytes.Equal(rows, p.Rows))
		require.Equal(t, "sealed", p.Next)
		require.Equal(t, n == 2, p.Last)
	}
	numbers, err := s.Pages().List(ctx, "default", testKey, 7, 0)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, numbers)
	_, err = s.Pages().Get(ctx, pages.ID{Tenant: "default", Key: testKey, Run: 7, Number: 4})
	require.ErrorIs(t, err, events.ErrPageMissing)
	require.NoError(t, s.Pages().PurgeRun(ctx, "default", testKey, 7, 0))
}
