package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// gauges show what the leader counted at its last look, at most a second ago. Who does not lead shows nothing but that.
type gauges struct {
	leading, tasks, live, runnable, unrunnable, slots, executors, waiting, aged metric.Int64ObservableGauge
	longest, agedFor                                                            metric.Float64ObservableGauge
	due                                                                         metric.Int64ObservableCounter
}

// Observe makes the scheduler count with a meter, and shows what the leader counts. It is called before Run.
func (s *Service) Observe(meter metric.Meter) error {
	m, err := newMetrics(meter)
	if err != nil {
		return fmt.Errorf("make the scheduler's metrics: %w", err)
	}
	m.leaderships.Add(context.Background(), 0) // there from the start, so that the first one is seen to be one
	s.metrics = m
	g, err := newGauges(meter)
	if err != nil {
		return fmt.Errorf("make the scheduler's gauges: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		observe(o, g.due, "outcome", map[string]int64{"dispatched": s.dispatched.Load(), "failed": s.undispatched.Load()})
		counted := s.survey.Load()
		if counted == nil {
			o.ObserveInt64(g.leading, 0)
			return nil
		}
		g.show(o, counted)
		return nil
	}, g.leading, g.tasks, g.live, g.runnable, g.unrunnable, g.slots, g.executors, g.waiting, g.aged, g.longest, g.agedFor, g.due)
	if err != nil {
		return fmt.Errorf("observe the scheduler: %w", err)
	}
	return nil
}

func newGauges(meter metric.Meter) (*gauges, error) {
	g := &gauges{}
	var all []error
	gauge := func(name, unit, text string) metric.Int64ObservableGauge {
		made, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
		all = append(all, err)
		return made
	}
	span := func(name, unit, text string) metric.Float64ObservableGauge {
		made, err := meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
		all = append(all, err)
		return made
	}
	g.leading = gauge("sluice.scheduler.leading", "", "1 while this scheduler leads, else 0")
	g.tasks = gauge("sluice.tasks", "{task}", "tasks that are not final, by phase: blocked (lack a resource), ready (wait for a slot), given (to an executor), "+
		"resting (an attempt failed, the next one is to come)")
	g.live = gauge("sluice.tasks.live", "{task}", "tasks that are not final, by state: waiting, running, canceling")
	g.runnable = gauge("sluice.tasks.runnable", "{task}", "tasks that could run at this moment beside each other under their reservations, were there slots for all: "+
		"ready and given. Size the executors by it")
	g.unrunnable = gauge("sluice.tasks.unrunnable", "{task}", "ready tasks that no connected executor can run, by reason: name (nobody knows it) or versions (nobody who knows it has them)")
	g.longest = span("sluice.tasks.longest_wait", "s", "how long the task has waited that has waited longest, for resources or for a slot; 0 if none waits")
	g.slots = gauge("sluice.slots", "{slot}", "slots of connected executors for ordinary tasks, by state: free or taken")
	g.executors = gauge("sluice.executors", "{executor}", "executors, by state: connected, draining (connected, and take nothing more) or away (not connected, and have tasks)")
	g.waiting = gauge("sluice.resource.waiting", "{task}", "tasks that wait for a resource, of the longest queues")
	// Pulp's two, as its dashboards know them: a unit would become part of the name.
	g.aged = gauge("tasks_unblocked_queue", "", "tasks that have been unblocked for five seconds or longer, and wait for a slot")
	g.agedFor = span("tasks_longest_unblocked_time", "", "seconds that the task has been unblocked that waits for a slot for longest")
	due, err := meter.Int64ObservableCounter("sluice.schedules.due", metric.WithUnit("{time}"),
		metric.WithDescription("times of schedules at which this scheduler led, by outcome: dispatched, or failed (what is wrong stands in the log)"))
	g.due = due
	return g, errors.Join(append(all, err)...)
}

func (g *gauges) show(o metric.Observer, s *Survey) {
	o.ObserveInt64(g.leading, 1)
	observe(o, g.tasks, "phase", map[string]int64{
		"blocked": int64(s.Blocked), "ready": int64(s.Ready), "given": int64(s.Given), "resting": int64(s.Resting),
	})
	observe(o, g.live, "state", map[string]int64{
		"waiting": int64(s.Blocked + s.Ready + s.Resting), "running": int64(s.Given - s.Canceling), "canceling": int64(s.Canceling),
	})
	o.ObserveInt64(g.runnable, int64(s.Runnable()))
	observe(o, g.unrunnable, "reason", map[string]int64{"name": int64(s.UnknownName), "versions": int64(s.UnmetVersions)})
	observe(o, g.slots, "state", map[string]int64{"free": int64(s.Free), "taken": int64(s.Slots - s.Free)})
	observe(o, g.executors, "state", map[string]int64{
		"connected": int64(s.Executors - s.Draining), "draining": int64(s.Draining), "away": int64(s.Away),
	})
	for of, long := range map[string]float64{"resources": s.LongestBlocked.Seconds(), "slot": s.LongestReady.Seconds()} {
		o.ObserveFloat64(g.longest, long, metric.WithAttributes(attribute.String("for", of)))
	}
	for _, queue := range s.Queues {
		if queue.WaiterCount > 0 {
			o.ObserveInt64(g.waiting, int64(queue.WaiterCount), metric.WithAttributes(attribute.String("resource", strings.ToValidUTF8(queue.Name, "?"))))
		}
	}
	o.ObserveInt64(g.aged, int64(s.Aged))
	o.ObserveFloat64(g.agedFor, s.LongestReady.Seconds())
}

// observe shows numbers that differ in one attribute.
func observe(o metric.Observer, instrument metric.Int64Observable, key string, values map[string]int64) {
	for value, n := range values {
		o.ObserveInt64(instrument, n, metric.WithAttributes(attribute.String(key, value)))
	}
}
