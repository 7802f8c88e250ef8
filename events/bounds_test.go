package events_test

import (
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

func TestLogBounds(t *testing.T) {
	s := eventstest.Streams(t)
	created, first, last, err := s.LogBounds(t.Context())
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 0}, []uint64{first, last})
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: testKey}, "", always(requested()))
	require.NoError(t, err)
	again, first, last, err := s.LogBounds(t.Context())
	require.NoError(t, err)
	require.True(t, created.Equal(again))
	require.Equal(t, []uint64{1, x.LastSeq}, []uint64{first, last})
}
