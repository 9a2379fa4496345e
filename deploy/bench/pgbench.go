package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// script is what pgbench does again and again.
type script struct {
	tables string // SQL that makes what it needs; empty for pgbench's own tables
	scale  int    // of pgbench's own tables
	text   string // empty for the builtin simple-update
}

func simpleUpdate(scale int) script { return script{scale: scale} }

// insertRow is a row about as big as a short task, with the one index that a queue needs at least.
var insertRow = script{
	tables: `create table entry (
		id bigint generated always as identity primary key,
		number integer not null,
		note text not null,
		created_at timestamptz not null default now())`,
	text: `\set number random(1, 1000000)
insert into entry (number, note) values (:number, 'a hundred bytes, as many as the names in a short task have: 0123456789 0123456789 0123456789 01234567');
`,
}

// pgbench is the program and where it may write.
type pgbench struct{ path, dir string }

// findPgbench looks beside the server's programs, then on the PATH. PostgreSQL from npm comes without it.
func findPgbench(bin string) (string, error) {
	path := filepath.Join(bin, "pgbench")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path, err := exec.LookPath("pgbench")
	if err != nil {
		return "", errors.New("no pgbench: without it there is nothing to compare most figures with; " +
			"install PostgreSQL (Debian, Ubuntu: apt-get install postgresql), or set PGBIN to the folder that holds it")
	}
	return path, nil
}

func (p pgbench) prepare(ctx context.Context, url string, s script) error {
	if s.tables == "" {
		_, err := output(exec.CommandContext(ctx, p.path, "--initialize", "--quiet", "--scale", strconv.Itoa(s.scale), url))
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "script.sql"), []byte(s.text), 0o600); err != nil {
		return fmt.Errorf("write pgbench's script: %w", err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("make pgbench's table: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, s.tables); err != nil {
		return fmt.Errorf("make pgbench's table: %w", err)
	}
	return nil
}

func (p pgbench) measure(ctx context.Context, url string, r run) (metrics, error) {
	args := append([]string{"--no-vacuum"}, r.args...)
	if r.script.text == "" {
		args = append(args, "--builtin", "simple-update")
	} else {
		args = append(args, "--file", filepath.Join(p.dir, "script.sql"))
	}
	logged := slices.Contains(args, "--log")
	prefix := filepath.Join(p.dir, "log")
	if logged {
		args = append(args, "--log-prefix", prefix)
	}
	text, took, err := timed(exec.CommandContext(ctx, p.path, append(args, url)...))
	if err != nil {
		return nil, err
	}
	m, err := parsePgbench(string(text))
	if err != nil {
		return nil, err
	}
	m[metricToolTime] = took.Seconds()
	if !logged {
		return m, nil
	}
	return m, addLatencies(m, prefix+".*")
}

// addLatencies reads pgbench's log of each transaction: its own summary knows only the mean. It removes the log.
func addLatencies(m metrics, pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return fmt.Errorf("find pgbench's log: %w", err)
	}
	var took []float64
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read pgbench's log: %w", err)
		}
		took, err = parseLog(file, took)
		if err := errors.Join(err, file.Close(), os.Remove(name)); err != nil {
			return fmt.Errorf("read pgbench's log: %w", err)
		}
	}
	if len(took) == 0 {
		return errors.New("pgbench's log is empty")
	}
	slices.Sort(took)
	m[metricCommitP50], m[metricCommitP99] = quantile(took, 0.50), quantile(took, 0.99)
	return nil
}

// parseLog adds the milliseconds of each line "client transaction µs script seconds µs". With a rate the time counts from the
// scheduled moment, and how late it began comes last.
func parseLog(from io.Reader, took []float64) ([]float64, error) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			return took, fmt.Errorf("a line of another kind: %q", lines.Text())
		}
		us, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			continue // "skipped" or "failed"
		}
		if len(fields) > 6 {
			late, err := strconv.ParseInt(fields[6], 10, 64)
			if err != nil {
				return took, fmt.Errorf("a line of another kind: %q", lines.Text())
			}
			us -= late
		}
		took = append(took, float64(us)/1000)
	}
	return took, lines.Err()
}

var (
	pgbenchRate = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \((?:without initial connection time|excluding connections establishing)\)`)
	pgbenchDone = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
)

func parsePgbench(text string) (metrics, error) {
	m := metrics{}
	for name, pattern := range map[string]*regexp.Regexp{metricRate: pgbenchRate, metricUnits: pgbenchDone} {
		match := pattern.FindStringSubmatch(text)
		if match == nil {
			return nil, fmt.Errorf("pgbench did not say %s: %q", name, text)
		}
		value, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			return nil, fmt.Errorf("read what pgbench says: %w", err)
		}
		m[name] = value
	}
	return m, nil
}
