package languages

import "testing"

func TestAKeyTellsItsPartsApart(t *testing.T) {
	seen := map[string][]string{}
	for _, parts := range [][]string{{}, {""}, {"ab"}, {"a", "b"}, {"b", "a"}, {"a", "b", ""}} {
		k := key(parts...)
		if other, twice := seen[k]; twice {
			t.Errorf("%q and %q have the same key", parts, other)
		}
		seen[k] = parts
	}
}
