package status

import (
	"testing"
	"time"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// Select is a statement that returns the ids of the tasks of a filter.
type Select struct {
	SQL  string
	Args []any
}

// Selects are the ways to ask the database for the tasks of a filter.
func Selects(t testing.TB, f *statusv1.Filter) map[string]Select {
	t.Helper()
	sel, err := selectionOf(f, false)
	if err != nil {
		t.Fatal(err)
	}
	besideMany, err := selectionOf(f, true)
	if err != nil {
		t.Fatal(err)
	}
	condition, args, err := where(f, []any{"first"})
	if err != nil {
		t.Fatal(err)
	}
	const ids = `select coalesce(array_agg(task.id::text), '{}') from `
	return map[string]Select{
		"a list":                       {ids + sel.from("task.id") + ` where ` + sel.where, sel.args},
		"a list beside a million":      {ids + besideMany.from("task.id") + ` where ` + besideMany.where, besideMany.args},
		"a condition beside another's": {ids + `task where $1::text = 'first' and ` + condition, args},
		"a judgement":                  {ids + `(select id, coalesce(` + condition + `, false) and $1::text = 'first' as so from task) task where task.so`, args},
	}
}

// Patience sets how long a list and a count may take.
func (s *Store) Patience(list, count time.Duration) { s.listPatience, s.countPatience = list, count }
