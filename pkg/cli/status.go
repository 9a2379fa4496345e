package cli

import (
	"context"
	"fmt"
)

// StatusCmd asks how the whole is doing, or, given an address to listen on, runs the service that answers such questions.
type StatusCmd struct {
	StatusRole
	Connection
}

// Help is the longer explanation.
func (*StatusCmd) Help() string {
	return `Says whether the database answers and a scheduler leads, how many executors are online, and how many tasks are waiting and running. With --output json: one object.

    sluice status

Given an address to listen on, by --grpc-addr or SLUICE_GRPC_ADDR, it runs the status service instead, which answers questions about tasks.`
}

// Run asks, or serves.
func (c *StatusCmd) Run(ctx context.Context, env *Environment) error {
	if c.GRPCAddr != "" {
		return c.Serve(ctx, env)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		now, err := s.Status(ctx)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewStatus(now))
		}
		s.printTable([][]string{
			{"Sluice", now.Version + " at " + c.Addr},
			{"Database", map[bool]string{true: "connected", false: "does not answer"}[now.DatabaseConnected]},
			{"Scheduler", leads(now.SchedulerLeads, now.Epoch)},
			{"Executors", fmt.Sprintf("%d online", now.Executors)},
			{"Tasks", counts(now.Live)},
		})
		return nil
	})
}

func leads(leads bool, epoch int64) string {
	if !leads {
		return "none leads; tasks are taken in, but none starts"
	}
	return fmt.Sprintf("leads (epoch %d)", epoch)
}
