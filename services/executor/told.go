package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

const (
	// tellEvery is how often at most the progress of a run is stored while it runs. However often a handler tells of it, the
	// database hears the latest.
	tellEvery = 500 * time.Millisecond
	// tellAgain is when a report is stored that could not be.
	tellAgain = 5 * time.Second
)

// unstored is what a store did not take.
type unstored struct{ report, log bool }

// told is what a run has told of itself: how far it is, what it made, what it wrote. All of it is kept here, where it is always
// up to date, and stored by and by; the last time before the end of the run is reported, so that whoever waits for the end finds
// it.
type told struct {
	// store stores a report, or a log, or both; each is nil if there is nothing new. It says what was not stored.
	store func(report *statusv1.PutTaskReportRequest, log *output) (unstored unstored)
	// logEvery is how often the log is stored while the run goes on.
	logEvery time.Duration

	// storing takes one token, from who stores something: an older state must not arrive after a newer one. Taken before mu. A
	// channel, because tests with a clock of their own can't wait for what waits for a mutex.
	storing chan struct{}

	// member: the task is in a group.
	member bool

	mu        sync.Mutex
	parts     []*taskv1.Progress
	groups    []*taskv1.GroupProgress
	made      []*taskv1.CreatedResource
	discarded []string
	// source is what the run's process writes; nil for a run that has none, whose text is what it says its log is.
	source *capture
	text   tail
	// written is how much of the log has been stored.
	written   int64
	unstored  bool
	scheduled bool
	looking   *time.Timer
	over      bool
}

var (
	errManyParts = fmt.Errorf("the task reports progress of more than %d parts", limits.MaxParts)
	errNoGroup   = errors.New("the task is in no group")
	errMuchMade  = fmt.Errorf("the task made more than %d resources", limits.MaxCreated)
	errEnded     = errors.New("the run has ended")
)

// progress notes how far a part is.
func (t *told) progress(p *taskv1.Progress) error {
	if p == nil {
		return errors.New("the report is empty")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.parts, func(known *taskv1.Progress) bool { return known.GetCode() == p.GetCode() })
	switch {
	case t.over:
		return errEnded
	case at >= 0:
		t.parts[at] = p
	case len(t.parts) == limits.MaxParts:
		return errManyParts
	default:
		t.parts = append(t.parts, p)
	}
	t.changedLocked()
	return nil
}

// renew has the report of a member stored in any case. What an earlier attempt had added to the progress of the group counts until a later
// one has reported: so it has to, be it that it added nothing.
func (t *told) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unstored = t.unstored || t.member
}

// added notes what the run has added to a part of the progress of its group.
func (t *told) added(p *taskv1.GroupProgress) error {
	switch {
	case p == nil:
		return errors.New("the report is empty")
	case !t.member:
		return errNoGroup
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.groups, func(known *taskv1.GroupProgress) bool { return known.GetCode() == p.GetCode() })
	switch {
	case t.over:
		return errEnded
	case at >= 0:
		t.groups[at] = p
	case len(t.groups) == limits.MaxParts:
		return errManyParts
	default:
		t.groups = append(t.groups, p)
	}
	t.changedLocked()
	return nil
}

// created notes what the run made, or that it is complete.
func (t *told) created(c *taskv1.CreatedResource) error {
	if c == nil {
		return errors.New("the report is empty")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.made, func(known *taskv1.CreatedResource) bool { return known.GetResource() == c.GetResource() })
	switch {
	case t.over:
		return errEnded
	case at >= 0:
		t.made[at] = c
	case len(t.made) == limits.MaxCreated:
		return errMuchMade
	default:
		t.made = append(t.made, c)
	}
	t.discarded = slices.DeleteFunc(t.discarded, func(name string) bool { return name == c.GetResource() })
	t.changedLocked()
	return nil
}

// write adds to the log of a run whose output nobody captures.
func (t *told) write(text string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return errEnded
	}
	t.text.add([]byte(text))
	t.lookLocked()
	return nil
}

// Write is write for what writes lines, such as the handler of a log. What comes after the end is dropped.
func (t *told) Write(text []byte) (int, error) {
	_ = t.write(string(text))
	return len(text), nil
}

// listen makes what a process writes the log of the run.
func (t *told) listen(source *capture) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.source = source
	t.lookLocked()
}

// heard takes over the end of the log when the process has ended or goes on to another task. It does not wait for what is being
// stored: the process, and who waits for the end of the run, have better things to do.
func (t *told) heard(o output) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.source = nil
	t.text = tail{bytes: []byte(o.text), truncated: o.truncated, total: o.written}
}

// log is the end of what there is of the log.
func (t *told) log() output {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.output()
}

// incomplete names what was made and is not to be used.
func (t *told) incomplete() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.made {
		if c.GetIncomplete() {
			names = append(names, c.GetResource())
		}
	}
	return names
}

// gone notes what was made and is deleted again.
func (t *told) gone(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made = slices.DeleteFunc(t.made, func(c *taskv1.CreatedResource) bool { return slices.Contains(names, c.GetResource()) })
	t.discarded = append(t.discarded, names...)
	t.unstored = true
}

func (t *told) changedLocked() {
	t.unstored = true
	t.tellLocked(tellEvery)
}

// tellLocked has the report stored after a while.
func (t *told) tellLocked(after time.Duration) {
	if !t.scheduled {
		t.scheduled = true
		time.AfterFunc(after, t.tell)
	}
}

func (t *told) lookLocked() {
	if t.looking == nil {
		t.looking = time.AfterFunc(t.logEvery, t.look)
	}
}

// tell stores the report while the run goes on.
func (t *told) tell() {
	t.storing <- struct{}{}
	defer func() { <-t.storing }()
	t.mu.Lock()
	t.scheduled = false
	if t.over || !t.unstored {
		t.mu.Unlock()
		return
	}
	report := t.reportLocked()
	t.mu.Unlock()
	if !t.store(report, nil).report {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unstored = true // if nothing new comes, the end brings it
	if !t.over {
		t.tellLocked(tellAgain)
	}
}

// look stores the log while the run goes on, if it has grown.
func (t *told) look() {
	t.storing <- struct{}{}
	defer func() { <-t.storing }()
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	before := t.written
	log := t.logLocked()
	t.looking.Reset(t.logEvery)
	t.mu.Unlock()
	if log != nil && t.store(nil, log).log {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.written = before
	}
}

// end stores the rest. Nothing is noted from then on. It waits for what is being stored already, and for nothing else: each takes
// as long as a report may.
func (t *told) end() {
	t.mu.Lock()
	t.over = true // before the wait: what has not begun to be stored is not, but comes with the rest
	if t.looking != nil {
		t.looking.Stop()
	}
	t.mu.Unlock()
	t.storing <- struct{}{}
	defer func() { <-t.storing }()
	t.mu.Lock()
	t.text.end()
	var report *statusv1.PutTaskReportRequest
	if t.unstored {
		report = t.reportLocked()
	}
	log := t.logLocked()
	t.mu.Unlock()
	if report != nil || log != nil {
		t.store(report, log)
	}
}

// reportLocked is all that is known, in a form that nobody changes any more.
func (t *told) reportLocked() *statusv1.PutTaskReportRequest {
	t.unstored = false
	report := &statusv1.PutTaskReportRequest{Discarded: slices.Clone(t.discarded)}
	for _, p := range t.parts {
		report.Progress = append(report.Progress, proto.CloneOf(p))
	}
	for _, p := range t.groups {
		report.GroupProgress = append(report.GroupProgress, proto.CloneOf(p))
	}
	for _, c := range t.made {
		report.Created = append(report.Created, proto.CloneOf(c))
	}
	return report
}

// logLocked is the log, nil if it has not grown since it was stored.
func (t *told) logLocked() *output {
	var log output
	if t.source != nil {
		log = t.source.peek(t.written)
	} else if t.text.total > t.written {
		log = t.text.output()
	}
	if log.written <= t.written {
		return nil
	}
	t.written = log.written
	return &log
}

// keep stores what a run told. It is worth an attempt, not a delay, and of what is not ours any more nothing is stored.
func (s *station) keep(r *run, report *statusv1.PutTaskReportRequest, log *output) (failed unstored) {
	if r.dropped.Err() != nil || !r.lease.holds() {
		return unstored{}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.killed), s.config.ReportTimeout)
	defer cancel()
	// Beside each other: one that hangs must not use up the time of the other.
	var both sync.WaitGroup
	if report != nil && log != nil {
		both.Go(func() { failed.report = !s.keepReport(ctx, r, report) })
	} else if report != nil {
		failed.report = !s.keepReport(ctx, r, report)
	}
	if log != nil {
		failed.log = !s.keepLog(ctx, r, log)
	}
	both.Wait()
	return failed
}

func (s *station) keepReport(ctx context.Context, r *run, report *statusv1.PutTaskReportRequest) (kept bool) {
	report.TaskId, report.Claim = r.claim.task, r.claim.number
	_, err := s.peers.Status.PutTaskReport(ctx, report)
	if err != nil {
		s.log.WarnContext(ctx, "could not store how far a task is and what it made", append(r.attrs(), slog.Any("error", err))...)
	}
	return err == nil
}

func (s *station) keepLog(ctx context.Context, r *run, log *output) (kept bool) {
	_, err := s.peers.Status.PutTaskLog(ctx, &statusv1.PutTaskLogRequest{
		TaskId: r.claim.task, Claim: r.claim.number, Text: log.text, Truncated: log.truncated, Written: log.written,
	})
	if err != nil {
		s.log.WarnContext(ctx, "could not store the task's log", append(r.attrs(), slog.Any("error", err), slog.Int("bytes", len(log.text)))...)
	}
	return err == nil
}
