package scheduler

import (
	"log/slog"
	"time"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// Survey is what the leader counts at each look.
type Survey struct {
	// Blocked tasks lack a resource; Ready ones have all and wait for a slot; Given ones have one; Resting ones wait for the
	// pause between two attempts to end.
	Blocked, Ready, Given, Resting int
	// UnknownName and UnmetVersions count the ready tasks that nobody connected can run: no executor knows the name, or none
	// that does has the versions. They hold their resources all the same, as any unblocked task does.
	UnknownName, UnmetVersions int
	// Slots and Free count those of connected executors for ordinary tasks.
	Slots, Free int
	// Executors counts those that are connected.
	Executors int
	// LongestBlocked and LongestReady are for how long the tasks have waited that have for longest, one for resources and one for a
	// slot; 0 if none waits.
	LongestBlocked, LongestReady time.Duration
	// Aged is about how many have waited for a slot for Pulp's five seconds.
	Aged int
	// Canceling are those of the given ones that were asked to stop.
	Canceling int
	// Draining executors are connected and take nothing more; Away ones are not connected, and have tasks.
	Draining, Away int
	// Queues are the longest ones.
	Queues []lock.Resource
}

// Runnable is how many tasks could run at this moment beside each other, were there slots for all.
func (s *Survey) Runnable() int { return s.Ready + s.Given }

// noticeAfter is how long nobody can run what is ready in a lane before it is logged, once: an executor that starts anew is
// away for a moment.
const noticeAfter = 5 * time.Second

// noticesAtOnce is how many of these lines a look writes at most; the rest come with the next ones. Names are chosen by clients, and
// while it writes lines the leader does nothing else.
const noticesAtOnce = 20

const (
	// agedAfter is how long a task has waited for a slot that Pulp counts as waiting for workers.
	agedAfter = 5 * time.Second
	// queuesShown is how many resources have a metric: their names are chosen by clients.
	queuesShown = 20
)

// survey counts, and logs which tasks wait for an executor that is not there. It costs the number of lanes and executors.
func (l *leader) survey() Survey {
	s := Survey{Blocked: l.locks.Blocked(), Resting: len(l.resting)}
	notices := 0
	for _, w := range l.lanes {
		n := 0
		unable := false
		for k := range kinds {
			n += w.waiting[k]
			unable = unable || w.waiting[k] > 0 && !w.able(k)
		}
		s.Ready += n
		if !unable {
			w.unableSince, w.noticed = time.Time{}, false
			continue
		}
		reason, known := "no connected executor knows the name", l.knowsName(w.name)
		if known {
			reason = "no connected executor that knows the name has the versions, and slots"
		}
		for k := range kinds {
			switch {
			case w.able(k):
			case known:
				s.UnmetVersions += w.waiting[k]
			default:
				s.UnknownName += w.waiting[k]
			}
		}
		now := l.now()
		switch {
		case w.unableSince.IsZero():
			w.unableSince = now
		case !w.noticed && notices < noticesAtOnce && now.Sub(w.unableSince) >= noticeAfter:
			w.noticed = true
			notices++
			l.log.Warn("tasks wait for an executor that can run them", slog.String("task", w.name), slog.Any("versions", w.versions),
				slog.Int("tasks", n), slog.String("reason", reason))
		}
	}
	for _, x := range l.executors {
		s.Given += len(x.claims)
		switch {
		case x.line == nil:
			s.Away++
		case x.draining:
			s.Draining++
			s.Executors++
		default:
			s.Executors++
		}
		for _, t := range x.claims {
			if t.canceling {
				s.Canceling++
			}
		}
		if x.crew != nil {
			s.Slots += x.slots[ordinarily]
			s.Free += x.free(ordinarily)
		}
	}
	now := l.time()
	s.Aged = l.unserved.older(now-agedAfter.Microseconds(), s.Ready)
	s.Queues = l.longestQueues(queuesShown)
	s.LongestBlocked, s.LongestReady = l.lacking.longest(s.Blocked, now), l.unserved.longest(s.Ready, now)
	return s
}

// knowsName reports whether somebody connected knows a task's name, whatever its versions.
func (l *leader) knowsName(name string) bool {
	for _, c := range l.crews {
		if c.names[name] {
			return true
		}
	}
	return false
}
