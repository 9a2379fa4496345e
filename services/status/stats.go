package status

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/latency"
	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

const (
	// minutesReach is the longest time that is answered from minutes, which are kept for a little longer. What is asked for beyond is
	// answered from hours, but for the hours that have not been added up yet: the present one, and one that has just ended.
	minutesReach = 3 * time.Hour
	// leaderLook is how long the leader may take to say what is not stored yet: it has that in memory. Without it some seconds are
	// missing from the answer.
	leaderLook = time.Second
	// mostNames bounds an answer: the names with the most tasks. The total is of all.
	mostNames = 1000
)

// StatsDatabase is the SQL behind the figures of how tasks fared. The leading scheduler writes what it reads.
type StatsDatabase interface {
	// Fared calls add for each row within a window, and returns from when on that is, and until when hours were added up: no minute
	// before that counts any more.
	Fared(ctx context.Context, w Window, add func(Fared)) (from, summed time.Time, err error)
}

// Window is what to read: the tasks of one name, or of all if it is empty, likewise of a domain, as far back as since, rounded up to
// whole minutes or hours.
type Window struct {
	Name, Domain string
	Since        time.Duration
}

// hourly reports whether hours answer it.
func (w Window) hourly() bool { return w.Since > minutesReach }

// Fared is what became of the tasks of one name and domain in a minute or an hour.
type Fared struct {
	Begins                      time.Time
	Name, Domain                string
	Completed, Failed, Canceled int64
	// Histograms of pkg/latency.
	Unblock, Start, Run []byte
}

// fate names the tasks that are measured together.
type fate struct{ name, domain string }

// spell is one name and domain in one minute.
type spell struct {
	fate

	begins int64 // microseconds since 1970
}

// fortunes add up what became of tasks.
type fortunes struct {
	completed, failed, canceled int64
	unblock, start, run         latency.Histogram
}

// add adds what another says.
func (f *fortunes) add(r *fortunes) {
	f.completed += r.completed
	f.failed += r.failed
	f.canceled += r.canceled
	f.unblock.Merge(&r.unblock)
	f.start.Merge(&r.start)
	f.run.Merge(&r.run)
}

// happened is how much is counted: it only grows while a minute lasts.
func (f *fortunes) happened() int64 { return f.completed + f.failed + f.canceled + f.unblock.Count() }

func (f *fortunes) finished() int64 { return f.completed + f.failed + f.canceled }

// parse reads a row.
func (r Fared) parse() (*fortunes, error) {
	f := &fortunes{completed: r.Completed, failed: r.Failed, canceled: r.Canceled}
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

// GetStats returns how tasks fared.
func (s server) GetStats(ctx context.Context, req *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error) {
	w := Window{Name: req.GetName(), Domain: req.GetDomain(), Since: limits.DefaultSince}
	if req.GetSince() != nil {
		w.Since = req.GetSince().AsDuration()
	}
	byFate, from, err := s.service.fared(ctx, w)
	if err != nil {
		return nil, err
	}
	total := &fortunes{}
	for _, f := range byFate {
		total.add(f)
	}
	answer := &statusv1.GetStatsResponse{Total: total.onWire(fate{}), From: wire.Time(&from)}
	for _, of := range most(byFate) {
		answer.Names = append(answer.Names, byFate[of].onWire(of))
	}
	return answer, nil
}

// fared adds up what is stored, and what the leader has not stored yet. The leader is asked first: what it stores meanwhile is then in
// both answers, where it counts once, and not in neither.
func (s *Service) fared(ctx context.Context, w Window) (byFate map[fate]*fortunes, from time.Time, err error) {
	unstored := s.unstored(ctx, w)
	byFate = map[fate]*fortunes{}
	add := func(of fate, f *fortunes) {
		sum := byFate[of]
		if sum == nil {
			sum = &fortunes{}
			byFate[of] = sum
		}
		sum.add(f)
	}
	from, summed, err := s.db.Fared(ctx, w, func(r Fared) {
		f, err := r.parse()
		if err != nil {
			s.damaged(ctx, r, err)
			return
		}
		of := spell{fate{r.Name, r.Domain}, r.Begins.UnixMicro()}
		if newer := unstored[of]; newer != nil && newer.happened() > f.happened() {
			f = newer
		}
		delete(unstored, of)
		add(of.fate, f)
	})
	if err != nil {
		return nil, from, err
	}
	for of, f := range unstored {
		if begins := time.UnixMicro(of.begins); begins.Before(from) || w.hourly() && begins.Before(summed) {
			continue
		}
		add(of.fate, f)
	}
	return byFate, from, nil
}

// unstored asks the leader for the minutes that it has not stored in full. No answer is none: the figures lack some seconds then.
func (s *Service) unstored(ctx context.Context, w Window) map[spell]*fortunes {
	ctx, cancel := context.WithTimeout(ctx, leaderLook)
	defer cancel()
	answer, err := s.scheduler.ListLatencies(ctx, &schedulerv1.ListLatenciesRequest{})
	if err != nil {
		s.log.DebugContext(ctx, "no scheduler says what it has measured lately", slog.Any("error", err))
		return nil
	}
	rows := map[spell]*fortunes{}
	for _, m := range answer.GetRows() {
		if w.Name != "" && m.GetName() != w.Name || w.Domain != "" && m.GetDomain() != w.Domain {
			continue
		}
		r := Fared{
			Begins: m.GetMinute().AsTime(), Name: m.GetName(), Domain: m.GetDomain(), Completed: m.GetCompleted(), Failed: m.GetFailed(),
			Canceled: m.GetCanceled(), Unblock: m.GetUnblock(), Start: m.GetStart(), Run: m.GetRun(),
		}
		f, err := r.parse()
		if err != nil {
			s.damaged(ctx, r, err)
			continue
		}
		rows[spell{fate{r.Name, r.Domain}, r.Begins.UnixMicro()}] = f
	}
	return rows
}

// damaged logs a row that can't be read: figures without it are better than none.
func (s *Service) damaged(ctx context.Context, r Fared, err error) {
	s.log.ErrorContext(ctx, "figures of tasks can't be read", slog.String("name", r.Name), slog.String("domain", r.Domain),
		slog.Time("begin", r.Begins), slog.Any("error", err))
}

// most are those with the most finished tasks, by name and domain.
func most(byFate map[fate]*fortunes) []fate {
	all := slices.Collect(maps.Keys(byFate))
	byName := func(a, b fate) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.domain, b.domain)) }
	slices.SortFunc(all, func(a, b fate) int {
		return cmp.Or(cmp.Compare(byFate[b].finished(), byFate[a].finished()), byName(a, b))
	})
	all = all[:min(len(all), mostNames)]
	slices.SortFunc(all, byName)
	return all
}

func (f *fortunes) onWire(of fate) *statusv1.NameStats {
	stats := &statusv1.NameStats{
		Name: of.name, Domain: of.domain, Finished: f.finished(), Completed: f.completed, Failed: f.failed, Canceled: f.canceled,
		Unblock: percentiles(&f.unblock), Start: percentiles(&f.start), Run: percentiles(&f.run),
	}
	if stats.GetFinished() > 0 {
		stats.FailureRate = float64(f.failed) / float64(stats.GetFinished())
	}
	return stats
}

// percentiles are those of a histogram; nil if nothing was measured.
func percentiles(h *latency.Histogram) *statusv1.Percentiles {
	if h.Count() == 0 {
		return nil
	}
	at := func(share float64) float64 { return h.Quantile(share).Seconds() }
	return &statusv1.Percentiles{Count: h.Count(), P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: h.Max().Seconds()}
}
