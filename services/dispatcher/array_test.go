package dispatcher_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// awkward are names that mean something in the text of an array.
var awkward = []string{
	`"`, `\`, `\\"`, `{`, `}`, `{}`, `,`, `a,b`, `{"a","b"}`, `NULL`, `null`, `"NULL"`, ` a `, "a b", `'`, `''`, `$1`, `;--`, "ä", "資源", "🚰", "a\u2028b",
	"a\u00a0b", "e\u0301", "\ufffd", "\ufeff", "%s", "\\x00", "[0:1]={a,b}", strings.Repeat(`\"`, 500),
}

func TestNamesOfResourcesAreStoredAsTheyAre(t *testing.T) {
	w := newWorld(t, &leader{})
	tasks := []*taskv1.TaskSpec{newSpec("none"), newSpec("all")}
	tasks[1].ExclusiveResources = awkward
	for _, name := range awkward {
		tasks = append(tasks,
			&taskv1.TaskSpec{Name: "exclusive", ExclusiveResources: []string{name}},
			&taskv1.TaskSpec{Name: "shared", SharedResources: []string{name, "other"}})
	}
	for i, answer := range w.batch(t, tasks...) {
		stored := w.stored(t, answer.GetId()).Reserved
		if diff := cmp.Diff(tasks[i].GetExclusiveResources(), stored.Exclusive, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("exclusive: %s", diff)
		}
		if diff := cmp.Diff(append(tasks[i].GetSharedResources(), domain), stored.Shared); diff != "" {
			t.Errorf("shared: %s", diff)
		}
	}
}

// Whatever is in the names, PostgreSQL reads the list that was written.
func TestTextOfAnArrayIsReadAsItWasMeant(t *testing.T) {
	db := pgtest.New(t)
	check := func(t rapid.TB, want []string) {
		t.Helper()
		var got []string
		if err := db.QueryRow(context.Background(), `select $1::text::text[]`, dispatcher.ArrayText(want)).Scan(&got); err != nil {
			t.Fatalf("%q becomes %s: %v", want, dispatcher.ArrayText(want), err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s is read as something else (-want +got):\n%s", dispatcher.ArrayText(want), diff)
		}
	}
	check(t, nil)
	check(t, []string{""})
	check(t, awkward)
	name := rapid.OneOf(
		rapid.SampledFrom(awkward),
		rapid.StringOfN(rapid.RuneFrom([]rune(`"\{},; NULnul'äx`)), 0, 12, -1),
		rapid.StringN(0, 40, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }), // which PostgreSQL has not
	)
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.SliceOfN(name, 0, 20).Draw(t, "names")) })
}
