package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/bench"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

const (
	// idleConnections are what all simulated executors share.
	idleConnections = 16
	idleTasks       = 200 // in a window of a minute
	// goodbyeGrace is for the goodbyes of many thousand executors.
	goodbyeGrace = time.Minute
)

// crowdOptions tell the process with the simulated executors what it is to be.
type crowdOptions struct {
	Addr     string
	TTL      time.Duration
	Versions map[string]string
}

// measureIdle is the other half of the command: executors, and nothing to do.
func (c *BenchCmd) measureIdle(ctx context.Context, env *Environment, own bool, statements *meter.Statements, have map[string]string) (err error) {
	config := bench.IdleConfig{
		Executors: c.IdleExecutors, Window: c.Window, Rest: min(c.Window, benchTTL/2), TTL: benchTTL,
		Tasks: max(1, int(min(c.Window, time.Minute)*idleTasks/time.Minute)), Versions: have,
		Own: c.Addr == "", Statements: statements, Say: env.note,
	}
	if err := config.Check(); err != nil {
		return usage("--%s", err)
	}
	dir, err := c.folder(own)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := newSystem(ctx, LogFlags{LogLevel: c.LogLevel, LogFormat: c.LogFormat}.logger(env.Stderr), "bench", true, env.Stderr)
	s.statements = statements
	defer s.close()
	addr, url := c.Addr, c.DatabaseURL
	if addr == "" {
		if addr, url, err = c.startServices(ctx, s, dir); err != nil {
			return err
		}
	}
	conn, err := s.dial(addr)
	if err != nil {
		return err
	}
	server, err := openMeter(ctx, url)
	if err != nil {
		return err
	}
	if server != nil {
		defer server.Close()
	}
	var result bench.IdleResult
	err = s.during(ctx, func(ctx context.Context) (err error) {
		crowd, stop, err := startCrowd(env, crowdOptions{Addr: addr, TTL: config.TTL, Versions: have})
		if err != nil {
			return err
		}
		// On a system that is about to end nobody waits for goodbyes.
		defer func() { err = errors.Join(err, stop(!config.Own)) }()
		result, err = bench.MeasureIdle(ctx, config, conn, crowd, server)
		return err
	})
	if err != nil {
		return err
	}
	return printIdle(env, c.Output, result)
}

// startCrowd starts this program once more, to be the executors. stop ends it: with goodbyes, or at once.
func startCrowd(env *Environment, options crowdOptions) (crowd *bench.RemoteCrowd, stop func(goodbye bool) error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(options)
	if err != nil {
		return nil, nil, fmt.Errorf("describe the executors: %w", err)
	}
	process := exec.Command(self, "bench", "--crowd", string(text))
	process.Stderr = env.Stderr
	orders, err := process.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the process of the executors: %w", err)
	}
	answers, err := process.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the process of the executors: %w", err)
	}
	if err := process.Start(); err != nil {
		return nil, nil, fmt.Errorf("start the process of the executors: %w", err)
	}
	return bench.DriveCrowd(orders, answers), func(goodbye bool) error {
		late := time.AfterFunc(goodbyeGrace, func() { _ = process.Process.Kill() })
		defer late.Stop()
		_ = orders.Close() // at its end the process says goodbye
		if !goodbye {
			_ = process.Process.Kill()
		}
		if err := process.Wait(); err != nil && goodbye {
			return fmt.Errorf("stop the process of the executors: %w", err)
		}
		return nil
	}, nil
}

// beCrowd is what runs in that process.
func beCrowd(ctx context.Context, env *Environment, text string) error {
	var options crowdOptions
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		return usage("--crowd: %s", err)
	}
	config := bench.CrowdConfig{TTL: options.TTL, Versions: options.Versions}
	for range idleConnections {
		conn, err := rpc.Dial(options.Addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		config.Connections = append(config.Connections, grpc.ClientConnInterface(conn))
	}
	crowd := bench.NewCrowd(config)
	defer crowd.Close()
	return bench.ServeCrowd(ctx, crowd, env.Stdin, env.Stdout)
}

func printIdle(env *Environment, format string, r bench.IdleResult) error {
	if format == "json" {
		return printJSON(env, r)
	}
	rows := [][]string{{"", "with one", fmt.Sprintf("with %d", r.Executors)}}
	number := func(v *float64) string {
		if v == nil {
			return "not known"
		}
		return strconv.FormatFloat(*v, 'f', -1, 64)
	}
	add := func(says string, of func(bench.IdleCosts) string) {
		rows = append(rows, []string{says, of(r.One), of(r.All)})
	}
	add("measured for", func(c bench.IdleCosts) string { return number(&c.Seconds) + " s" })
	add("statements per second", func(c bench.IdleCosts) string { return number(c.Statements) })
	add("transactions per second", func(c bench.IdleCosts) string { return number(c.Transactions) })
	add("log of changes per second", func(c bench.IdleCosts) string { return number(c.WAL) + " bytes" })
	add("PostgreSQL's CPU", func(c bench.IdleCosts) string { return number(c.PostgresCPU) + " % of a core" })
	add("the services' CPU", func(c bench.IdleCosts) string { return number(c.ServicesCPU) + " % of a core" })
	add("the services' memory", func(c bench.IdleCosts) string {
		if c.ServicesRSS == nil {
			return number(nil)
		}
		return strconv.FormatInt(*c.ServicesRSS>>20, 10) + " MiB"
	})
	whole := func(v *int) string {
		if v == nil {
			return number(nil)
		}
		return strconv.Itoa(*v)
	}
	add("the services' goroutines", func(c bench.IdleCosts) string { return whole(c.Goroutines) })
	add("connections to PostgreSQL", func(c bench.IdleCosts) string { return whole(c.Connections) })
	times := func(p *bench.Percentiles) string {
		if p == nil {
			return number(nil)
		}
		return fmt.Sprintf("%s / %s / %s ms", number(&p.P50), number(&p.P95), number(&p.P99))
	}
	add("dispatch to running, p50 / p95 / p99", func(c bench.IdleCosts) string { return times(c.Start) })
	add("dispatch to completed", func(c bench.IdleCosts) string { return times(c.End) })
	rows = append(rows,
		[]string{"the executors' process", "", fmt.Sprintf("%s %% of a core, %d MiB; %s beats and %s pulses a second", number(&r.CrowdCPU), r.CrowdRSS>>20, number(&r.Beats), number(&r.Pulses))},
		[]string{"all connected after", "", number(&r.OpenSeconds) + " s"},
		[]string{"lines broken or deaf, beats broken, lives ended", "", fmt.Sprintf("%d, %d, %d %s", r.BrokenLines+r.Deaf, r.BrokenBeats, r.Fenced, r.Trouble)},
	)
	for _, g := range r.Goals {
		verdict := "not known"
		if g.Met != nil {
			verdict = map[bool]string{true: "met", false: "NOT met"}[*g.Met]
		}
		rows = append(rows, []string{g.Says, fmt.Sprintf("less than %s", number(&g.Limit)), number(g.Measured) + ": " + verdict})
	}
	(&session{Environment: env}).printTable(rows)
	return nil
}
