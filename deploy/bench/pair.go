package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// pairOptions are those of `bench pair`: two Sluices with the same load, at the same time.
//
// A machine whose speed changes by a third from minute to minute, as a virtual one's does, can't tell which of two runs after one
// another costs less. Of two side by side each has the same neighbours, so the ratio of what a task costs them is good to some
// percent; that of their rates says who is slower when both want the processors.
type pairOptions struct {
	a, b   string
	rounds int
	traced float64
	args   []string

	out, progress io.Writer
}

// paired is what one of the two costs for a task.
type paired struct {
	Rate     float64 `json:"tasks_per_second"`
	Database float64 `json:"postgres_cpu_us_per_task"`
	Services float64 `json:"process_cpu_us_per_task"`
	Commits  float64 `json:"commits_per_task"`
	Log      float64 `json:"wal_bytes_per_task"`
}

func commandPair(ctx context.Context, args []string, out, progress io.Writer) error {
	o := pairOptions{out: out, progress: progress}
	flags := flag.NewFlagSet("bench pair", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.StringVar(&o.a, "a", "bin/sluice", "the one binary")
	flags.StringVar(&o.b, "b", "", "the other; the same one if not given")
	flags.IntVar(&o.rounds, "rounds", 7, "how often both are measured")
	flags.Float64Var(&o.traced, "traced", 0, "the share of tasks that the second traces, to a collector that drops everything; 0: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.args = flags.Args()
	if o.b == "" {
		o.b = o.a
	}
	if o.rounds < 1 || o.traced < 0 || o.traced > 1 {
		return errors.New("give at least one round, and trace between none (0) and all (1)")
	}
	if len(o.args) == 0 {
		o.args = strings.Fields("--workload x1000 --tasks 40000 --slots 64 --dispatchers 4 --batch 100")
	}
	return pair(ctx, o)
}

// pair measures, and prints each round and the medians.
func pair(ctx context.Context, o pairOptions) error {
	var settings []string
	if o.traced > 0 {
		addr, stop, err := collector(ctx)
		if err != nil {
			return err
		}
		defer stop()
		settings = []string{
			"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + addr, "OTEL_METRICS_EXPORTER=none",
			"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=" + strconv.FormatFloat(o.traced, 'f', -1, 64),
		}
	}
	var rounds [][2]paired
	for n := range o.rounds {
		var both [2]paired
		failed := make(chan error, len(both))
		start := func(i int) {
			var err error
			if i == 0 {
				both[i], err = measureOne(ctx, o.a, o.args, nil)
			} else {
				both[i], err = measureOne(ctx, o.b, o.args, settings)
			}
			failed <- err
		}
		go start(n % 2) // whoever begins has the processors for himself for a moment
		go start(1 - n%2)
		if err := errors.Join(<-failed, <-failed); err != nil {
			return err
		}
		rounds = append(rounds, both)
		note(o.progress, "round %d  %s", n+1, strings.Join(pairRow(rounds[n:]), "  "))
	}
	_, err := io.WriteString(o.out, align(pairRows(rounds)))
	return err
}

// measureOne runs `sluice bench` with settings of its own, on a server of its own.
func measureOne(ctx context.Context, binary string, args, settings []string) (paired, error) {
	cmd := exec.CommandContext(ctx, binary, append([]string{"bench", "--output", "json"}, args...)...)
	cmd.Env = settings
	text, _, err := timed(cmd)
	if err != nil {
		return paired{}, err
	}
	var said paired
	if err := json.Unmarshal(text, &said); err != nil {
		return paired{}, fmt.Errorf("read the result of sluice bench: %w", err)
	}
	if said.Rate <= 0 || said.Database <= 0 || said.Services <= 0 {
		return paired{}, errors.New("sluice bench could not tell what a task costs: run it with a server of its own")
	}
	return said, nil
}

// pairColumns are the figures that are compared.
var pairColumns = []struct {
	name string
	of   func(paired) float64
}{
	{"tasks a second", func(p paired) float64 { return p.Rate }},
	{"PostgreSQL's CPU, µs", func(p paired) float64 { return p.Database }},
	{"its own CPU, µs", func(p paired) float64 { return p.Services }},
	{"both, µs", func(p paired) float64 { return p.Database + p.Services }},
	{"commits", func(p paired) float64 { return p.Commits }},
	{"log, bytes", func(p paired) float64 { return p.Log }},
}

// pairRow are the medians of the ratios, the second to the first.
func pairRow(rounds [][2]paired) (row []string) {
	for _, c := range pairColumns {
		spread, ok := ratios(rounds, c.of)
		if !ok {
			row = append(row, "")
			continue
		}
		row = append(row, c.name+" "+ratio(spread.median))
	}
	return row
}

// pairRows is the table of all rounds.
func pairRows(rounds [][2]paired) [][]string {
	rows := [][]string{{"for a task", "the first", "the second", "second / first"}}
	for _, c := range pairColumns {
		var sides [2][]float64
		for _, both := range rounds {
			for i, p := range both {
				sides[i] = append(sides[i], c.of(p))
			}
		}
		row := []string{c.name, plain(median(sides[0])), plain(median(sides[1])), ""}
		if spread, ok := ratios(rounds, c.of); ok {
			row[3] = withRange(spread, ratio)
		}
		rows = append(rows, row)
	}
	return rows
}

// ratios are those of a figure, by round.
func ratios(rounds [][2]paired, of func(paired) float64) (spread, bool) {
	var all []float64
	for _, both := range rounds {
		if first := of(both[0]); first > 0 {
			all = append(all, of(both[1])/first)
		}
	}
	return spreadOf(all)
}

// collector takes OTLP over HTTP and keeps nothing of it, as cheaply as that can be done: it shares the processors.
func collector(ctx context.Context) (addr string, stop func(), err error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen for traces: %w", err)
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // a sender that breaks off comes again
			w.Header().Set("Content-Type", "application/x-protobuf")
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends when it is closed
	}()
	return listener.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}
