package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Worker is one executor as the heartbeat service knows it.
type Worker struct {
	// Incarnation is the UUID of this life of it; a restart under the same name is another one.
	Incarnation, Name string
	// Versions of its components.
	Versions                 map[string]string
	RegisteredAt, LastBeatAt time.Time
	// TTL is how long it may be silent before it is declared missing.
	TTL time.Duration
	// DeafSince is since when it beats without hearing the scheduler: it can be given no task. nil if it hears it.
	DeafSince *time.Time
	// Online: it neither ended nor went missing. Missing: it was silent for too long.
	Online, Missing bool
	// Running are the ids of the tasks that it runs now, the oldest first, at most 100.
	Running []string
}

// Workers returns the executors, by name; with gone also those that ended or went missing within the last day.
func (c *Client) Workers(ctx context.Context, gone bool) ([]Worker, error) {
	answer, err := c.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: gone})
	if err != nil {
		return nil, err
	}
	made := make([]Worker, len(answer.GetApps()))
	for i, a := range answer.GetApps() {
		made[i] = Worker{
			Incarnation:  a.GetIncarnation(),
			Name:         a.GetName(),
			Versions:     a.GetVersions(),
			RegisteredAt: a.GetRegisteredAt().AsTime(),
			LastBeatAt:   a.GetLastBeatAt().AsTime(),
			TTL:          a.GetTtl().AsDuration(),
			Online:       a.GetOnline(),
			Missing:      a.GetMissing(),
			Running:      a.GetRunningTaskIds(),
		}
		if a.GetDeafSince() != nil {
			since := a.GetDeafSince().AsTime()
			made[i].DeafSince = &since
		}
	}
	return made, nil
}

// NameStats tells how the tasks of one name fared that finished within the window asked for.
type NameStats struct {
	Name                       string
	Finished, Failed, Canceled int64
	// Unblock is from dispatch until all resources were granted, Start from there until an executor was given it, Run from
	// there to the end.
	Unblock, Start, Run Percentiles
}

// Percentiles of a time.
type Percentiles struct{ P50, P95, P99, Max time.Duration }

// Stats returns one row for each task name, or for one name only. A since of 0 means an hour.
func (c *Client) Stats(ctx context.Context, name string, since time.Duration) ([]NameStats, error) {
	request := &statusv1.GetStatsRequest{Name: name}
	if since != 0 {
		request.Since = durationpb.New(since)
	}
	answer, err := c.status.GetStats(ctx, request)
	if err != nil {
		return nil, err
	}
	made := make([]NameStats, len(answer.GetNames()))
	for i, n := range answer.GetNames() {
		made[i] = NameStats{
			Name:     n.GetName(),
			Finished: n.GetFinished(),
			Failed:   n.GetFailed(),
			Canceled: n.GetCanceled(),
			Unblock:  fromPercentiles(n.GetUnblock()),
			Start:    fromPercentiles(n.GetStart()),
			Run:      fromPercentiles(n.GetRun()),
		}
	}
	return made, nil
}

func fromPercentiles(p *statusv1.Percentiles) Percentiles {
	return Percentiles{P50: seconds(p.GetP50()), P95: seconds(p.GetP95()), P99: seconds(p.GetP99()), Max: seconds(p.GetMax())}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Status says how the whole is doing.
type Status struct {
	// Version of the binary that answered.
	Version           string
	DatabaseConnected bool
	// SchedulerLeads: some scheduler holds the lease, under the number Epoch.
	SchedulerLeads bool
	Epoch          int64
	// Live counts the tasks that are not final; a state without tasks is missing.
	Live map[task.State]int64
	// Executors counts those that are online.
	Executors int
}

// Status asks how the whole is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	answer, err := c.status.GetSystemStatus(ctx, &statusv1.GetSystemStatusRequest{})
	if err != nil {
		return Status{}, err
	}
	return Status{
		Version:           answer.GetVersion(),
		DatabaseConnected: answer.GetDatabaseConnected(),
		SchedulerLeads:    answer.GetSchedulerLeads(),
		Epoch:             answer.GetEpoch(),
		Live:              fromCounts(answer.GetLive()),
		Executors:         int(answer.GetExecutors()),
	}, nil
}
