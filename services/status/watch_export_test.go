package status

import "time"

// Bound sets bounds that production does not reach in a test: tasks of a census, and tasks and bytes that are remembered.
func (s *Service) Bound(live, changes, bytes int) {
	s.watching.looker.mostLive = live
	s.watching.changes.most, s.watching.changes.mostBytes = changes, bytes
}

// MaxAwaitedByAll is the bound of what all calls wait for.
const MaxAwaitedByAll = maxAwaitedByAll

// AwaitMore counts tasks as waited for by others.
func (s *Service) AwaitMore(tasks int64) { s.awaited.Add(tasks) }

// Watches is how many watches there are, and of how many filters.
func (s *Service) Watches() (watches, filters int) {
	w := s.watching
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watchers, len(w.choices)
}

// Recording tells whether changes are looked for.
func (s *Service) Recording() bool {
	w := s.watching
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.recording
}

// Remembered is how many changes are kept, how many bytes of tasks, and how much room the list takes.
func (s *Service) Remembered() (changes, bytes, places int) {
	l := s.watching.changes
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.latest), l.bytes, len(l.changes)
}

// Bounds of watching.
const (
	MaxWatches    = maxWatches
	SharedFilters = sharedFilters
	MaxCurrent    = maxCurrent
	AwaitedLook   = awaitedLook
)

// ChangeLog is the log of changes, for a test that knows what it should be.
type ChangeLog struct{ log *changeLog }

// NewChangeLog makes one.
func NewChangeLog(most, mostBytes int) ChangeLog { return ChangeLog{newChangeLog(most, mostBytes)} }

// Add notes a change.
func (l ChangeLog) Add(id string, updated time.Time, bytes int) {
	l.log.add(&change{id: id, updated: updated, bytes: bytes})
}

// Place is where the log ends.
func (l ChangeLog) Place() uint64 { return l.log.place() }

// Bytes is how much is shown.
func (l ChangeLog) Bytes() int { return l.log.bytes }

// After returns what comes after a place.
func (l ChangeLog) After(place uint64, most int) (ids []string, next uint64, ok bool) {
	return l.AfterOf(place, most, 1<<30)
}

// AfterOf is After for no more than so many bytes, and one change.
func (l ChangeLog) AfterOf(place uint64, most, bytes int) (ids []string, next uint64, ok bool) {
	changes, next, _, ok := l.log.after(place, most, bytes)
	for _, c := range changes {
		ids = append(ids, c.id)
	}
	return ids, next, ok
}
