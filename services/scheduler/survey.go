package scheduler

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
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
}

// Runnable is how many tasks could run at this moment beside each other, were there slots for all.
func (s *Survey) Runnable() int { return s.Ready + s.Given }

// noticeAfter is how long nobody can run what is ready in a lane before it is logged, once: an executor that starts anew is
// away for a moment.
const noticeAfter = 5 * time.Second

// survey counts, and logs which tasks wait for an executor that is not there. It costs the number of lanes and executors.
func (l *leader) survey() Survey {
	s := Survey{Blocked: l.locks.Blocked(), Resting: len(l.resting)}
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
		case !w.noticed && now.Sub(w.unableSince) >= noticeAfter:
			w.noticed = true
			l.log.Warn("tasks wait for an executor that can run them", slog.String("task", w.name), slog.Any("versions", w.versions),
				slog.Int("tasks", n), slog.String("reason", reason))
		}
	}
	for _, x := range l.executors {
		s.Given += len(x.claims)
		if x.line != nil {
			s.Executors++
		}
		if x.crew != nil {
			s.Slots += x.slots[ordinarily]
			s.Free += x.free(ordinarily)
		}
	}
	now := l.time()
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

// Observe makes the survey visible. Who does not lead shows nothing but that.
func (s *Service) Observe(meter metric.Meter) error {
	leading, err := meter.Int64ObservableGauge("sluice.scheduler.leading", metric.WithDescription("1 while this scheduler leads, else 0"))
	if err != nil {
		return err
	}
	tasks, err := meter.Int64ObservableGauge("sluice.tasks", metric.WithUnit("{task}"),
		metric.WithDescription("tasks that are not final, by phase: blocked (lack a resource), ready (wait for a slot), given (to an executor), "+
			"resting (an attempt failed, the next one is to come)"))
	if err != nil {
		return err
	}
	unrunnable, err := meter.Int64ObservableGauge("sluice.tasks.unrunnable", metric.WithUnit("{task}"),
		metric.WithDescription("ready tasks that no connected executor can run, by reason: name (nobody knows it) or versions (nobody who knows it has them)"))
	if err != nil {
		return err
	}
	slots, err := meter.Int64ObservableGauge("sluice.slots", metric.WithUnit("{slot}"),
		metric.WithDescription("slots of connected executors for ordinary tasks, by state: free or taken"))
	if err != nil {
		return err
	}
	scheduled, err := meter.Int64ObservableCounter("sluice.schedules.due", metric.WithUnit("{time}"),
		metric.WithDescription("times of schedules at which this scheduler led, by outcome: dispatched, or failed (what is wrong stands in the log)"))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for outcome, n := range map[string]int64{"dispatched": s.dispatched.Load(), "failed": s.undispatched.Load()} {
			o.ObserveInt64(scheduled, n, metric.WithAttributes(attribute.String("outcome", outcome)))
		}
		counted := s.survey.Load()
		if counted == nil {
			o.ObserveInt64(leading, 0)
			return nil
		}
		o.ObserveInt64(leading, 1)
		for phase, n := range map[string]int{"blocked": counted.Blocked, "ready": counted.Ready, "given": counted.Given, "resting": counted.Resting} {
			o.ObserveInt64(tasks, int64(n), metric.WithAttributes(attribute.String("phase", phase)))
		}
		for reason, n := range map[string]int{"name": counted.UnknownName, "versions": counted.UnmetVersions} {
			o.ObserveInt64(unrunnable, int64(n), metric.WithAttributes(attribute.String("reason", reason)))
		}
		for state, n := range map[string]int{"free": counted.Free, "taken": counted.Slots - counted.Free} {
			o.ObserveInt64(slots, int64(n), metric.WithAttributes(attribute.String("state", state)))
		}
		return nil
	}, leading, tasks, unrunnable, slots, scheduled)
	return err
}
