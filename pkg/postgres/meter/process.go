package meter

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of /proc/<pid>/stat. The kernel has it at 100 on every machine, whatever its own clock.
const ticksPerSecond = 100

// startTolerance is how far the start of the postmaster as the kernel and as the server see it may be apart. The kernel counts
// from a boot whose time it corrects with every correction of the clock.
const startTolerance = time.Minute

// process is a line of /proc/<pid>/stat.
type process struct {
	name    string
	parent  int
	own     time.Duration // processor time
	reaped  time.Duration // that of children that have ended
	started time.Duration // since the boot
}

// readProcess is false when there is no such process, or no /proc.
func readProcess(pid int) (process, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	return parseProcess(string(text))
}

// parseProcess reads "pid (name) state ppid …"; there can be anything in the name.
func parseProcess(line string) (process, bool) {
	from, to := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if from < 0 || to < from {
		return process{}, false
	}
	fields := strings.Fields(line[to+1:]) // the first of them is the third of the line
	if len(fields) < 20 {
		return process{}, false
	}
	number := func(place int) int64 {
		n, _ := strconv.ParseInt(fields[place-3], 10, 64) // the kernel wrote it
		return n
	}
	ticks := func(places ...int) (sum time.Duration) {
		for _, place := range places {
			sum += time.Duration(number(place)) * (time.Second / ticksPerSecond)
		}
		return sum
	}
	return process{
		name: line[from+1 : to], parent: int(number(4)),
		own: ticks(14, 15), reaped: ticks(16, 17), started: ticks(22),
	}, true
}

// findPostmaster is the parent of the process that answered, or 0. A server elsewhere can have a process of any number, so it
// has to be one of PostgreSQL's, and as old as the server says that it is.
func findPostmaster(backend int, since time.Time) int {
	child, seen := readProcess(backend)
	if !seen || !strings.HasPrefix(child.name, "postgres") {
		return 0
	}
	parent, seen := readProcess(child.parent)
	boot, known := bootTime()
	if !seen || !known || !strings.HasPrefix(parent.name, "post") {
		return 0
	}
	if apart := boot.Add(parent.started).Sub(since); apart.Abs() > startTolerance {
		return 0
	}
	return child.parent
}

func bootTime() (time.Time, bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "btime "); found {
			seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Unix(seconds, 0), err == nil
		}
	}
	return time.Time{}, false
}

// spent is the processor time of a process, of its children that live, and of those that it has outlived.
func spent(postmaster int) (time.Duration, bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false
	}
	// The postmaster after its children: one that ends in between is counted twice, and not lost with hours of work.
	var sum time.Duration
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, seen := readProcess(pid); seen && p.parent == postmaster {
			sum += p.own + p.reaped
		}
	}
	p, seen := readProcess(postmaster)
	return sum + p.own + p.reaped, seen
}
