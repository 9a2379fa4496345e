package cli

import (
	"time"

	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// IntakeFlags are what a dispatcher can be told about how much it takes in.
type IntakeFlags struct {
	MaxPendingTasks int      `name:"max-pending-tasks" default:"20000" placeholder:"N" group:"service" help:"How many tasks may be on their way to the database (${default}); more are refused, to be dispatched again later."`
	MaxPendingBytes byteSize `name:"max-pending-bytes" default:"64MiB" placeholder:"SIZE" group:"service" help:"How large they may be together (${default})."`
	MaxLiveTasks    int64    `name:"max-live-tasks" default:"5000000" placeholder:"N" group:"service" help:"How many tasks may not be finished, about (${default}); more are refused. 0: any number."`
	KeepFlag
}

// KeepFlag says how long tasks are kept.
type KeepFlag struct {
	KeepTasks time.Duration `name:"keep-tasks" default:"0s" placeholder:"DURATION" group:"service" help:"Delete tasks this long after they have ended, for example 720h. Default: never."`
}

func (f IntakeFlags) apply(cfg *dispatcher.Config) error {
	switch {
	case f.MaxPendingTasks < 1:
		return usage("--max-pending-tasks: must be at least 1, is %d", f.MaxPendingTasks)
	case f.MaxPendingBytes < 1<<20:
		return usage("--max-pending-bytes: must be at least 1MiB")
	case f.MaxLiveTasks < 0:
		return usage("--max-live-tasks: must not be negative, is %d", f.MaxLiveTasks)
	}
	cfg.MaxPending, cfg.MaxPendingBytes, cfg.MaxLive = f.MaxPendingTasks, int64(f.MaxPendingBytes), f.MaxLiveTasks
	return f.KeepFlag.keep(cfg)
}

func (f KeepFlag) keep(cfg *dispatcher.Config) error {
	if f.KeepTasks != 0 && f.KeepTasks < time.Minute {
		return usage("--keep-tasks: must be at least 1m, or 0s for ever, is %s", f.KeepTasks)
	}
	cfg.KeepTasks = f.KeepTasks
	return nil
}
