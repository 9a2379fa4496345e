package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// heldOptions are those of `bench held`: what a session costs the others that has begun a transaction and does nothing. Its
// snapshot keeps every row alive that was deleted or replaced since, so tables with much coming and going fill with dead rows.
type heldOptions struct {
	sluice, dir string
	hold, piece time.Duration
	tasks       int

	out, progress io.Writer
}

// heldTables are those of Sluice whose rows change while tasks run.
var heldTables = []string{"task", "task_live", "task_cancel", "lease", "app"}

// heldPhase is a time of such a measurement.
type heldPhase string

const (
	heldBefore heldPhase = "before"
	heldFirst  heldPhase = "held, at first"
	heldLast   heldPhase = "held, at last"
	heldAfter  heldPhase = "after"
	heldVacuum heldPhase = "after a vacuum"
)

// heldRow is what was measured in a phase.
type heldRow struct {
	phase heldPhase
	m     metrics
	dead  map[string]deadRows
	after time.Duration // since the snapshot was taken; 0 outside
}

// deadRows are how many rows of a table live and how many are dead, as the server counts, and how large it is with its indexes.
type deadRows struct {
	live, dead, bytes int64
}

func commandHeld(ctx context.Context, args []string, out, progress io.Writer) error {
	o := heldOptions{out: out, progress: progress}
	flags := flag.NewFlagSet("bench held", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary to measure")
	flags.StringVar(&o.dir, "dir", "/var/tmp", "folder for the server's data, on the disk that is to be measured")
	flags.DurationVar(&o.hold, "hold", 3*time.Minute, "how long the snapshot is held, by each tool")
	flags.DurationVar(&o.piece, "piece", 15*time.Second, "how long one run of pgbench lasts")
	flags.IntVar(&o.tasks, "tasks", 60_000, "how many tasks are in one run of Sluice")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.hold <= 0 || o.piece < time.Second || o.tasks < 1 {
		return errors.New("give no arguments, and times of at least a second")
	}
	return held(ctx, o)
}

func held(ctx context.Context, o heldOptions) (err error) {
	server, err := startServer(ctx, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop(ctx)) }()
	if err := server.fillLog(ctx, scaleOf(false).log); err != nil {
		return err
	}
	folder, err := os.MkdirTemp(o.dir, "sluice-bench-held-")
	if err != nil {
		return fmt.Errorf("make a folder for pgbench: %w", err)
	}
	defer os.RemoveAll(folder)
	tool := pgbench{dir: folder}
	if tool.path, err = findPgbench(server.binaries.Dir); err != nil {
		note(o.progress, "%s", err)
	}
	scale := scaleOf(false)
	seconds := strconv.Itoa(int(o.piece.Seconds()))
	update := run{name: runUpdate, tool: toolPgbench, script: simpleUpdate(scale.accounts), args: []string{
		"--protocol", "prepared", "--client", "8", "--jobs", "2", "--time", seconds,
	}}
	x1000 := run{name: runX1000, tool: toolSluice, units: o.tasks + warmUp(o.tasks), args: []string{
		"--workload", "x1000", "--tasks", strconv.Itoa(o.tasks), "--slots", "64", "--dispatchers", "4", "--batch", "100", "--keep-backlog",
	}}
	for _, h := range []struct {
		r      run
		tables []string
	}{{x1000, heldTables}, {update, []string{"pgbench_accounts"}}} {
		if h.r.tool == toolPgbench && tool.path == "" {
			continue
		}
		rows, err := heldBy(ctx, o, server, tool, h.r, h.tables)
		fmt.Fprint(o.out, "\n"+align(heldRates(h.r, rows))+"\n"+align(heldDead(h.tables, rows)))
		if err != nil {
			return err
		}
	}
	return nil
}

// heldBy measures one tool on a database of its own, before, while and after a session holds a snapshot.
func heldBy(ctx context.Context, o heldOptions, server *server, tool pgbench, r run, tables []string) (rows []heldRow, err error) {
	url, err := server.database(ctx, databaseName)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.drop(ctx, databaseName)) }()
	if r.tool == toolPgbench {
		if err := tool.prepare(ctx, url, r.script); err != nil {
			return nil, err
		}
	}
	b := &bench{options: options{sluice: o.sluice, progress: o.progress}, server: server, pgbench: tool}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to count dead rows: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	piece := func(phase heldPhase, after time.Duration) error {
		m, err := b.metered(ctx, url, r)
		if err != nil {
			return err
		}
		if n := m[metricViolations]; n > 0 {
			return fmt.Errorf("the history checker found %.0f violations", n)
		}
		dead, err := countDead(ctx, conn, tables)
		rows = append(rows, heldRow{phase, m, dead, after})
		note(o.progress, "%-8s %-16s %8s per second, load %.2f", r.tool, phase, plain(m[metricRate]), load())
		return err
	}
	// Twice: the first makes what there is, tables and the memory that they are in.
	for range 2 {
		if err := piece(heldBefore, 0); err != nil {
			return rows, err
		}
	}
	rows = rows[1:]
	holder, err := pgx.Connect(ctx, url)
	if err != nil {
		return rows, fmt.Errorf("connect to hold a snapshot: %w", err)
	}
	defer holder.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{`begin isolation level repeatable read`, `select count(*) from pg_class`} {
		if _, err := holder.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return rows, fmt.Errorf("hold a snapshot: %w", err)
		}
	}
	taken := time.Now()
	for phase := heldFirst; ; phase = heldLast {
		last := len(rows)
		if err := piece(phase, time.Since(taken)); err != nil {
			return rows, err
		}
		if last > 2 { // only the first and the last are kept
			rows = append(rows[:last-1], rows[last])
		}
		if phase == heldLast && time.Since(taken) >= o.hold {
			break
		}
	}
	if _, err := holder.Exec(ctx, `rollback`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return rows, fmt.Errorf("let the snapshot go: %w", err)
	}
	if err := piece(heldAfter, 0); err != nil {
		return rows, err
	}
	if _, err := conn.Exec(ctx, `vacuum`); err != nil {
		return rows, fmt.Errorf("vacuum: %w", err)
	}
	return rows, piece(heldVacuum, 0)
}

func countDead(ctx context.Context, conn *pgx.Conn, tables []string) (map[string]deadRows, error) {
	counted := map[string]deadRows{}
	// What the sessions that have just ended did is in the server's statistics; ours would show them as of its first look.
	for _, table := range tables {
		var d deadRows
		err := conn.QueryRow(ctx, `
			select n_live_tup, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables where relname = $1`, table,
		).Scan(&d.live, &d.dead, &d.bytes)
		if err != nil {
			return nil, fmt.Errorf("count the dead rows of %s: %w", table, err)
		}
		counted[table] = d
	}
	return counted, nil
}

// heldRates is the table of rates.
func heldRates(r run, rows []heldRow) [][]string {
	table := [][]string{{string(r.tool) + ", " + r.name, "held for", "per second", "/ before", "server's CPU µs each", "start p50 ms", "p99"}}
	for _, row := range rows {
		heldFor := ""
		if row.after > 0 {
			heldFor = row.after.Round(time.Second).String()
		}
		cell := func(names ...string) string {
			for _, name := range names {
				if v, ok := row.m[name]; ok {
					return plain(v)
				}
			}
			return ""
		}
		table = append(table, []string{
			string(row.phase), heldFor, cell(metricRate), ratio(row.m[metricRate] / rows[0].m[metricRate]), cell(metricServerCPU),
			cell(metricStartP50), cell(metricStartP99),
		})
	}
	return table
}

// heldDead is the table of dead rows.
func heldDead(tables []string, rows []heldRow) [][]string {
	table := [][]string{append([]string{"dead rows, living ones, size"}, tables...)}
	for _, row := range rows {
		cells := []string{string(row.phase)}
		for _, t := range tables {
			d := row.dead[t]
			cells = append(cells, fmt.Sprintf("%s, %s, %s MiB", plain(float64(d.dead)), plain(float64(d.live)), plain(float64(d.bytes)/(1<<20))))
		}
		table = append(table, cells)
	}
	return table
}
