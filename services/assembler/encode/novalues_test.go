package encode_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/services/assembler/encode"
)

func TestNoValuesErrorNamesTheFirstKeys(t *testing.T) {
	t.Parallel()
	require.EqualError(t, &encode.NoValuesError{Keys: []string{"data.id", "a\nb"}},
		`no row has any of the chosen columns: "data.id", "a\nb"`)
	require.EqualError(t, &encode.NoValuesError{Sheet: "Orders", Keys: []string{"a", "b", "c", "d", "e", "f", "g"}},
		`no row of sheet "Orders" has any of the chosen columns: "a", "b", "c", "d", "e", and 2 more`)
}
