package client

import (
	"context"
	"time"

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
	// Load is how much there is to do; nil while no scheduler answers.
	Load *Load
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
		Load:              fromLoad(answer.GetLoad()),
	}, nil
}
