package scheduler

import (
	"context"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// modelSchedule is a row of the model's task_schedule. Times are in microseconds, 0 for null.
type modelSchedule struct {
	row         Row
	every, next int64
	last        *modelRow
}

// isDue reports whether it is to be dispatched, sooner or later.
func (s *modelSchedule) isDue() bool { return s.next != 0 && (s.last == nil || s.last.final) }

// due is when the next one is due, nil if none ever is.
func (m *modelDatabase) due() (first *int64) {
	for _, s := range m.schedules {
		if s.isDue() && (first == nil || s.next < *first) {
			first = &s.next
		}
	}
	if first != nil {
		at := *first
		first = &at
	}
	return first
}

func (m *modelDatabase) Fire(_ context.Context, epoch int64, fresh []Fresh) (Firing, error) {
	if epoch != m.epoch {
		return Firing{}, ErrDeposed
	}
	fail := m.fail
	m.fail = nil
	if fail != nil && !*fail {
		return Firing{}, errModel
	}
	firing := Firing{Now: m.now()}
	x := m.begin()
	for _, s := range m.schedules {
		if !s.isDue() || s.next > m.now() || len(firing.Fired) == len(fresh) {
			continue
		}
		fired := Fired{TaskName: s.row.Name, Due: time.UnixMicro(s.next)}
		s.last = m.insert(x, s.row)
		fired.TaskID = s.last.ID
		if s.next = s.next + (m.now()-s.next)/max(1, s.every)*s.every + s.every; s.every == 0 {
			s.next = 0
		}
		firing.Fired = append(firing.Fired, fired)
	}
	m.commit(x)
	for _, r := range x.rows {
		m.fired(r)
	}
	if firing.Due = m.due(); fail != nil {
		return Firing{}, errModel
	}
	return firing, nil
}

// schedules is the step that makes schedules.
func (s *simulation) schedules() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"a schedule is made": func(t *rapid.T) {
			if len(s.db.schedules) == 5 {
				t.Skip("enough")
			}
			made := &modelSchedule{
				row:   drawRow(t),
				every: rapid.SampledFrom([]time.Duration{0, 0, time.Second, 3 * time.Second, time.Minute}).Draw(t, "every").Microseconds(),
				next: s.db.now() + rapid.SampledFrom([]time.Duration{
					-time.Hour, 0, 0, 20 * time.Millisecond, 3 * time.Second,
				}).Draw(t, "next").Microseconds(),
			}
			made.row.Immediate, made.row.Deferred = false, true
			s.db.schedules = append(s.db.schedules, made)
		},
		"a scheduled task is over": func(t *rapid.T) {
			// Or at last it is not: who runs it ends it by and by.
			for _, made := range s.db.schedules {
				if made.last != nil && made.last.State == task.Waiting && rapid.Bool().Draw(t, "cancel") {
					s.db.cancel(made.last.Seq)
				}
			}
		},
	}
}

// settleSchedules checks that what is due was dispatched when there was time for it, and ends all schedules.
func (s *simulation) settleSchedules() {
	for range 3 {
		s.clock = s.clock.Add(time.Second)
		s.idle()
	}
	for _, made := range s.db.schedules {
		if made.isDue() && made.next <= s.db.now()-20*time.Millisecond.Microseconds() {
			s.t.Fatalf("a schedule has been due for %d µs, and the leader expects the next one at %v, now %v", s.db.now()-made.next, s.leader.due, s.clock)
		}
	}
	s.db.schedules = nil
}
