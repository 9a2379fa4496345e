package executor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// Config says who an executor is and how it treats its tasks. Zero durations mean the default.
type Config struct {
	// Name is unique among the living executors. Default: <process id>@<host name>, as in Pulp.
	Name string
	// Slots is how many tasks run at once, 0 to 10,000.
	Slots int
	// ImmediateSlots is how many immediate tasks run at once beside them, 0 to 10,000.
	ImmediateSlots int
	// WorkDir is where working directories are made: one directory for each executor name, in it one for each task.
	// Executors with different names can share it. Required.
	WorkDir string
	// TTL is how long the executor may be silent before its tasks are declared lost (WORKER_TTL). Default 30 s.
	TTL time.Duration
	// CancelGrace is how long a canceled task has from SIGTERM to SIGKILL. Default 30 s.
	CancelGrace time.Duration
	// ShutdownGrace is how long running tasks have when the executor stops (TASK_GRACE_INTERVAL). Default 600 s.
	ShutdownGrace time.Duration
	// ImmediateTimeout limits immediate tasks (IMMEDIATE_TIMEOUT). Default 5 s.
	ImmediateTimeout time.Duration
	// ConfirmTimeout is how long a connected worker may take to say that it begins a task. Default 10 s.
	ConfirmTimeout time.Duration
	// StartTimeout is how long a new child may take until it is ready. Default 30 s.
	StartTimeout time.Duration
	// ReportTimeout limits each thing that is only attempted: storing a log, and, when stopping, the last reports and the
	// goodbye. Default 5 s.
	ReportTimeout time.Duration
	// LogEvery is how often the log of a task that goes on is stored, if it has grown. Most tasks end sooner, and cost one.
	// Default 2 s.
	LogEvery time.Duration
	// MaxTasksPerChild is after how many tasks a child is replaced. Default 100; 1 is a fresh process for each task.
	MaxTasksPerChild int
	// ChildMemory is how many bytes of memory a child, and each process that it starts, may have for its data, at least
	// MinChildMemory; 0 for no limit.
	ChildMemory int64
	// ChildIdle is how long a child is kept without a task. Default 5 minutes.
	ChildIdle time.Duration
	// RedactErrors shows clients only texts of errors that were declared safe; the others go to the log.
	RedactErrors bool
	// Diagnostics are what may be kept of runs whose dispatch asks for it: DiagnoseMemory, DiagnoseLogs (TASK_DIAGNOSTICS). Default:
	// none.
	Diagnostics []string
	// NothingLeft, if set, is called when there is nothing left that the executor could run, each time that this comes to be so.
	NothingLeft func()
	// ChildCommand starts a child: a program that calls worker.ChildMain. Default: this program again, without arguments.
	ChildCommand []string
	// ChildEnv is added to the environment of the children, which otherwise is the executor's without its secrets.
	ChildEnv []string
	// HeartbeatAddr is where the executor's guard tells, when the executor was killed, that nothing of it is left. Empty: it
	// tells nobody, and the tasks fail when the lease has run out.
	HeartbeatAddr string
	// Versions are the components this executor has.
	Versions map[string]string

	// metrics and spans are nil in a Config that New has not seen.
	metrics *metrics
	spans   *spans
}

// Peers are the services that an executor talks to.
type Peers struct {
	Scheduler  schedulerv1.SchedulerServiceClient
	Dispatcher dispatcherv1.DispatcherServiceClient
	Heartbeat  heartbeatv1.HeartbeatServiceClient
	Status     statusv1.StatusServiceClient
}

// MinChildMemory is the least that a child can be limited to, in bytes. The runtime of Go maps memory in large pieces: with 112 MiB
// a child died before it was ready, with 144 MiB it had 4 MiB to spare.
const MinChildMemory = 256 << 20

// Limits that nobody had a reason to set yet.
const (
	// welcomeTimeout is how long a scheduler may take to answer a hello.
	welcomeTimeout = 10 * time.Second
	// killTimeout is how long a killed process may hang in the kernel before it is not waited for any more.
	killTimeout = 10 * time.Second
	// Of one task, callsAtOnce requests are served at a time; openCalls may be open, further ones are refused.
	callsAtOnce = 8
	openCalls   = 1024
	// rememberedClaims is how many ended claims are remembered, to know a late repetition of an assignment.
	rememberedClaims = 4096
)

// complete fills in the defaults and says what is wrong.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("name the executor after its host: %w", err)
		}
		c.Name = fmt.Sprintf("%d@%s", os.Getpid(), host)
	}
	for value, otherwise := range map[*time.Duration]time.Duration{
		&c.TTL:              30 * time.Second,
		&c.CancelGrace:      30 * time.Second,
		&c.ShutdownGrace:    600 * time.Second,
		&c.ImmediateTimeout: 5 * time.Second,
		&c.ConfirmTimeout:   10 * time.Second,
		&c.StartTimeout:     30 * time.Second,
		&c.ReportTimeout:    5 * time.Second,
		&c.LogEvery:         2 * time.Second,
		&c.ChildIdle:        5 * time.Minute,
	} {
		if *value == 0 {
			*value = otherwise
		}
		if *value < 0 {
			return c, fmt.Errorf("a time is negative: %s", *value)
		}
	}
	if c.MaxTasksPerChild == 0 {
		c.MaxTasksPerChild = 100
	}
	if len(c.ChildCommand) == 0 {
		// The running program itself, even if its file was replaced meanwhile: an executor and its children must be of
		// the same version.
		c.ChildCommand = []string{"/proc/self/exe"}
	}
	c.Versions = maps.Clone(c.Versions)

	switch {
	case strings.TrimSpace(c.Name) == "" || len(c.Name) > limits.MaxName:
		return c, fmt.Errorf("the executor's name must have 1 to %d bytes and not be blank: %q", limits.MaxName, c.Name)
	case c.WorkDir == "":
		return c, errors.New("no directory for the tasks' working directories is set")
	case c.Slots < 0 || c.Slots > limits.MaxSlots || c.ImmediateSlots < 0 || c.ImmediateSlots > limits.MaxSlots:
		return c, fmt.Errorf("slots must be between 0 and %d: %d and %d for immediate tasks", limits.MaxSlots, c.Slots, c.ImmediateSlots)
	case c.TTL < limits.MinTTL || c.TTL > limits.MaxTTL:
		return c, fmt.Errorf("the time to live must be between %s and %s: %s", limits.MinTTL, limits.MaxTTL, c.TTL)
	case c.MaxTasksPerChild < 0:
		return c, fmt.Errorf("the number of tasks of a child is negative: %d", c.MaxTasksPerChild)
	case slices.ContainsFunc(c.Diagnostics, func(name string) bool { return name != DiagnoseMemory && name != DiagnoseLogs }):
		return c, fmt.Errorf("the diagnostics that there are, are %s and %s: %q", DiagnoseMemory, DiagnoseLogs, c.Diagnostics)
	case c.ChildMemory != 0 && c.ChildMemory < MinChildMemory:
		return c, fmt.Errorf("the memory of a child must be at least %d bytes, less is not enough to start: %d", MinChildMemory, c.ChildMemory)
	}
	return c, nil
}
