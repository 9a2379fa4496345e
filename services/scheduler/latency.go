package scheduler

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/latency"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

const (
	minuteMicros = int64(time.Minute / time.Microsecond)
	hourMicros   = int64(time.Hour / time.Microsecond)

	// mostFared is how many names and domains a minute, or an hour, has rows of their own for; what comes after is counted as
	// otherNames. Whoever puts a number into each name of a task must not fill the memory and the table with them.
	mostFared = 1000
	// mostUnsaved bounds the rows that could not be stored yet, in case that goes wrong for long: some minutes' worth at the most, of
	// which the oldest are given up.
	mostUnsaved = 10 * mostFared
	// mostListed bounds an answer to some megabytes.
	mostListed = 3 * mostFared
	// mostRecent is how many runs of a name are remembered for what is typical of it.
	mostRecent = 32
)

// latencies is the witness that measures how long tasks wait and run, and how they end, by the minute. The goroutine that owns the
// leader's memory adds to it; another one stores it (see keeper), and is asked for what is not stored yet.
//
// Minutes are those of the database's clock, but never go back: a minute is stored whole, so beginning one that is over, because the
// clock was put back, would take the place of what is stored. Until the clock has caught up all counts for the minute that was.
type latencies struct {
	mu sync.Mutex
	// minute is the one that is added to: its begin in microseconds since 1970. rows are its rows.
	minute int64
	rows   map[fate]*fared
	// unsaved are the rows, of this minute and earlier ones, that have something that is not stored; the oldest first.
	unsaved []*fared
	lost    int // rows that were given up
	// restored says that what is stored of the minute is in the rows.
	restored bool
	// recent are the latest runs by name, typically what is known of others from before this leadership.
	recent    map[string]*recent
	typically map[string]time.Duration
}

// fate names the tasks that are measured together.
type fate struct{ name, domain string }

// fared is what became of the tasks of one name and domain in one minute.
type fared struct {
	fate

	begins                      int64 // of the minute, in microseconds since 1970
	completed, failed, canceled int64
	unblock, start, run         latency.Histogram
	// changes counts what happened, stored is how much of that is in the database.
	changes, stored int64
}

// LatencyRow is what became of the tasks of one name and domain in a minute or an hour, as it is stored.
type LatencyRow struct {
	// Begins is when the minute or hour did, in microseconds since 1970.
	Begins                      int64
	Name, Domain                string
	Completed, Failed, Canceled int64
	// Histograms of pkg/latency.
	Unblock, Start, Run []byte
}

func newLatencies() *latencies {
	return &latencies{rows: map[fate]*fared{}, recent: map[string]*recent{}}
}

// started measures the waits of a task, once: not again for each attempt.
func (m *latencies) started(t *live, c *Claimed) {
	if c.Attempt > 1 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.row(t, t.story.begun)
	row.unblock.Add(span(t.created, t.story.unblocked))
	row.start.Add(span(t.story.unblocked, t.story.begun))
}

// failed notes how long an attempt ran; the task itself goes on.
func (m *latencies) failed(t *live, _ Again, at int64) {
	if t.story == nil || t.story.begun == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ran(t.lane.name, span(t.story.begun, at))
}

// ended counts how a task ended, and measures its run if it had one.
func (m *latencies) ended(t *live, end End, state task.State, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.row(t, at)
	switch state {
	case task.Completed:
		row.completed++
	case task.Failed:
		row.failed++
	case task.Canceled:
		row.canceled++
	case task.Waiting, task.Skipped, task.Running, task.Canceling:
	}
	if end.State != "" && t.story != nil && t.story.begun > 0 {
		took := span(t.story.begun, at)
		row.run.Add(took)
		m.ran(t.lane.name, took)
	}
}

// row is the one to add to for what happened to a task at a time in microseconds since 1970.
func (m *latencies) row(t *live, at int64) *fared {
	if minute := at - at%minuteMicros; minute > m.minute {
		m.begin(minute)
	}
	return m.change(m.rows, fate{t.lane.name, task.DefaultDomain}, m.minute)
}

// begin begins a minute.
func (m *latencies) begin(minute int64) { m.minute, m.rows = minute, map[fate]*fared{} }

// change returns a row that is about to be changed, and makes it if it is missing. Of too many the rest share one.
func (m *latencies) change(rows map[fate]*fared, of fate, begins int64) *fared {
	row := rows[of]
	if row == nil {
		if len(rows) >= mostFared && of.name != otherNames {
			return m.change(rows, fate{otherNames, of.domain}, begins)
		}
		row = &fared{fate: of, begins: begins}
		rows[of] = row
	}
	if row.changes == row.stored {
		m.unsaved = append(m.unsaved, row)
		if len(m.unsaved) > mostUnsaved && m.unsaved[0].begins < m.minute {
			m.unsaved[0], m.unsaved = nil, m.unsaved[1:]
			m.lost++
		}
	}
	row.changes++
	return row
}

// span is the time between two moments in microseconds since 1970.
func span(from, to int64) time.Duration { return time.Duration(to-from) * time.Microsecond }

// pending returns all that is not stored, and what to tell saved when it is. The lock is held for no longer than a row takes: a tick
// may be waiting for it.
func (m *latencies) pending() (rows []LatencyRow, upTo []version) {
	m.mu.Lock()
	those := slices.Clone(m.unsaved)
	m.mu.Unlock()
	for _, row := range those {
		m.mu.Lock()
		rows, upTo = append(rows, row.encoded()), append(upTo, version{row, row.changes})
		m.mu.Unlock()
	}
	return rows, upTo
}

// version is a row as it was at a moment.
type version struct {
	row     *fared
	changes int64
}

// saved notes that rows have been stored as they were then.
func (m *latencies) saved(those []version) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range those {
		s.row.stored = s.changes
	}
	m.unsaved = slices.DeleteFunc(m.unsaved, func(row *fared) bool { return row.changes == row.stored })
}

// over makes sure that nothing more is added to what is before a time in microseconds since 1970; false if some of that is yet to be
// stored.
func (m *latencies) over(before int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.minute < before {
		m.begin(before)
	}
	return !slices.ContainsFunc(m.unsaved, func(row *fared) bool { return row.begins < before })
}

// encoded is the row as it is stored.
func (f *fared) encoded() LatencyRow {
	return LatencyRow{
		Begins: f.begins, Name: f.name, Domain: f.domain, Completed: f.completed, Failed: f.failed, Canceled: f.canceled,
		Unblock: encoded(&f.unblock), Start: encoded(&f.start), Run: encoded(&f.run),
	}
}

func encoded(h *latency.Histogram) []byte {
	b, err := h.AppendBinary(nil)
	if err != nil {
		return nil // it never is
	}
	return b
}

// merge adds up what two rows say.
func (f *fared) merge(other *fared) {
	f.completed += other.completed
	f.failed += other.failed
	f.canceled += other.canceled
	f.unblock.Merge(&other.unblock)
	f.start.Merge(&other.start)
	f.run.Merge(&other.run)
}

// parse reads a row that is stored.
func (r LatencyRow) parse() (*fared, error) {
	f := &fared{
		fate: fate{r.Name, r.Domain}, begins: r.Begins, completed: r.Completed, failed: r.Failed, canceled: r.Canceled,
	}
	for _, part := range []struct {
		from []byte
		into *latency.Histogram
	}{{r.Unblock, &f.unblock}, {r.Start, &f.start}, {r.Run, &f.run}} {
		h, err := latency.Parse(part.from)
		if err != nil {
			return nil, err
		}
		*part.into = *h
	}
	return f, nil
}

// recent are the latest runs of a name.
type recent struct {
	took [mostRecent]time.Duration
	made int
}

// ran notes a run for what is typical.
func (m *latencies) ran(name string, took time.Duration) {
	r := m.recent[name]
	if r == nil {
		if len(m.recent) >= mostFared {
			for any := range m.recent { // whichever: of so many none matters much
				delete(m.recent, any)
				break
			}
		}
		r = &recent{}
		m.recent[name] = r
	}
	r.took[r.made%mostRecent] = max(0, took)
	r.made++
}

// typical is the median of the latest runs of a name; false if it is not known to have run.
func (m *latencies) typical(name string) (took time.Duration, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.recent[name]
	if r == nil {
		took, known = m.typically[name]
		return took, known
	}
	runs := r.took // a copy
	n := min(r.made, mostRecent)
	slices.Sort(runs[:n])
	return runs[(n-1)/2], true
}

// typical is how long tasks of a name usually run, by their latest runs; false if that is not known.
func (l *leader) typical(name string) (took time.Duration, known bool) {
	if l.latencies == nil {
		return 0, false
	}
	return l.latencies.typical(name)
}

// ListLatencies returns what the leader has measured and not stored yet.
func (s *Service) ListLatencies(context.Context, *schedulerv1.ListLatenciesRequest) (*schedulerv1.ListLatenciesResponse, error) {
	m := s.latencies.Load()
	if m == nil {
		return nil, errStandby()
	}
	answer := &schedulerv1.ListLatenciesResponse{}
	if !m.complete() {
		return answer, nil // they would take the place of what is stored, and have less
	}
	rows, _ := m.pending()
	rows = rows[max(0, len(rows)-mostListed):] // the latest, should the database have taken none for long
	for _, r := range rows {
		at := time.UnixMicro(r.Begins)
		answer.Rows = append(answer.Rows, &schedulerv1.LatencyRow{
			Minute: wire.Time(&at), Name: r.Name, Domain: r.Domain, Completed: r.Completed, Failed: r.Failed, Canceled: r.Canceled,
			Unblock: r.Unblock, Start: r.Start, Run: r.Run,
		})
	}
	return answer, nil
}

// complete reports whether rows have all that there is to their minute.
func (m *latencies) complete() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restored
}
