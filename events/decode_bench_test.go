package events_test

import (
	"testing"

	"sheaf/events"
)

func BenchmarkDecode(b *testing.B) {
	ev := samples()[2]
	msg, err := events.Encode(ev)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(msg.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Decode(msg.Subject, msg.Header, msg.Data, 21); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	ev := samples()[2]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Encode(ev); err != nil {
			b.Fatal(err)
		}
	}
}
