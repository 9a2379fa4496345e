package dispatcher_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
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
