package scheduler

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// modelKey is the primary key of the tables of latencies.
type modelKey struct {
	begins       int64
	name, domain string
}

// modelLatencies behaves like the statements in store_latency.go, in memory. The zero value is empty, and of epoch 0.
type modelLatencies struct {
	mu             sync.Mutex
	epochNow       int64
	now            int64 // its clock, in microseconds since 1970
	minutes, hours map[modelKey]LatencyRow
	// refuse is consumed by the next statement that writes: it says whether that has an effect although it reports an error.
	refuse *bool
}

func (m *modelLatencies) LatestLatencies(context.Context) (Measured, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var measured Measured
	for _, row := range m.minutes {
		measured.Rows = append(measured.Rows, row)
	}
	slices.SortFunc(measured.Rows, func(a, b LatencyRow) int { return cmp.Compare(b.Begins, a.Begins) })
	measured.Summed = m.summed()
	return measured, nil
}

// summed is the end of the last hour that was added up, 0 if none was.
func (m *modelLatencies) summed() (end int64) {
	for key := range m.hours {
		end = max(end, key.begins+hourMicros)
	}
	return end
}

func (m *modelLatencies) SaveMinutes(_ context.Context, epoch int64, rows []LatencyRow) error {
	return m.save(&m.minutes, epoch, rows)
}

func (m *modelLatencies) SaveHour(_ context.Context, epoch int64, rows []LatencyRow) error {
	return m.save(&m.hours, epoch, rows)
}

func (m *modelLatencies) save(into *map[modelKey]LatencyRow, epoch int64, rows []LatencyRow) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	refuse := m.refuse
	m.refuse = nil
	switch {
	case refuse != nil && !*refuse:
		return errModel
	case epoch != m.epochNow:
		return ErrDeposed
	}
	if *into == nil {
		*into = map[modelKey]LatencyRow{}
	}
	for _, row := range rows {
		(*into)[modelKey{row.Begins, row.Name, row.Domain}] = row
	}
	if refuse != nil {
		return errModel
	}
	return nil
}

func (m *modelLatencies) EarliestUnsummed(context.Context) (minute, now int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	minute = math.MaxInt64
	for key := range m.minutes {
		if key.begins >= m.summed() {
			minute = min(minute, key.begins)
		}
	}
	if minute == math.MaxInt64 {
		minute = 0
	}
	return minute, m.now, nil
}

func (m *modelLatencies) Minutes(_ context.Context, from, to int64) (rows []LatencyRow, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, row := range m.minutes {
		if from <= key.begins && key.begins < to {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (m *modelLatencies) ForgetLatencies(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.minutes, func(key modelKey, _ LatencyRow) bool {
		return key.begins < m.now-3*hourMicros-5*minuteMicros && key.begins < m.summed()
	})
	return nil
}

// loaded is the row as a load reads it, with the times of its transitions.
func (r *modelRow) loaded() Row {
	row := r.Row
	if row.Unblocked {
		row.UnblockedAt = r.unblockedAt
	}
	if row.State != task.Waiting {
		row.StartedAt = r.startAt
	}
	return row
}
