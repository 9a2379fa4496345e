package status

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// Look says what to look for.
type Look struct {
	// After: tasks that were dispatched with a higher number, at most MostNew of them, the first ones. Negative: only the number of
	// the latest task, and which of the Before numbers up to it there are.
	After   int64
	MostNew int
	Before  int64
	// Missing are numbers that were passed over when they were not there yet.
	Missing []int64
	// Census: all tasks that are not final, at most MostLive.
	Census   bool
	MostLive int
	// Wishes: tasks that somebody wished to cancel of late. It is what can be asked when there are too many for a census.
	Wishes bool
	// Reports: when the reports of these tasks last changed.
	Reports []string
}

// Sight is what was seen.
type Sight struct {
	// New are the tasks above Look.After, and those of Missing, by number.
	New []Sighted
	// Live are the tasks of the census. Full: there are no others.
	Live []Sighted
	Full bool
	// Canceled are the tasks that somebody wished to cancel within the last seconds, if the leader has not acted on it.
	Canceled []Sighted
	// Reports are the times of the reports that exist, by task.
	Reports map[string]time.Time
}

// Sighted is one task.
type Sighted struct {
	Seq       int64
	ID        string
	UpdatedAt time.Time
}

// Judged is a task with what each filter says of it.
type Judged struct {
	Task    *task.Task
	Matches []bool
}

// Unfinished is a task that is not final.
type Unfinished struct {
	Seq int64
	ID  string
}

// Bounds of a look.
const (
	// mostNew is how many dispatches one look takes in.
	mostNew = 5000
	// mostLive is how many tasks a census compares: it takes about 4 µs for each. With more that are not final, what the leader does
	// not tell can't be found, so a leader whose word was lost makes all watches begin anew.
	mostLive = 100_000
	// A census may take a twentieth of the time, or a quarter while no leader is followed: then nothing else tells of changes.
	censusShare, censusShareAlone = 20, 4
	// censusPause is how long no census is tried when there are too many tasks.
	censusPause = time.Minute
	// missingKept and missingMost bound what is remembered of numbers that were passed over: those of dispatches that were not
	// committed yet, or never will be.
	missingKept = time.Minute
	missingMost = 1000
)

// looker finds changes by comparing what there is with what there was.
type looker struct {
	db                WatchDatabase
	every             time.Duration
	mostNew, mostLive int

	mu       sync.Mutex
	followed bool
	// doubt: the leader's word may have been lost since the last census.
	doubt bool
	// due: the doubt can be ended now, so the next look should not wait.
	due bool

	// The rest belongs to the one goroutine that looks.
	begun   bool
	high    int64
	missing map[int64]time.Time // until when they are looked for
	// known is when each task that is not final last changed; nil if there are too many.
	known   map[string]time.Time
	census  time.Time // when the next one may be made
	reports map[string]time.Time
}

// found is what a look has found.
type found struct{ changed, reports []string }

// follows notes whether a leader is followed.
func (l *looker) follows(leader bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.followed = leader
	l.doubt = true
	l.due = leader
}

func (l *looker) urgent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.due
}

// forget makes the next look the first one.
func (l *looker) forget() {
	l.begun, l.high, l.missing, l.known, l.census, l.reports = false, 0, map[int64]time.Time{}, nil, time.Time{}, map[string]time.Time{}
}

// look finds what changed since the look before; the first one finds nothing, it is what the others compare with. lost: changes may
// be missing.
func (l *looker) look(ctx context.Context, reports []string) (f found, lost bool, err error) {
	l.mu.Lock()
	followed, doubt := l.followed, l.doubt
	due := l.due
	l.due = false
	l.mu.Unlock()
	now := time.Now()
	ask := Look{
		After: l.high, MostNew: l.mostNew, Missing: slices.Sorted(maps.Keys(l.missing)), MostLive: l.mostLive, Reports: reports,
		Census: !l.begun || due || !now.Before(l.census),
		Wishes: l.begun && l.known == nil,
	}
	if !l.begun {
		ask.After, ask.Before = -1, missingMost
	}
	sight, err := l.db.Look(ctx, ask)
	if err != nil {
		if ask.Census && l.begun { // perhaps it was what took too long
			l.census = time.Now().Add(censusShareAlone * time.Since(now))
		}
		if due {
			l.mu.Lock()
			l.due = l.due || l.followed // as long as that is so, it is as urgent at the next look
			l.mu.Unlock()
		}
		return f, false, err
	}
	took := time.Since(now)
	first := !l.begun
	l.begun = true
	changed := map[string]struct{}{}
	l.arrivals(sight.New, first, now, changed)
	for _, t := range sight.Canceled {
		changed[t.ID] = struct{}{}
	}
	switch {
	case ask.Census && sight.Full:
		l.compare(sight.Live, changed)
		share := censusShare
		if !followed {
			share = censusShareAlone
		}
		l.census = time.Now().Add(max(l.every/2, time.Duration(share)*took))
		l.trust(followed)
	case ask.Census:
		l.known = nil
		l.census = time.Now().Add(max(censusPause, censusShare*took))
		// Nobody can say what changed while nobody was followed. Who is not followed now may be so later: the doubt stays.
		if followed && doubt {
			lost = !first
			l.trust(true)
		}
	}
	if !first {
		f.changed = slices.Collect(maps.Keys(changed))
	}
	f.reports = l.told(reports, sight.Reports)
	if len(sight.New) >= l.mostNew && !first {
		l.mu.Lock()
		l.due = true
		l.mu.Unlock()
	}
	return f, lost, nil
}

// trust ends the doubt, unless the leader that was followed at the beginning of the look no longer is.
func (l *looker) trust(followed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubt = l.doubt && (l.due || !followed)
}

// arrivals takes in tasks that were dispatched, and notes the numbers that are not there.
func (l *looker) arrivals(tasks []Sighted, first bool, now time.Time, changed map[string]struct{}) {
	for _, t := range tasks {
		delete(l.missing, t.Seq)
		if known, there := l.known[t.ID]; !there || !known.Equal(t.UpdatedAt) {
			changed[t.ID] = struct{}{}
		}
		if first && l.high == 0 {
			l.high = t.Seq - 1 // of the numbers before it nothing was asked
		}
		for n := l.high + 1; n < t.Seq && len(l.missing) < missingMost; n++ {
			l.missing[n] = now.Add(missingKept)
		}
		l.high = max(l.high, t.Seq)
	}
	for n, until := range l.missing {
		if now.After(until) {
			delete(l.missing, n)
		}
	}
}

// compare finds what differs from the census before.
func (l *looker) compare(live []Sighted, changed map[string]struct{}) {
	now := make(map[string]time.Time, len(live))
	for _, t := range live {
		now[t.ID] = t.UpdatedAt
		if was, there := l.known[t.ID]; l.known != nil && (!there || !was.Equal(t.UpdatedAt)) {
			changed[t.ID] = struct{}{}
		}
	}
	for id := range l.known {
		if _, there := now[id]; !there {
			changed[id] = struct{}{}
		}
	}
	l.known = now
}

// saw notes tasks that were read since the look: they need not be found again.
func (l *looker) saw(ids, unread []string, tasks []Judged) {
	if l.known == nil {
		return
	}
	for _, id := range ids {
		delete(l.known, id)
	}
	for _, t := range tasks {
		if !t.Task.State.Final() {
			l.known[t.Task.ID] = t.Task.UpdatedAt
		}
	}
	for _, id := range unread {
		l.known[id] = time.Time{}
	}
}

// told finds reports that changed, of those that were asked for. What is known of others is kept, but not for ever.
func (l *looker) told(asked []string, reports map[string]time.Time) (changed []string) {
	if len(asked) < reportsAsked {
		for id := range l.reports {
			if _, there := reports[id]; !there {
				delete(l.reports, id)
			}
		}
	} else if len(l.reports) > maxWatches*maxReported {
		clear(l.reports)
	}
	for id, at := range reports {
		if was, there := l.reports[id]; !there || !was.Equal(at) {
			changed = append(changed, id)
		}
		l.reports[id] = at
	}
	return changed
}
