package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

const (
	runTimeout  = 10 * time.Minute
	onceTimeout = time.Hour // a million tasks have to be put there first
	// databaseName is the same in every run: there is one at a time.
	databaseName = "bench"
)

type options struct {
	sluice, results, dir string
	rounds               int
	quick, backlog       bool
	only                 *regexp.Regexp

	out, progress io.Writer
}

// bench is a go under way.
type bench struct {
	options

	server  *server
	pgbench pgbench
	results results
}

// measure makes a go. It returns an error when a run failed, and has then written what there is.
func measure(ctx context.Context, o options) (err error) {
	if fileSystem(o.dir) == inMemory {
		return fmt.Errorf("%s is in memory, where a commit costs nothing: give --dir a folder on a disk", o.dir)
	}
	runs := choose(plan(scaleOf(o.quick)), o.only, o.backlog)
	note(o.progress, "starting PostgreSQL")
	server, err := startServer(ctx, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop(ctx)) }()
	b := &bench{options: o, server: server}
	if b.pgbench.dir, err = os.MkdirTemp(o.dir, "sluice-bench-log-"); err != nil {
		return fmt.Errorf("make a folder for pgbench: %w", err)
	}
	defer os.RemoveAll(b.pgbench.dir)
	if b.pgbench.path, err = findPgbench(server.binaries.Dir); err != nil {
		note(o.progress, "%s", err)
		runs = without(runs, toolPgbench)
	}
	b.results = results{
		Date: time.Now().Format(time.DateOnly), Rounds: o.rounds, Quick: o.quick, Settings: serverSettings(),
	}
	if b.results.Machine, err = describe(ctx, o.dir, server.binaries.Version); err != nil {
		return err
	}
	if err := server.fillLog(ctx, scaleOf(o.quick).log); err != nil {
		return err
	}
	failed := b.rounds(ctx, runs)
	if len(b.results.Runs) == 0 {
		return errors.Join(failed, errors.New("nothing was measured"))
	}
	complete := failed == nil && len(runs) == len(plan(scaleOf(o.quick))) && !o.quick
	return errors.Join(failed, b.report(complete))
}

func without(runs []run, t tool) []run {
	var rest []run
	for _, r := range runs {
		if r.tool != t {
			rest = append(rest, r)
		}
	}
	return rest
}

// rounds makes all runs. One that fails does not keep the others from being made.
func (b *bench) rounds(ctx context.Context, runs []run) error {
	failed := 0
	for i := range b.options.rounds + 1 {
		round := (i + 1) % (b.options.rounds + 1) // 1, 2, …, and 0 at the end
		for _, r := range inRound(runs, round) {
			if ctx.Err() != nil {
				return fmt.Errorf("stopped: %w", context.Cause(ctx))
			}
			if err := b.run(ctx, r, round); err != nil {
				failed++
				note(b.progress, "%-8s %-18s failed: %s", roundName(round), r.name, err)
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d runs failed, see above", failed)
	}
	return nil
}

// run makes one run and keeps its record.
func (b *bench) run(ctx context.Context, r run, round int) (err error) {
	timeout := runTimeout
	if r.once {
		timeout = onceTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rec := record{Name: r.name, Says: r.says, Tool: r.tool, Args: r.args, Round: round}
	defer func() {
		if ctx.Err() == nil || err == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			rec.Failed = err != nil
			b.results.Runs = append(b.results.Runs, rec)
		}
		err = errors.Join(err, b.server.drop(ctx, databaseName))
	}()
	url, err := b.server.database(ctx, databaseName)
	if err != nil {
		return err
	}
	if r.tool == toolPgbench {
		if err := b.pgbench.prepare(ctx, url, r.script); err != nil {
			return err
		}
	}
	if err := b.server.settle(ctx); err != nil {
		return err
	}
	rec.Load = load()
	start, processors := time.Now(), readCPU()
	rec.Metrics, err = b.metered(ctx, url, r)
	rec.Seconds = time.Since(start).Seconds()
	share := readCPU().since(processors)
	rec.Steal = share.steal
	if err != nil {
		return err
	}
	ours := (rec.Metrics[metricServerTime] + rec.Metrics[metricToolTime]) / rec.Seconds / float64(runtime.NumCPU())
	rec.Others = max(0, share.busy-ours)
	note(b.progress, "%-8s %-18s %10s per second, %3.0f s, load before %.2f, others' share %2.0f %%",
		roundName(round), r.name, plain(rec.Metrics[metricRate]), rec.Seconds, rec.Load, rec.Others*100)
	if n := rec.Metrics[metricViolations]; n > 0 {
		return fmt.Errorf("the history checker found %.0f violations", n)
	}
	return nil
}

func roundName(round int) string {
	if round == 0 {
		return "once"
	}
	return fmt.Sprintf("round %d", round)
}

// metered makes a run between two readings of what the server has spent.
func (b *bench) metered(ctx context.Context, url string, r run) (metrics, error) {
	before, err := b.server.meter.Read(ctx)
	if err != nil {
		return nil, err
	}
	m, err := b.tool(ctx, url, r)
	if err != nil {
		return nil, err
	}
	after, err := b.server.meter.Read(ctx)
	if err != nil {
		return nil, err
	}
	cost := after.Since(before)
	m[metricServerTime] = cost.CPU.Seconds()
	if units := m[metricUnits]; units > 0 {
		m[metricServerCPU], m[metricToolCPU] = m[metricServerTime]*1e6/units, m[metricToolTime]*1e6/units
		m[metricServerLog], m[metricServerCommits] = float64(cost.WAL)/units, float64(cost.Transactions)/units
	}
	return m, nil
}

func (b *bench) tool(ctx context.Context, url string, r run) (metrics, error) {
	switch r.tool {
	case toolPgbench:
		return b.pgbench.measure(ctx, url, r)
	case toolRiver:
		return measureRiver(ctx, url, r)
	case toolSluice:
		return measureSluice(ctx, b.sluice, url, r)
	}
	return nil, fmt.Errorf("no tool %q", r.tool)
}

// report prints the table, and writes it and the figures to files whose name says when, of what, and whether they are good
// for a comparison.
func (b *bench) report(complete bool) error {
	text := b.results.markdown()
	fmt.Fprint(b.out, "\n"+text)
	if b.options.results == "" {
		return nil
	}
	name := b.results.Date + "-" + b.results.Machine.Commit
	switch {
	case b.quick:
		name += "-quick"
	case !complete:
		name += "-part"
	}
	figures, err := json.MarshalIndent(b.results, "", " ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.MkdirAll(b.options.results, 0o755); err != nil { //nolint:gosec // G301: they are part of the sources
		return fmt.Errorf("write the results: %w", err)
	}
	path := filepath.Join(b.options.results, name)
	for n := 2; complete && exists(path+".json"); n++ { // what is to be kept is not written over
		path = filepath.Join(b.options.results, fmt.Sprintf("%s-%d", name, n))
	}
	for ending, content := range map[string]string{".json": string(figures) + "\n", ".md": text} {
		if err := os.WriteFile(path+ending, []byte(content), 0o644); err != nil { //nolint:gosec // G306: the same
			return fmt.Errorf("write the results: %w", err)
		}
	}
	note(b.progress, "\nwritten to %s.md and .json", path)
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// moduleVersion is the version of a module in this program.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "unknown"
}
