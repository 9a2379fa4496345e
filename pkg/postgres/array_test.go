package postgres_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

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
