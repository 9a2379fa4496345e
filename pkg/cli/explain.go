package cli

import (
	"fmt"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// printExplanation says first in a sentence what there is to say, then the rest of what is known, that which matters most first.
func (s *session) printExplanation(e client.Explanation) {
	s.printf("%s\n", printable(e.Summary))
	if e.RetryAt != nil {
		s.printf("next attempt at %s\n", s.moment(*e.RetryAt))
	}
	for _, w := range e.Waits {
		s.printWait(w)
	}
	if len(e.Chain) > 1 {
		s.printf("\nwho waits for whom\n")
		rows := make([][]string, len(e.Chain))
		for i, link := range e.Chain {
			rows[i] = []string{fmt.Sprintf("  %d", i+1), link.Task.TaskID, link.Task.Name, has(link.Task) + " " + link.Resource, link.Standing}
		}
		s.printTable(rows)
	}
	for i, near := range e.Nearest {
		if i == 0 {
			s.printf("\nnearest executors\n")
		}
		for _, gap := range near.Gaps {
			has := gap.Has
			if has == "" {
				has = "none"
			}
			s.printf("  %s has %s %s, at least %s is needed\n", printable(near.Executor), printable(gap.Component), printable(has), printable(gap.Wanted))
		}
	}
	switch {
	case !e.Live:
	case e.State == task.Waiting:
		s.printf("\n%s, %d of them with the versions it needs, %s\n",
			plural(int64(e.ExecutorsWithName), "executor knows its name", "executors know its name"),
			e.ExecutorsWithVersions, plural(int64(e.FreeSlots), "free slot", "free slots"))
	default:
		s.printRun(e)
	}
	s.printTimes(e)
}

// printWait prints one resource that a task lacks, with the beginning of its queue.
func (s *session) printWait(w client.ResourceWait) {
	s.printf("\nwants %s %s\n", mode(w.Exclusive), printable(w.Resource))
	rows := make([][]string, 0, len(w.Holders)+len(w.WaitingAhead))
	for _, u := range append(w.Holders[:len(w.Holders):len(w.Holders)], w.WaitingAhead...) {
		rows = append(rows, []string{"  " + has(u), u.TaskID, u.Name, mode(u.Exclusive), "for " + s.since(u.Since), where(u)})
	}
	s.printTable(rows)
	first := "%s must go first\n"
	if w.AheadAtLeast {
		first = "at least " + first
	}
	s.printf("  "+first, plural(w.Ahead, "task", "tasks"))
}

// printRun prints how a run goes on.
func (s *session) printRun(e client.Explanation) {
	var rows [][]string
	if e.LastBeatAt != nil {
		rows = append(rows, []string{"  last beat", span(s.Now().Sub(*e.LastBeatAt)) + " ago, of " + e.Executor})
	}
	for _, p := range e.Progress {
		rows = append(rows, []string{"  progress", progressWords(p)})
	}
	if e.ProgressAt != nil {
		rows = append(rows, []string{"  reported", s.since(*e.ProgressAt) + " ago"})
	}
	if e.Attempt > 1 {
		rows = append(rows, []string{"  attempt", fmt.Sprint(e.Attempt)})
	}
	if len(rows) > 0 {
		s.printf("\n")
		once(rows)
		s.printTable(rows)
	}
}

// printTimes prints what happened when.
func (s *session) printTimes(e client.Explanation) {
	if e.CreatedAt.Unix() <= 0 {
		return
	}
	created := e.CreatedAt
	rows := [][]string{{"  dispatched", s.moment(created), s.since(created) + " ago"}}
	last := created
	add := func(what string, at *time.Time) {
		if at != nil {
			rows = append(rows, []string{"  " + what, s.moment(*at), span(at.Sub(last)) + " later"})
			last = *at
		}
	}
	add("unblocked", e.UnblockedAt)
	add("started", e.StartedAt)
	add("ended", e.FinishedAt)
	s.printf("\n")
	s.printTable(rows)
}

// has says whether a task has a resource already.
func has(u client.ResourceUse) string {
	if u.Granted {
		return "holds"
	}
	return "waits"
}

// where says how far a task is that somebody waits for.
func where(u client.ResourceUse) string {
	if u.Executor == "" {
		return string(u.State)
	}
	return fmt.Sprintf("%s on %s", u.State, u.Executor)
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
