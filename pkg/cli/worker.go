package cli

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// WorkerCmd looks at the executors.
type WorkerCmd struct {
	List WorkerListCmd `cmd:"" help:"List the executors and what they run."`
}

// WorkerListCmd lists the executors.
type WorkerListCmd struct {
	Gone bool `help:"Also those that ended or went missing within the last day."`
	Connection
}

// Help is the longer explanation.
func (*WorkerListCmd) Help() string {
	return `TASKS is how many tasks an executor runs now, BEAT when it was last heard of. One that is deaf beats, but does not hear the scheduler, and so gets no tasks. With --output json: an array of executors, with the ids of their tasks.

    sluice worker list`
}

// Run prints the list.
func (c *WorkerListCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		workers, err := s.Workers(ctx, c.Gone)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(workers, viewWorker))
		case len(workers) == 0:
			s.note("no executor is online; `sluice executor` starts one")
			return nil
		}
		rows := [][]string{{"NAME", "STATE", "TASKS", "UP", "BEAT", "VERSIONS"}}
		for _, w := range workers {
			rows = append(rows, []string{
				w.Name, workerState(w), strconv.Itoa(len(w.Running)), s.since(w.RegisteredAt), s.since(w.LastBeatAt) + " ago", pairs(w.Versions),
			})
		}
		s.printTable(rows)
		return nil
	})
}

func workerState(w client.Worker) string {
	switch {
	case w.Online && w.DeafSince != nil:
		return "deaf"
	case w.Online:
		return "online"
	case w.Missing:
		return "missing"
	default:
		return "ended"
	}
}

func pairs(versions map[string]string) string {
	made := make([]string, 0, len(versions))
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		made = append(made, component+"="+versions[component])
	}
	return strings.Join(made, " ")
}
