package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/services/executor"
)

const (
	// overloadTime is how long each task takes: with 64 slots 1,000 of them can be run in a second, which leaves the processors
	// time for what is offered beyond that.
	overloadTime  = 64 * time.Millisecond
	overloadBatch = 20
)

// measureOverload is a third kind of measurement: more than can be run.
func (c *BenchCmd) measureOverload(ctx context.Context, env *Environment, own bool, have map[string]string) (err error) {
	if c.Addr != "" {
		return usage("--overload: has a system of its own, so not together with --addr")
	}
	if c.IdleExecutors != 0 {
		return usage("--overload: is another measurement, so not together with --idle-executors")
	}
	if c.MaxLive < 1 {
		return usage("--max-live-tasks: must be at least 1, is %d", c.MaxLive)
	}
	config := bench.OverloadConfig{
		Slots: c.Slots, TaskTime: overloadTime, Times: c.Overload, Batch: min(c.Batch, overloadBatch), Window: c.Window, Seed: c.Seed, Versions: have, Say: env.note,
	}
	if err := config.Check(); err != nil {
		return usage("--%s", err)
	}
	load := bench.NewOverload(config)
	dir, err := c.folder(own)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := newSystem(ctx, LogFlags{LogLevel: c.LogLevel, LogFormat: c.LogFormat}.logger(env.Stderr), "bench", true, env.Stderr)
	s.maxLive = c.MaxLive
	defer s.close()
	addr, _, err := c.startServices(ctx, s, dir)
	if err != nil {
		return err
	}
	toExecutor, err := s.dial(addr)
	if err != nil {
		return err
	}
	conn, err := s.dial(addr)
	if err != nil {
		return err
	}
	mux := worker.NewMux()
	load.Register(mux)
	cfg := executor.Config{
		Name: "bench " + processName(), WorkDir: filepath.Join(dir, "work"), Slots: c.Slots, ImmediateSlots: c.Slots,
		TTL: benchTTL, CancelGrace: benchGrace, ShutdownGrace: benchGrace, ImmediateTimeout: benchImmediateTimeout, Versions: withOwnVersion(have),
		HeartbeatAddr: addr,
	}
	service, err := s.newExecutorOf(mux, cfg, executorPeers{scheduler: toExecutor, dispatcher: toExecutor, heartbeat: toExecutor, status: toExecutor})
	if err != nil {
		return err
	}
	s.addExecutor(cfg, service)
	var result bench.OverloadResult
	err = s.during(ctx, func(ctx context.Context) (err error) {
		result, err = load.Run(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	return printOverload(env, c.Output, result)
}

func printOverload(env *Environment, format string, r bench.OverloadResult) error {
	if format == "json" {
		return printJSON(env, r)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	rows := [][]string{{fmt.Sprintf("%s tasks a second can be run", number(r.Capacity)), "half of that", number(r.Times) + " times that"}}
	add := func(says string, of func(bench.OverloadPhase) string) {
		rows = append(rows, []string{says, of(r.Normal), of(r.Over)})
	}
	times := func(p bench.Percentiles) string {
		return fmt.Sprintf("%s / %s / %s ms", number(p.P50), number(p.P95), number(p.P99))
	}
	add("offered for", func(p bench.OverloadPhase) string { return number(p.Seconds) + " s" })
	add("offered per second", func(p bench.OverloadPhase) string { return number(p.Offered) })
	add("accepted", func(p bench.OverloadPhase) string { return number(p.Accepted) })
	add("refused", func(p bench.OverloadPhase) string { return number(p.Refused) })
	add("run", func(p bench.OverloadPhase) string { return number(p.Ran) })
	add("an accepted call took, p50 / p95 / p99", func(p bench.OverloadPhase) string { return times(p.AcceptedIn) })
	add("a refused call took", func(p bench.OverloadPhase) string { return times(p.RefusedIn) })
	add("the hint when to come again", func(p bench.OverloadPhase) string { return number(p.RetryAfter) + " s" })
	add("the last call was late by", func(p bench.OverloadPhase) string { return number(p.Late) + " s" })
	add("memory of this process, at most", func(p bench.OverloadPhase) string { return strconv.FormatInt(p.RSS>>20, 10) + " MiB" })
	rows = append(rows, []string{"executors declared missing", "", strconv.Itoa(r.Missing)})
	for text, n := range r.Errors {
		rows = append(rows, []string{"other errors", "", fmt.Sprintf("%d times %s", n, text)})
	}
	(&session{Environment: env}).printTable(rows)
	return nil
}
