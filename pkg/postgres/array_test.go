package postgres_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestArraysAreReadAsTheyWereWritten(t *testing.T) {
	db := pgtest.New(t)
	null, word := "NULL", `{"a"}`
	texts := []string{"", " ", "NULL", `"`, `\`, `\\"`, "{}", "{a,b}", "a,b", "'", "tab\tline\n", "ünïcödé", "$1", "--"}
	optional := []*string{nil, &null, &word, nil}
	numbers := []int64{0, -1, math.MaxInt64, math.MinInt64}
	flags := []bool{true, false, true}
	for _, n := range []int{0, 1, len(texts)} {
		if got := pgtest.One[[]string](t, db, `select $1::text[]`, postgres.Texts(texts[:n])); !cmp.Equal(got, texts[:n]) {
			t.Error(cmp.Diff(texts[:n], got))
		}
	}
	if got := pgtest.One[[]*string](t, db, `select $1::text[]`, postgres.TextsOrNull(optional)); !cmp.Equal(got, optional) {
		t.Error(cmp.Diff(optional, got))
	}
	if got := pgtest.One[[]int64](t, db, `select $1::bigint[]`, postgres.Bigints(numbers)); !cmp.Equal(got, numbers) {
		t.Error(cmp.Diff(numbers, got))
	}
	if got := pgtest.One[[]bool](t, db, `select $1::boolean[]`, postgres.Booleans(flags)); !cmp.Equal(got, flags) {
		t.Error(cmp.Diff(flags, got))
	}
	if got := pgtest.One[int](t, db, `select cardinality($1::bigint[]) + cardinality($2::boolean[])`, postgres.Bigints(nil), postgres.Booleans(nil)); got != 0 {
		t.Errorf("empty arrays have %d elements", got)
	}
}

// Whatever is in the names, PostgreSQL reads the list that was written.
func TestTextOfAnArrayIsReadAsItWasMeant(t *testing.T) {
	db := pgtest.New(t)
	check := func(t rapid.TB, want []string) {
		t.Helper()
		var got []string
		if err := db.QueryRow(context.Background(), `select $1::text::text[]`, postgres.Texts(want)).Scan(&got); err != nil {
			t.Fatalf("%q becomes %s: %v", want, postgres.Texts(want), err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s is read as something else (-want +got):\n%s", postgres.Texts(want), diff)
		}
	}
	check(t, nil)
	check(t, []string{""})
	name := rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune(`"\{},; NULnul'äx`)), 0, 12, -1),
		rapid.StringN(0, 40, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }), // which PostgreSQL has not
	)
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.SliceOfN(name, 0, 20).Draw(t, "names")) })
}
