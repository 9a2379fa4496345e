package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/latency"
	"github.com/sluice-tasks/sluice/pkg/run"
)

const (
	// keepEvery is how often what was measured is stored: whoever takes over from a leader that dies loses so much.
	keepEvery = 5 * time.Second
	// tidyEvery is how often it is asked whether an hour is over, and what is too old is removed.
	tidyEvery = 5 * time.Minute
	// keepLast bounds the storing when a leadership ends: the lease is not given up before.
	keepLast = time.Second
	// settleAfter is how long after its end an hour is added up. The tick that saw its last task end may have begun before.
	settleAfter = time.Minute
)

// LatencyDatabase is the SQL behind the figures of how long tasks wait and run.
type LatencyDatabase interface {
	LatestLatencies(ctx context.Context) (Measured, error)
	SaveMinutes(ctx context.Context, epoch int64, rows []LatencyRow) error
	EarliestUnsummed(ctx context.Context) (minute, now int64, err error)
	Minutes(ctx context.Context, from, to int64) ([]LatencyRow, error)
	SaveHour(ctx context.Context, epoch int64, rows []LatencyRow) error
	ForgetLatencies(ctx context.Context) error
}

// Measured is what is stored when a leadership begins.
type Measured struct {
	// Rows are the latest, those of the latest minute first and complete.
	Rows []LatencyRow
	// Summed is the end of the last hour that was added up, in microseconds since 1970; 0 if none was.
	Summed int64
}

// keeper stores what one leadership measures. It has no part in the ticks, and its failure costs figures and nothing else.
type keeper struct {
	epoch  int64
	db     LatencyDatabase
	log    *slog.Logger
	m      *latencies
	tidied time.Time
}

// measure makes the leader's latencies a witness, and keeps them until the function that it returns is called, which stores the last.
func (s *Service) measure(ctx context.Context, l *leader) (end func()) {
	m := newLatencies()
	l.latencies, l.witnesses = m, append(l.witnesses, m)
	s.latencies.Store(m)
	k := &keeper{epoch: l.epoch, db: s.db, log: s.log, m: m}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the last tick is measured, too
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
		s.latencies.Store(nil)
	}
}

// run keeps until ctx ends, and then once more.
func (k *keeper) run(ctx context.Context) {
	for {
		k.round(ctx)
		if !run.Pause(ctx, keepEvery) {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepLast)
	defer cancel()
	if err := k.keep(last); err != nil && !errors.Is(err, ErrDeposed) {
		k.log.WarnContext(ctx, "the latest latencies could not be stored", slog.Any("error", err))
	}
}

// round does what is to be done now.
func (k *keeper) round(ctx context.Context) {
	err := k.keep(ctx)
	if now := time.Now(); err == nil && now.Sub(k.tidied) >= tidyEvery {
		k.tidied = now
		err = k.tidy(ctx)
	}
	if err != nil && !errors.Is(err, ErrDeposed) && ctx.Err() == nil {
		k.log.WarnContext(ctx, "can't store latencies; it will be tried again", slog.Any("error", err))
	}
}

// keep stores what is not stored yet.
func (k *keeper) keep(ctx context.Context) error {
	if !k.m.complete() {
		measured, err := k.db.LatestLatencies(ctx)
		if err != nil {
			return err
		}
		k.m.restore(measured, k.log)
	}
	rows, upTo := k.m.pending()
	if lost := k.m.gaveUp(); lost > 0 {
		k.log.WarnContext(ctx, "latencies were given up that could not be stored for long", slog.Int("rows", lost))
	}
	for part := range slices.Chunk(rows, mostFared) {
		if err := k.db.SaveMinutes(ctx, k.epoch, part); err != nil {
			return err
		}
		k.m.saved(upTo[:len(part)])
		upTo = upTo[len(part):]
	}
	return nil
}

// tidy adds up the hours that are over, and removes what is too old.
func (k *keeper) tidy(ctx context.Context) error {
	for {
		minute, now, err := k.db.EarliestUnsummed(ctx)
		if err != nil {
			return err
		}
		hour := minute - minute%hourMicros
		end := hour + hourMicros
		if minute == 0 || now < end+settleAfter.Microseconds() || !k.m.over(end) {
			return k.db.ForgetLatencies(ctx)
		}
		rows, err := k.db.Minutes(ctx, hour, end)
		if err != nil {
			return err
		}
		if err := k.db.SaveHour(ctx, k.epoch, k.sum(hour, rows)); err != nil {
			return err
		}
	}
}

// sum adds minutes up to their hour. Of too many names those with the most tasks keep their rows.
func (k *keeper) sum(hour int64, minutes []LatencyRow) []LatencyRow {
	byFate := map[fate]*fared{}
	for _, f := range parsed(minutes, k.log) {
		sum := byFate[f.fate]
		if sum == nil {
			sum = &fared{fate: f.fate, begins: hour}
			byFate[f.fate] = sum
		}
		sum.merge(f)
	}
	sums := make([]*fared, 0, len(byFate))
	for _, f := range byFate {
		sums = append(sums, f)
	}
	slices.SortFunc(sums, func(a, b *fared) int { return int(b.happened() - a.happened()) })
	var rows []LatencyRow
	others := map[string]*fared{} // by domain
	for i, f := range sums {
		if i < mostFared && f.name != otherNames {
			rows = append(rows, f.encoded())
			continue
		}
		if others[f.domain] == nil {
			others[f.domain] = &fared{fate: fate{otherNames, f.domain}, begins: hour}
		}
		others[f.domain].merge(f)
	}
	for _, f := range others {
		rows = append(rows, f.encoded())
	}
	return rows
}

// happened is how much is counted in a row: it only grows.
func (f *fared) happened() int64 {
	return f.completed + f.failed + f.canceled + f.unblock.Count()
}

// parsed reads rows. One that is damaged is left out: figures are not worth a failure.
func parsed(rows []LatencyRow, log *slog.Logger) []*fared {
	all := make([]*fared, 0, len(rows))
	for _, r := range rows {
		f, err := r.parse()
		if err != nil {
			log.Error("stored latencies can't be read", slog.String("name", r.Name), slog.Time("begin", time.UnixMicro(r.Begins)), slog.Any("error", err))
			continue
		}
		all = append(all, f)
	}
	return all
}

// restore goes on where what is stored ends: what was measured meanwhile for its last minute, or for what is over, is added to that.
func (m *latencies) restore(measured Measured, log *slog.Logger) {
	rows := parsed(measured.Rows, log)
	last := measured.Summed
	if len(rows) > 0 {
		last = max(last, rows[0].begins)
	}
	runs := map[string]*latency.Histogram{}
	there := map[fate]*fared{}
	for _, f := range rows {
		if runs[f.name] == nil {
			runs[f.name] = &latency.Histogram{}
		}
		runs[f.name].Merge(&f.run)
		if f.begins == last {
			there[f.fate] = f
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.typically = make(map[string]time.Duration, len(runs))
	for name, h := range runs {
		if h.Count() > 0 {
			m.typically[name] = h.Quantile(0.5)
		}
	}
	measuredSince := m.unsaved
	m.unsaved = nil
	for _, f := range measuredSince {
		if f.begins > last {
			m.unsaved = append(m.unsaved, f)
			continue
		}
		m.change(there, f.fate, last).merge(f)
	}
	if m.minute <= last {
		m.minute, m.rows = last, there
	}
	m.restored = true
}

// gaveUp returns how many rows were given up since it was asked last.
func (m *latencies) gaveUp() (lost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lost, m.lost = m.lost, 0
	return lost
}
