package executor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// What an executor can keep of a run, if it is set to it and the dispatch asks for it.
const (
	// DiagnoseMemory is how much memory the task's processes had, again and again: the artifact memory_profile.
	DiagnoseMemory = "memory"
	// DiagnoseLogs is the task's log: the artifact task_logs.
	DiagnoseLogs = "logs"
)

// Names of the artifacts, as Pulp has them.
const (
	memoryArtifact = "memory_profile"
	logsArtifact   = "task_logs"
)

// sameAsLogs asks Pulp for logs of the lowest level, too; ours hold what the task writes.
const sameAsLogs = "debug-logs"

// diagnosis is what is kept of one run.
type diagnosis struct {
	// logs: the end of its log is kept.
	logs bool
	// measures: its process may be measured; memory is what came of it, nil if nothing did.
	measures bool
	memory   *memoryProfile
}

// diagnose decides what is kept of a run by what its dispatch asked for. Of what was asked for and is not to be had here it returns a
// line for the task's log, "" if there is none. Immediate tasks are not diagnosed: somebody waits for them.
func (r *run) diagnose(allowed []string, measurable bool) (warning string) {
	if r.assignment.GetImmediate() {
		return ""
	}
	var missing []string
	for _, name := range r.assignment.GetProfileOptions() {
		switch {
		case (name == DiagnoseLogs || name == sameAsLogs) && slices.Contains(allowed, DiagnoseLogs):
			r.diagnosis.logs = true
		case name == DiagnoseMemory && measurable && slices.Contains(allowed, DiagnoseMemory):
			r.diagnosis.measures = true
		case !slices.Contains(missing, name):
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("sluice: diagnostics that were asked for and are not available for this task: %s\n", strings.Join(missing, ", "))
}

// any reports whether there is something to be kept.
func (d *diagnosis) any() bool { return d.logs || d.memory != nil }

// measure begins to note how much memory a process has, if that is wanted. What it returns ends that; it must be called before the
// process is reaped or has another task.
func (d *diagnosis) measure(pid int) (stop func()) {
	if !d.measures {
		return func() {}
	}
	d.memory = measureMemory(pid, memoryEvery)
	return d.memory.stop
}

// keepDiagnosis stores what is kept of a run that has ended. It is worth an attempt, not a delay: it takes as long as a report may.
func (s *station) keepDiagnosis(r *run) {
	if r.dropped.Err() != nil || !r.lease.holds() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.killed), s.config.ReportTimeout)
	defer cancel()
	var both sync.WaitGroup
	defer both.Wait()
	if r.diagnosis.logs {
		both.Go(func() { s.putArtifact(ctx, r, logsArtifact, r.told.log().text) })
	}
	if r.diagnosis.memory != nil {
		both.Go(func() { s.putArtifact(ctx, r, memoryArtifact, r.diagnosis.memory.text()) })
	}
}

func (s *station) putArtifact(ctx context.Context, r *run, name, text string) {
	_, err := s.peers.Status.PutTaskArtifact(ctx, &statusv1.PutTaskArtifactRequest{
		TaskId: r.claim.task, Claim: r.claim.number, Name: name, ContentType: "text/plain; charset=utf-8", Data: []byte(text),
	})
	if err != nil {
		s.log.WarnContext(ctx, "could not store a diagnostic", append(r.attrs(), slog.String("name", name), slog.Any("error", err))...)
	}
}

const (
	// memoryEvery is how often memory is measured. It reads all of /proc.
	memoryEvery = 2 * time.Second
	// maxSamples bounds a profile. Then every second sample is dropped, and the next ones come half as often: what runs for days has
	// a profile of some 100 KiB as well.
	maxSamples = 10_000
)

// memoryProfile is how much memory a process and its descendants had, from its making to stop.
type memoryProfile struct {
	pid    int
	began  time.Time
	ending chan struct{}
	ended  chan struct{}

	samples []memorySample // not to be read before it has ended
}

// memorySample is how many bytes there were after some time.
type memorySample struct {
	after time.Duration
	bytes int64
}

// measureMemory measures now, every so often, and when it is stopped.
func measureMemory(pid int, every time.Duration) *memoryProfile {
	p := &memoryProfile{pid: pid, began: time.Now(), ending: make(chan struct{}), ended: make(chan struct{})}
	go p.follow(every)
	return p
}

func (p *memoryProfile) follow(every time.Duration) {
	defer close(p.ended)
	for {
		if bytes := procs.Resident(p.pid); bytes > 0 {
			p.samples = append(p.samples, memorySample{time.Since(p.began), bytes})
		}
		if len(p.samples) == maxSamples {
			p.samples = everySecond(p.samples)
			every *= 2
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-p.ending:
			timer.Stop()
			if bytes := procs.Resident(p.pid); bytes > 0 {
				p.samples = append(p.samples, memorySample{time.Since(p.began), bytes})
			}
			return
		}
	}
}

// everySecond keeps the first, the third and so on.
func everySecond(samples []memorySample) []memorySample {
	kept := samples[:0]
	for i := 0; i < len(samples); i += 2 {
		kept = append(kept, samples[i])
	}
	return kept
}

// stop measures once more, and nothing after that.
func (p *memoryProfile) stop() {
	close(p.ending)
	<-p.ended
}

// text has a line for each sample: seconds since the beginning, a tabulator, MiB.
func (p *memoryProfile) text() string {
	var text strings.Builder
	for _, s := range p.samples {
		fmt.Fprintf(&text, "%.1f\t%.1f\n", s.after.Seconds(), float64(s.bytes)/(1<<20))
	}
	return text.String()
}
