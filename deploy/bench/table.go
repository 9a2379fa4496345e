package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// results is all that a go leaves behind.
type results struct {
	Date     string            `json:"date"` // of its start, 2026-01-31
	Rounds   int               `json:"rounds"`
	Quick    bool              `json:"quick,omitempty"`
	Machine  machine           `json:"machine"`
	Settings map[string]string `json:"postgresql_settings"` // beyond defaults
	Runs     []record          `json:"runs"`                // in the order in which they were made
}

// record is a run that was made.
type record struct {
	Name    string   `json:"name"`
	Says    string   `json:"says"`
	Tool    tool     `json:"tool"`
	Args    []string `json:"args"`
	Round   int      `json:"round"` // 0 for what is made once
	Seconds float64  `json:"seconds"`
	// Load is the load average when it began (of which the run before has its part), Others the share of all processors that
	// neither tool nor server took, from 0 to 1, and Steal what the host kept from us. Large ones make a run worth little.
	Load    float64 `json:"load"`
	Others  float64 `json:"others"`
	Steal   float64 `json:"steal"`
	Failed  bool    `json:"failed,omitempty"`
	Metrics metrics `json:"metrics,omitempty"`
}

// markdown is the go as a page to read, in a terminal too.
func (r results) markdown() string {
	var b strings.Builder
	kind := "rounds"
	if r.Rounds == 1 {
		kind = "round"
	}
	fmt.Fprintf(&b, "# Benchmark of %s, commit %s, %d %s\n\n", r.Date, r.Machine.Commit, r.Rounds, kind)
	if r.Quick {
		b.WriteString("**A quick go: it shows that everything runs. The figures are too short to say anything.**\n\n")
	}
	b.WriteString(r.machineText())
	b.WriteString("\n## Numbers to reach\n\nMedian over the rounds, each ratio of figures of one round; in parentheses lowest and highest.\n\n")
	b.WriteString(align(r.goalRows()))
	b.WriteString("\n" + r.violationText() + "\n")
	b.WriteString("\n## Medians\n\nPer second: transactions, jobs, tasks. Times in ms, from a dispatch to its start; for pgbench of a transaction.\n\n")
	b.WriteString(align(r.medianRows()))
	b.WriteString("\n## What the server paid\n\nPer transaction, job or task, from its insert to its end; measured from outside, for all in the same way.\n" +
		"Beside it the tool's own processor time: the load, and with River and Sluice all that does the work.\n\n")
	b.WriteString(align(r.costRows()))
	b.WriteString("\n" + r.noiseText() + "\n")
	return b.String()
}

func (r results) machineText() string {
	m := r.Machine
	var settings []string
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		settings = append(settings, name+" = "+r.Settings[name])
	}
	return fmt.Sprintf("%d cores of %s, %s GiB, %s; %s, 8 KiB to disk in %s ms (median). PostgreSQL %s, durable (fsync, synchronous_commit, "+
		"full_page_writes and checksums on), %s. %s, River %s. Server, services and load share the cores.\n",
		m.Cores, m.CPU, plain(m.MemoryGiB), m.Kernel, m.FileSystem, plain(m.FsyncMS), m.PostgreSQL, strings.Join(settings, ", "), m.Go, m.River)
}

func (r results) goalRows() [][]string {
	rows := [][]string{{"what", "measured", "must", "aim", ""}}
	for _, g := range goals() {
		measured, verdict := "", unknown
		if s, ok := r.of(g); ok {
			measured, verdict = withRange(s, g.number), g.verdict(s.median)
		}
		rows = append(rows, []string{g.says, measured, g.bound(g.must), g.bound(g.aim), string(verdict)})
	}
	return rows
}

func (r results) violationText() string {
	runs, violations := 0, 0.0
	for _, rec := range r.Runs {
		if n, ok := rec.Metrics[metricViolations]; ok {
			runs++
			violations += n
		}
	}
	if runs == 0 {
		return "No run of Sluice, so the history checker had nothing to check."
	}
	return fmt.Sprintf("The history checker found %s violations in %d runs of Sluice.", plain(violations), runs)
}

// names are the runs in the order in which they are planned, and what they say.
func (r results) names() (names []string, says map[string]string) {
	says = map[string]string{}
	for _, rec := range r.Runs {
		says[rec.Name] = rec.Says
	}
	for _, planned := range plan(scaleOf(r.Quick)) {
		if _, ok := says[planned.name]; ok {
			names = append(names, planned.name)
		}
	}
	for _, rec := range r.Runs { // of another version of this program
		if !slices.Contains(names, rec.Name) {
			names = append(names, rec.Name)
		}
	}
	return names, says
}

func (r results) medianRows() [][]string {
	rows := [][]string{{"run", "what", "per second", "/ insert", "p50", "p95", "p99"}}
	names, says := r.names()
	for _, name := range names {
		cell := func(metrics ...string) string {
			for _, metric := range metrics {
				if s, ok := r.of(goal{of: figure{name, metric}}); ok {
					return plain(s.median)
				}
			}
			return ""
		}
		perSecond, comparison := "failed", ""
		if s, ok := r.of(goal{of: figure{name, metricRate}}); ok {
			perSecond = withRange(s, plain)
		}
		if s, ok := r.of(goal{of: figure{name, metricRate}, to: figure{runInsert, metricRate}}); ok {
			comparison = ratio(s.median)
		}
		rows = append(rows, []string{
			name, says[name], perSecond, comparison,
			cell(metricStartP50, metricCommitP50), cell(metricStartP95), cell(metricStartP99, metricCommitP99),
		})
	}
	return rows
}

func (r results) costRows() [][]string {
	rows := [][]string{{"run", "CPU µs", "WAL bytes", "commits", "tool's CPU µs", "by its own account: CPU µs", "WAL bytes", "commits", "statements"}}
	names, _ := r.names()
	for _, name := range names {
		row, empty := []string{name}, true
		for _, metric := range []string{
			metricServerCPU, metricServerLog, metricServerCommits, metricToolCPU, metricCPU, metricLog, metricCommits, metricStatements,
		} {
			cell := ""
			if s, ok := r.of(goal{of: figure{name, metric}}); ok {
				cell, empty = plain(s.median), false
			}
			row = append(row, cell)
		}
		if !empty {
			rows = append(rows, row)
		}
	}
	return rows
}

// busyPercent is what may be somebody else's. The kernel's own threads take up to 10 when commits are many.
const busyPercent = 15

// noiseText says how much the machine had to do besides.
func (r results) noiseText() string {
	var others, steal []float64
	var failed []string
	for _, rec := range r.Runs {
		if !rec.Failed {
			others, steal = append(others, rec.Others*100), append(steal, rec.Steal*100)
		} else if !slices.Contains(failed, rec.Name) {
			failed = append(failed, rec.Name)
		}
	}
	text := ""
	if s, ok := spreadOf(others); ok {
		if s.median > busyPercent {
			text = "**The machine had other things to do: measure again.** "
		}
		text += fmt.Sprintf("Neither the tool nor the server took %s %% of the processors during a run (median; at most %s %%)", plain(s.median), plain(s.high))
	}
	if s, ok := spreadOf(steal); ok {
		text += fmt.Sprintf("; the host kept %s %% (median; at most %s %%).", plain(s.median), plain(s.high))
	}
	if len(failed) > 0 {
		text += " **Failed at least once: " + strings.Join(failed, ", ") + ".**"
	}
	return text
}

// withRange writes a median and, if there were several rounds, what it is the median of.
func withRange(s spread, number func(float64) string) string {
	if s.low == s.high {
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.low), number(s.high))
}

func ratio(value float64) string {
	if value >= 10 {
		return strconv.FormatFloat(value, 'f', 1, 64)
	}
	return strconv.FormatFloat(value, 'f', 2, 64)
}

// plain writes a number with about three digits that matter, and no fraction that does not.
func plain(value float64) string {
	if value == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(value)))))
	text := strconv.FormatFloat(value, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return thousands(text)
}

// thousands puts commas into a whole number: 12,345.
func thousands(text string) string {
	if strings.ContainsAny(text, ".-") {
		return text
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// align writes a markdown table, first row its head, whose columns stand below each other as plain text, too.
func align(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
