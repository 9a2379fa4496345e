package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// history is what tasks wrote about themselves, in the order in which it happened: the file is only ever appended to.
type history struct {
	s    *system
	path string
}

// moment is one line of a history.
type moment struct {
	ends     bool // else it starts
	task     string
	claim    int64
	resource string
	shared   bool
}

func (s *system) history() *history {
	s.t.Helper()
	h := &history{s: s, path: s.file("history")}
	if err := os.WriteFile(h.path, nil, 0o666); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(h.path, 0o666); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// task is one that notes its start and its end; between them it starts a process, so that it takes a moment.
func (h *history) task(resource string, shared bool) client.Spec {
	kind := "exclusive"
	spec := client.Spec{Exclusive: []string{resource}}
	if shared {
		kind, spec = "shared", client.Spec{Shared: []string{resource}}
	}
	line := fmt.Sprintf(`$SLUICE_TASK_ID $SLUICE_TASK_CLAIM %s %s" >> %s`, kind, resource, h.path)
	run := shell(`echo "start %s; ls / > /dev/null; echo "end %s`, line, line)
	spec.Name, spec.Kwargs = run.Name, run.Kwargs
	return spec
}

// read returns what happened so far.
func (h *history) read() []moment {
	h.s.t.Helper()
	text, err := os.ReadFile(h.path)
	if err != nil {
		h.s.t.Fatal(err)
	}
	moments, err := parseHistory(string(text))
	if err != nil {
		h.s.t.Fatal(err)
	}
	return moments
}

func parseHistory(text string) ([]moment, error) {
	var made []moment
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			return nil, fmt.Errorf("the history has the line %q", line)
		}
		claim, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the history has the line %q: %w", line, err)
		}
		made = append(made, moment{ends: fields[0] == "end", task: fields[1], claim: claim, shared: fields[3] == "shared", resource: fields[4]})
	}
	return made, nil
}

// checkHistory returns what is wrong with a history: tasks that ran together though one of them was exclusive, or that ran
// twice, and exclusive tasks that started in another order than order, which has the ids as they were dispatched; what is
// not in it has no place to keep. Tasks that were lost may have no end; they are taken to have ended before the next one started that they conflict with.
func checkHistory(moments []moment, order []string, lost map[string]bool) []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	holders := map[string][]moment{} // by resource
	last := map[string]int{}         // by resource: place in order of the exclusive task that started last
	seen := map[string]bool{}
	for _, m := range moments {
		held := holders[m.resource]
		if m.ends {
			i := slices.IndexFunc(held, func(h moment) bool { return h.task == m.task && h.claim == m.claim })
			if i < 0 {
				say("task %s ended on %s without holding it", m.task, m.resource)
				continue
			}
			holders[m.resource] = slices.Delete(held, i, i+1)
			continue
		}
		if seen[m.task] {
			say("task %s started twice", m.task)
		}
		seen[m.task] = true
		still := slices.DeleteFunc(slices.Clone(held), func(h moment) bool { return lost[h.task] && !(h.shared && m.shared) })
		for _, h := range still {
			if !h.shared || !m.shared {
				say("task %s started on %s while %s held it", m.task, m.resource, h.task)
			}
		}
		holders[m.resource] = append(still, m)
		if place := slices.Index(order, m.task); !m.shared && place >= 0 {
			if before, any := last[m.resource]; any && place < before {
				say("task %s started on %s after %s, which was dispatched later", m.task, m.resource, order[before])
			}
			last[m.resource] = place
		}
	}
	for resource, held := range holders {
		for _, h := range held {
			if !lost[h.task] {
				say("task %s never ended on %s", h.task, resource)
			}
		}
	}
	return wrong
}

// check fails the test when the history is wrong.
func (h *history) check(order []string, lost map[string]bool) {
	h.s.t.Helper()
	for _, wrong := range checkHistory(h.read(), order, lost) {
		h.s.t.Error(wrong)
	}
}

func TestTheHistoryCheckerFindsWhatItIsFor(t *testing.T) {
	order := []string{"a", "b", "c"}
	for name, c := range map[string]struct {
		history string
		lost    map[string]bool
		wrong   int
	}{
		"one after the other":            {"start a 1 exclusive r\nend a 1 exclusive r\nstart b 1 exclusive r\nend b 1 exclusive r\n", nil, 0},
		"overlap of two exclusive":       {"start a 1 exclusive r\nstart b 1 exclusive r\nend a 1 exclusive r\nend b 1 exclusive r\n", nil, 1},
		"overlap with a shared one":      {"start a 1 exclusive r\nstart b 1 shared r\nend a 1 exclusive r\nend b 1 shared r\n", nil, 1},
		"two shared":                     {"start a 1 shared r\nstart b 1 shared r\nend a 1 shared r\nend b 1 shared r\n", nil, 0},
		"different resources":            {"start a 1 exclusive r\nstart b 1 exclusive q\nend a 1 exclusive r\nend b 1 exclusive q\n", nil, 0},
		"wrong order":                    {"start b 1 exclusive r\nend b 1 exclusive r\nstart a 1 exclusive r\nend a 1 exclusive r\n", nil, 1},
		"one that has no place":          {"start x 1 exclusive r\nend x 1 exclusive r\nstart a 1 exclusive r\nend a 1 exclusive r\n", nil, 0},
		"no end":                         {"start a 1 exclusive r\n", nil, 1},
		"no end of a lost one":           {"start a 1 exclusive r\nstart b 1 exclusive r\nend b 1 exclusive r\n", map[string]bool{"a": true}, 0},
		"a lost one that went on":        {"start a 1 exclusive r\nstart b 1 exclusive r\nend a 1 exclusive r\nend b 1 exclusive r\n", map[string]bool{"a": true}, 1},
		"twice":                          {"start a 1 exclusive r\nend a 1 exclusive r\nstart a 2 exclusive r\nend a 2 exclusive r\n", nil, 1},
		"an end without a start before":  {"end a 1 exclusive r\n", nil, 1},
		"an end with the claim of yores": {"start a 2 exclusive r\nend a 1 exclusive r\nend a 2 exclusive r\n", nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			moments, err := parseHistory(c.history)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := checkHistory(moments, order, c.lost); len(wrong) != c.wrong {
				t.Errorf("found %d things wrong, want %d: %s", len(wrong), c.wrong, wrong)
			}
		})
	}
}
