package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine describes what the figures were measured on: what matters for them, and nothing that tells whose it is.
type machine struct {
	Cores      int     `json:"cores"`
	CPU        string  `json:"cpu"`
	MemoryGiB  float64 `json:"memory_gib"`
	Kernel     string  `json:"kernel"`
	FileSystem string  `json:"file_system"`
	FsyncMS    float64 `json:"fsync_ms"` // median of 8 KiB written and forced to disk
	PostgreSQL string  `json:"postgresql"`
	Go         string  `json:"go"`
	Commit     string  `json:"commit"` // of Sluice; "-dirty" when something was changed
	River      string  `json:"river"`
}

func describe(ctx context.Context, dir, postgres string) (machine, error) {
	fsync, err := fsyncTime(dir)
	if err != nil {
		return machine{}, err
	}
	kernel, _, _ := strings.Cut(firstLine("/proc/sys/kernel/osrelease"), "-") // what follows may be a name of somebody's own
	return machine{
		Cores:      runtime.NumCPU(),
		CPU:        field("/proc/cpuinfo", "model name"),
		MemoryGiB:  float64(memoryKiB()*10/(1<<20)) / 10,
		Kernel:     "Linux " + kernel + " " + runtime.GOARCH,
		FileSystem: fileSystem(dir),
		FsyncMS:    fsync,
		PostgreSQL: postgres,
		Go:         runtime.Version(),
		Commit:     commit(ctx),
		River:      moduleVersion("github.com/riverqueue/river"),
	}, nil
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// field reads "name : value", as the files in /proc have it; the first one counts.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func memoryKiB() int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// fileSystem names the kind that dir is on. On one in memory a commit costs nothing, which startServer's caller refuses.
func fileSystem(dir string) string {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return "unknown"
	}
	names := map[int64]string{
		0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x2fc12fc1: "zfs", 0x794c7630: "overlay",
		0x01021994: inMemory, 0x858458f6: inMemory, 0x6969: "nfs",
	}
	if name, ok := names[int64(stat.Type)]; ok { //nolint:unconvert // it is another type on other processors
		return name
	}
	return fmt.Sprintf("%#x", stat.Type)
}

const inMemory = "memory"

// fsyncTime is what a commit has to wait for at least, in milliseconds.
func fsyncTime(dir string) (float64, error) {
	const times, block = 200, 8192
	file, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0, fmt.Errorf("measure fsync: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var took []float64
	for i := range times {
		start := time.Now()
		if _, err := file.WriteAt(make([]byte, block), int64(i%10)*block); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		took = append(took, time.Since(start).Seconds()*1000)
	}
	return median(took), nil
}

// commit is what was measured, if this is a checkout.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	// Results of earlier goes are no change of what is measured.
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":/", ":(exclude,top)deploy/bench/results").Output()
	if err != nil || len(changes) > 0 {
		name += "-dirty"
	}
	return name
}

// cpu is the machine's processor time so far, of all its processors, in the kernel's ticks.
type cpu struct{ idle, steal, all int64 }

// share is how the processors' time went between two readings, each from 0 to 1.
type share struct{ busy, steal float64 }

func readCPU() cpu { return parseCPU(firstLine("/proc/stat")) }

// parseCPU reads "cpu user nice system idle iowait irq softirq steal guest guest_nice". Waiting for the disk is idle.
func parseCPU(line string) cpu {
	var c cpu
	for i, text := range strings.Fields(line) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || i > 8 { // guests' time is in user already
			continue
		}
		c.all += n
		switch i {
		case 4, 5:
			c.idle += n
		case 8:
			c.steal += n
		}
	}
	return c
}

func (c cpu) since(before cpu) share {
	all := float64(c.all - before.all)
	if all <= 0 {
		return share{}
	}
	idle, steal := float64(c.idle-before.idle), float64(c.steal-before.steal)
	return share{busy: 1 - (idle+steal)/all, steal: steal / all}
}

func load() float64 {
	first, _, _ := strings.Cut(firstLine("/proc/loadavg"), " ")
	n, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return n
}
