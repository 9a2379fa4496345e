package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// nearestShown is how many executors are named that lack a version.
	nearestShown = 5
	// walkLimit bounds what one explanation looks at, tasks that are ready and tasks that run: about a millisecond's worth.
	walkLimit = 10_000
)

// explainReady says what a task that has all its resources needs of an executor.
func (l *leader) explainReady(t *live, answer *schedulerv1.ExplainResponse) {
	if !t.lane.able(t.kind()) {
		answer.Nearest = l.nearest(t)
		return
	}
	ahead := l.ahead(t)
	for _, n := range ahead {
		answer.ReadyAhead += int64(n)
	}
	if left, known := l.slotIn(t, ahead); known {
		answer.Estimate = durationpb.New(left)
	}
}

// nearest lists executors that know the name and lack a version, those that lack least first.
func (l *leader) nearest(t *live) []*schedulerv1.NearExecutor {
	var near []*schedulerv1.NearExecutor
	for _, x := range l.executors {
		if x.line == nil || !x.names[t.lane.name] {
			continue
		}
		if lacks := versionGaps(x.versions, t.lane.versions); len(lacks) > 0 {
			near = append(near, &schedulerv1.NearExecutor{Executor: x.name, Gaps: lacks})
		}
	}
	slices.SortFunc(near, func(a, b *schedulerv1.NearExecutor) int {
		return cmp.Or(cmp.Compare(len(a.GetGaps()), len(b.GetGaps())), strings.Compare(a.GetExecutor(), b.GetExecutor()))
	})
	return near[:min(nearestShown, len(near))]
}

// versionGaps lists what components do not suffice, by name.
func versionGaps(has, need map[string]string) (lacks []*schedulerv1.VersionGap) {
	for _, component := range slices.Sorted(maps.Keys(need)) {
		if !task.Satisfies(has, map[string]string{component: need[component]}) {
			lacks = append(lacks, &schedulerv1.VersionGap{Component: component, Wanted: need[component], Has: has[component]})
		}
	}
	return lacks
}

// gaps says for people what an executor lacks.
func gaps(lacks []*schedulerv1.VersionGap) string {
	says := make([]string, len(lacks))
	for i, gap := range lacks {
		has := "is missing"
		if gap.GetHas() != "" {
			has = "is " + gap.GetHas()
		}
		says[i] = fmt.Sprintf("%s %s and must be %s or later", gap.GetComponent(), has, gap.GetWanted())
	}
	return strings.Join(says, ", ")
}

// ahead counts by name the ready tasks that get a slot before t does: those that are older, in all lanes from which an executor takes
// that could take t. It looks at no more than walkLimit of them.
func (l *leader) ahead(t *live) map[string]int {
	k, left := t.kind(), walkLimit
	counts, seen := map[string]int{}, map[*lane]bool{}
	for _, mine := range t.lane.posts {
		if mine.crew.slots[k] == 0 {
			continue
		}
		// The lanes are in a heap by their oldest, and so are the tasks of each: below one that is younger none is older.
		work := mine.crew.work[k].items
		walk(len(work), &left, func(i int) bool {
			p := work[i]
			if p.seq[k] >= t.seq {
				return false
			}
			if !seen[p.lane] {
				seen[p.lane] = true
				list := p.lane.ready[k]
				walk(len(list), &left, func(i int) bool {
					if list[i].seq >= t.seq {
						return false
					}
					if list[i].phase == ready {
						counts[p.lane.name]++
					}
					return true
				})
			}
			return true
		})
	}
	return counts
}

// walk goes down a heap of n from the top, below those of which do says so, while steps are left.
func walk(n int, left *int, do func(i int) bool) {
	open := []int{0}
	for len(open) > 0 && *left > 0 {
		i := open[len(open)-1]
		open = open[:len(open)-1]
		if i >= n {
			continue
		}
		*left--
		if do(i) {
			open = append(open, 2*i+1, 2*i+2)
		}
	}
}

// slotIn estimates in how long a slot is free for t, by how long tasks of the same names took lately: each slot is free when what runs
// there has taken as long as usual, and those who are ahead fill the slots evenly. It is not known if a slot is free now, or if there
// is nothing to go by.
func (l *leader) slotIn(t *live, ahead map[string]int) (left time.Duration, known bool) {
	ends, known := l.slotEnds(t)
	if !known || len(ends) == 0 {
		return 0, false
	}
	work, counted, unknown := time.Duration(0), 0, 0
	for name, n := range ahead {
		if usual, known := l.typical(name); known {
			work += time.Duration(n) * usual
			counted += n
		} else {
			unknown += n
		}
	}
	switch {
	case unknown > 0 && counted > 0:
		work += work / time.Duration(counted) * time.Duration(unknown) // as long as the others on the average
	case unknown > 0:
		return 0, false
	}
	return filled(ends, work), true
}

// slotEnds lists in how long the tasks end that occupy the slots for which t waits, as far as that can be told; false if one of the
// slots is free.
func (l *leader) slotEnds(t *live) (ends []time.Duration, busy bool) {
	k, now, walked := t.kind(), l.time(), 0
	type usually struct {
		took  time.Duration
		known bool
	}
	names := map[string]usually{}
	for _, post := range t.lane.posts {
		for _, x := range post.crew.free[k].items {
			if x.free(k) > 0 {
				return nil, false
			}
			for _, runs := range x.claims {
				if runs.kind() != k {
					continue
				}
				if walked++; walked > walkLimit {
					return ends, true
				}
				usual, asked := names[runs.lane.name]
				if !asked {
					usual.took, usual.known = l.typical(runs.lane.name)
					names[runs.lane.name] = usual
				}
				if !usual.known {
					continue
				}
				took := time.Duration(0)
				if begun := runs.begun(); begun > 0 {
					took = time.Duration(max(0, now-begun)) * time.Microsecond
				}
				// What has taken longer than usual will go on for a while, and the longer the more.
				ends = append(ends, max(usual.took-took, took/4))
			}
		}
	}
	return ends, true
}

// filled is when the first of some slots is free, if work is done on them from the moment at which each is free.
func filled(ends []time.Duration, work time.Duration) time.Duration {
	slices.Sort(ends)
	for i := range ends {
		// The first i+1 of them are filled to the same level.
		work += ends[i]
		level := work / time.Duration(i+1)
		if i == len(ends)-1 || level <= ends[i+1] {
			return level
		}
	}
	return 0
}
