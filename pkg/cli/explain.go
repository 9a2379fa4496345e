package cli

import (
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/client"
)

func (s *session) printExplanation(e client.Explanation) {
	s.printf("%s\n", printable(e.Summary))
	if !e.Live {
		return
	}
	if e.RetryAt != nil {
		s.printf("next attempt at %s\n", s.moment(*e.RetryAt))
	}
	for _, w := range e.Waits {
		s.printf("\nwants %s %s\n", mode(w.Exclusive), printable(w.Resource))
		if len(w.Holders) > 0 {
			s.printf("  held by\n")
			rows := make([][]string, len(w.Holders))
			for i, h := range w.Holders {
				rows[i] = []string{"    " + h.TaskID, h.Name, mode(h.Exclusive), "dispatched " + s.since(h.CreatedAt) + " ago"}
			}
			s.printTable(rows)
		}
		if more := w.HolderCount - int64(len(w.Holders)); more > 0 {
			s.printf("    and %d more\n", more)
		}
		s.printf("  %s must go first\n", plural(w.Ahead, "task", "tasks"))
	}
	s.printf("\n%s, %d of them with the versions it needs, %s\n",
		plural(int64(e.ExecutorsWithName), "executor knows its name", "executors know its name"),
		e.ExecutorsWithVersions, plural(int64(e.FreeSlots), "free slot", "free slots"))
}

// mode is how a task wants or holds a resource.
func mode(exclusive bool) string {
	if exclusive {
		return "exclusive"
	}
	return "shared"
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
