package main

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strconv"
	"time"
)

// tool is what does the work of a run.
type tool string

const (
	toolPgbench tool = "pgbench"
	toolRiver   tool = "river"
	toolSluice  tool = "sluice"
)

// Names of runs that goals are about.
const (
	runUpdate     = "pgbench-update"
	runInsert     = "pgbench-insert"
	runSerial     = "pgbench-serial"
	runSlow       = "pgbench-50/s"
	runBurnDown   = "river-burndown"
	runContinuous = "river-continuous"
	runX1000      = "x1000"
	runSingles    = "x1000-singles"
	runHot        = "hot"
	runRandom3    = "random3"
	runShared     = "shared"
	runLatency    = "x1000-50/s"
	runFew        = "few-waiting"
	runMany       = "many-waiting"
	runFewLatency = "few-waiting-50/s"
	runManyLate   = "many-waiting-50/s"
)

// run is one measurement, the same in every round.
type run struct {
	name string
	tool tool
	says string   // in the table
	args []string // without the database
	// script is pgbench's work; the tool makes what it needs before the clock starts.
	script script
	// units is how many tasks or jobs the run ends with, for the costs; 0 when that is not known beforehand, or when the
	// run does other things, too.
	units int
	// once runs are made once in a go, after the rounds.
	once bool
}

// scale is how much each run does. A run should take 10 to 20 s on a small machine: less measures the beginning, and with
// more the machine changes between a run and the one it is compared with.
type scale struct {
	seconds  time.Duration // pgbench and River's continuous mode
	jobs     int           // River's burn-down
	tasks    int           // Sluice, for what runs side by side
	chained  int           // Sluice, for chains
	latency  int           // Sluice at a low rate
	few      int           // waiting tasks
	many     int
	accounts int // pgbench's scale factor
	log      int64
}

func scaleOf(quick bool) scale {
	if quick {
		return scale{
			seconds: 3 * time.Second, jobs: 10_000, tasks: 5_000, chained: 500, latency: 100, few: 1_000, many: 20_000,
			accounts: 1, log: 64 << 20,
		}
	}
	return scale{
		seconds: 20 * time.Second, jobs: 100_000, tasks: 100_000, chained: 10_000, latency: 1_000, few: 1_000, many: 1_000_000,
		accounts: 10, log: 2 << 30,
	}
}

const latencyRate = 50 // tasks per second

// plan lists what is measured.
func plan(s scale) []run {
	workload := func(name, says, workload string, tasks, dispatchers, batch int, more ...string) run {
		return run{name: name, tool: toolSluice, says: says, units: tasks + warmUp(tasks), args: append([]string{
			"--workload", workload, "--tasks", strconv.Itoa(tasks), "--slots", "64",
			"--dispatchers", strconv.Itoa(dispatchers), "--batch", strconv.Itoa(batch),
		}, more...)}
	}
	batched := func(name, says string, tasks int) run { return workload(name, says, name, tasks, 4, 100) }
	slow := func(name, says string, more ...string) run {
		return workload(name, says, "x1000", s.latency, 4, 1, append([]string{"--rate", strconv.Itoa(latencyRate)}, more...)...)
	}
	once := func(r run, backlog int) run {
		r.once, r.units = true, 0 // who waits was dispatched, too
		r.args = append(r.args, "--backlog", strconv.Itoa(backlog), "--keep-backlog", "--settle")
		return r
	}
	prepared := func(clients int, more ...string) []string {
		return append([]string{
			"--protocol", "prepared", "--client", strconv.Itoa(clients), "--jobs", strconv.Itoa(min(clients, runtime.NumCPU())),
			"--time", strconv.Itoa(int(s.seconds.Seconds())),
		}, more...)
	}
	waiting := func(n int) string { return fmt.Sprintf("while %s others wait", plain(float64(n))) }
	return []run{
		{
			name: runUpdate, tool: toolPgbench, says: "pgbench's simple-update, 8 clients", script: simpleUpdate(s.accounts),
			args: prepared(8),
		},
		{
			name: runInsert, tool: toolPgbench, says: "insert of one row, 8 clients", script: insertRow,
			args: prepared(8),
		},
		{
			name: runSerial, tool: toolPgbench, says: "insert of one row, 1 client", script: insertRow,
			args: prepared(1, "--log"),
		},
		{
			name: runSlow, tool: toolPgbench, says: "insert of one row, 1 client, 50 a second", script: insertRow,
			args: prepared(1, "--log", "--rate", strconv.Itoa(latencyRate)),
		},
		{
			name: runBurnDown, tool: toolRiver, says: "River, jobs inserted before the clock starts", units: s.jobs,
			args: []string{"--jobs", strconv.Itoa(s.jobs)},
		},
		{
			name: runContinuous, tool: toolRiver, says: "River, inserts while it works",
			args: []string{"--duration", s.seconds.String()},
		},
		batched(runX1000, "one exclusive of 1,000; batches of 100", s.tasks),
		workload(runSingles, "the same, 64 dispatch one by one", "x1000", s.tasks/2, 64, 1),
		batched("none", "no reservations", s.tasks),
		batched("disjoint", "one fresh exclusive each", s.tasks),
		batched(runShared, "one shared by all, one exclusive of 1,000", s.tasks),
		batched("pulp", "like Pulp's: domain, two of 5,000, some immediate", s.tasks/2),
		batched(runHot, "one exclusive for all: a chain", s.chained),
		batched(runRandom3, "one exclusive of 3", 2*s.chained),
		slow(runLatency, "one exclusive of 1,000, 50 a second"),
		once(workload(runFew, waiting(s.few), "x1000", s.tasks, 4, 100), s.few),
		once(workload(runMany, waiting(s.many), "x1000", s.tasks, 4, 100), s.many),
		once(slow(runFewLatency, "50 a second "+waiting(s.few)), s.few),
		once(slow(runManyLate, "50 a second "+waiting(s.many)), s.many),
	}
}

// warmUp is how many tasks sluice bench runs before those that it counts; the server pays for both.
func warmUp(tasks int) int { return min((tasks+9)/10, 10_000) }

// choose keeps the runs that only matches; those with a backlog are kept if they are wanted at all.
func choose(runs []run, only *regexp.Regexp, backlog bool) []run {
	var chosen []run
	for _, r := range runs {
		if only.MatchString(r.name) && (backlog || !r.once) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

// inRound is the order of a round, from 1: another one each, the same in every go. Round 0 has what is made once, in order.
func inRound(runs []run, round int) []run {
	var chosen []run
	for _, r := range runs {
		if r.once == (round == 0) {
			chosen = append(chosen, r)
		}
	}
	if round > 0 {
		order := rand.New(rand.NewPCG(uint64(round), 0))
		order.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	}
	return chosen
}
