package executor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/services/executor"
)

// pipe makes a fifo.
func pipe(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open lets whoever reads a fifo go on.
func open(t *testing.T, gate string) {
	t.Helper()
	opened := make(chan error, 1)
	go func() { opened <- os.WriteFile(gate, []byte("go"), 0) }()
	if err := receive(t, opened, "somebody at the gate"); err != nil {
		t.Fatal(err)
	}
}

// arrived is all that has come through a channel.
func arrived[T any](from <-chan T) (all []T) {
	for {
		select {
		case v := <-from:
			all = append(all, v)
		default:
			return all
		}
	}
}

func TestWhatATaskTellsIsStoredBeforeItsEndIsReported(t *testing.T) {
	for _, name := range []string{"tells", "tells.here"} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{})
			const steps = 20_000
			a := l.assign(order(name, fmt.Sprintf(`{"Steps": %d}`, steps)))
			if outcome := l.outcome(a); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Fatalf("outcome %v", outcome)
			}
			reports := arrived(f.reports)
			if len(reports) == 0 || len(reports) > steps/10 {
				t.Fatalf("%d steps became %d reports", steps, len(reports))
			}
			want := &statusv1.PutTaskReportRequest{
				TaskId: a.GetTaskId(), Claim: 1,
				Progress: []*taskv1.Progress{{
					Code: "part", Message: "working", State: taskv1.State_STATE_COMPLETED, Total: proto.Int64(steps), Done: steps,
				}},
				Created: []*taskv1.CreatedResource{{Resource: "/a/"}, {Resource: "/b/"}},
			}
			if diff := cmp.Diff(want, reports[len(reports)-1], protocmp.Transform()); diff != "" {
				t.Errorf("the last report (-want +got):\n%s", diff)
			}
			l.finished(a)
		})
	}
}

func TestAReportOrALogThatIsNotTakenCostsNothingElse(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fail := func(context.Context) error { return errors.New("no") }
	for name, do := range map[string]func(context.Context) error{"it hangs": hang, "it fails": fail} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{ReportTimeout: 100 * time.Millisecond})
			f.onReport.Store(&do)
			if outcome := l.do(order("tells", `{"Steps": 1, "Text": "one"}`)); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Errorf("outcome %v", outcome)
			}
			if got := receive(t, f.logs, "the log").GetText(); got != "one" {
				t.Errorf("log %q", got)
			}
			receive(t, f.reports, "the report")
			f.onReport.Store(nil)
			f.onLog.Store(&do)
			if outcome := l.do(order("tells", `{"Steps": 1, "Text": "two"}`)); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Errorf("outcome %v", outcome)
			}
			if got := receive(t, f.reports, "the report").GetCreated(); len(got) != 2 {
				t.Errorf("made %v", got)
			}
		})
	}
}

// While a report is on its way, whose answer does not come, a run goes on, is listed, and can be canceled.
func TestAReportUnderWayHoldsUpNobody(t *testing.T) {
	f, s, l := connect(t, executor.Config{CancelGrace: 50 * time.Millisecond})
	release := make(chan struct{})
	hold := until(release)
	f.onReport.Store(&hold)
	gate := pipe(t, "gate")
	a := l.assign(order("tells", fmt.Sprintf(`{"Steps": 3, "Gate": %q}`, gate)))
	l.acknowledged(a)
	receive(t, f.reports, "the first report")
	if running := s.running(); len(running) != 1 {
		t.Errorf("running: %v", running)
	}
	l.do(order("test.noop", ""))
	l.cancel(a)
	s.canceling()
	close(release)
	expectOutcome(t, canceled, l.end(a))
}

func TestTheLogOfALongTaskIsStoredWhileItRuns(t *testing.T) {
	f, _, l := connect(t, executor.Config{LogEvery: 10 * time.Millisecond})
	gate := pipe(t, "gate")
	a := l.assign(order("tells", fmt.Sprintf(`{"Steps": 1, "Text": "one\n", "Gate": %q, "Rest": "two\n"}`, gate)))
	l.acknowledged(a)
	for {
		log := receive(t, f.logs, "the log of a running task")
		if log.GetTaskId() != a.GetTaskId() || log.GetClaim() != 1 {
			t.Errorf("log %v", log)
		}
		if log.GetText() == "one\n" {
			break
		}
	}
	open(t, gate)
	l.outcome(a)
	logs := arrived(f.logs)
	if len(logs) == 0 || logs[len(logs)-1].GetText() != "one\ntwo\n" {
		t.Errorf("at the end the log is %v", logs)
	}
	l.finished(a)
}

// The first storing of the log takes until after the end of the process: the whole log must not arrive before it.
func TestAnOlderLogNeverArrivesAfterANewerOne(t *testing.T) {
	f, _, l := connect(t, executor.Config{LogEvery: time.Millisecond})
	release := make(chan struct{})
	hold := until(release)
	f.onLog.Store(&hold)
	gate := pipe(t, "gate")
	a := l.assign(order("tells", fmt.Sprintf(`{"Steps": 1, "Text": "one\n", "Gate": %q, "Rest": "two\n"}`, gate)))
	receive(t, f.logs, "the log of a running task")
	open(t, gate)
	l.acknowledged(a)
	l.do(order("test.sleep", `{"seconds": 0.2}`)) // by then the other one has ended long ago
	if logs := arrived(f.logs); len(logs) != 0 {
		t.Errorf("beside the log that is being stored came %v", logs)
	}
	close(release)
	l.end(a)
	if logs := arrived(f.logs); len(logs) == 0 || logs[len(logs)-1].GetText() != "one\ntwo\n" {
		t.Errorf("at the end the log is %v", logs)
	}
}

// files are the names in a directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// lastReport is what the last report says was made, and what was deleted, by base names. "?" marks what is incomplete.
func lastReport(t *testing.T, f *fakes) (made, discarded []string) {
	t.Helper()
	reports := arrived(f.reports)
	if len(reports) == 0 {
		t.Fatal("no report")
	}
	last := reports[len(reports)-1]
	for _, c := range last.GetCreated() {
		name := filepath.Base(c.GetResource())
		if c.GetIncomplete() {
			name += "?"
		}
		made = append(made, name)
	}
	for _, name := range last.GetDiscarded() {
		discarded = append(discarded, filepath.Base(name))
	}
	slices.Sort(made)
	slices.Sort(discarded)
	return made, discarded
}

func TestWhatATaskLeavesIncompleteIsDeleted(t *testing.T) {
	const (
		inChild = 1 << iota
		inProcess
	)
	for name, c := range map[string]struct {
		where           int
		end             string
		half            []string
		interrupt       func(*fakes, *fakeLine, *taskv1.Assignment)
		timeout         time.Duration
		made, discarded []string
	}{
		"it failed":    {inChild | inProcess, "fail", []string{"half", "other"}, nil, 0, []string{"whole"}, []string{"half", "other"}},
		"it completed": {inChild | inProcess, "complete", []string{"half"}, nil, 0, []string{"half?", "whole"}, nil},
		"one can't be": {inChild | inProcess, "fail", []string{"half", "stuck"}, nil, 0, []string{"stuck?", "whole"}, []string{"half"}},
		"it died":      {inChild, "die", []string{"half"}, nil, 0, []string{"whole"}, []string{"half"}},
		"it was canceled": {inChild | inProcess, "wait", []string{"half"}, func(_ *fakes, l *fakeLine, a *taskv1.Assignment) {
			l.cancel(a)
		}, 0, []string{"whole"}, []string{"half"}},
		"it was canceled and killed": {inChild, "sticky", []string{"half"}, func(_ *fakes, l *fakeLine, a *taskv1.Assignment) {
			l.cancel(a)
		}, 0, []string{"whole"}, []string{"half"}},
		"it took too long":            {inChild | inProcess, "wait", []string{"half"}, nil, 500 * time.Millisecond, []string{"whole"}, []string{"half"}},
		"it took too long and longer": {inChild, "sticky", []string{"half"}, nil, 500 * time.Millisecond, []string{"whole"}, []string{"half"}},
	} {
		for where, handler := range map[int]string{inChild: "makes", inProcess: "makes.here"} {
			if c.where&where == 0 {
				continue
			}
			t.Run(name+", "+handler, func(t *testing.T) {
				f, _, l := connect(t, executor.Config{CancelGrace: 2 * time.Second})
				dir := t.TempDir()
				half := `"` + strings.Join(c.half, `", "`) + `"`
				a := order(handler, fmt.Sprintf(`{"Dir": %q, "Half": [%s], "End": %q}`, dir, half, c.end))
				if c.timeout > 0 {
					a.Timeout = durationpb.New(c.timeout)
				}
				l.assign(a)
				if c.end == "wait" || c.end == "sticky" {
					told(t, f, new([]int))
				}
				if c.interrupt != nil {
					c.interrupt(f, l, a)
				}
				l.outcome(a)
				made, discarded := lastReport(t, f)
				if diff := cmp.Diff(c.made, made); diff != "" {
					t.Errorf("made, according to the last report (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.discarded, discarded); diff != "" {
					t.Errorf("deleted, according to the last report (-want +got):\n%s", diff)
				}
				var want []string
				for _, name := range c.made {
					want = append(want, strings.TrimSuffix(name, "?"))
				}
				if diff := cmp.Diff(want, files(t, dir)); diff != "" {
					t.Errorf("there when the end was reported (-want +got):\n%s", diff)
				}
				l.finished(a)
			})
		}
	}
}

// By the time that a claim is refused, the task may be somebody else's, and what it made too.
func TestNothingIsDeletedOfARefusedClaim(t *testing.T) {
	for name, before := range map[string]func(*subject, *fakeLine, *taskv1.Assignment){
		"while it runs": func(*subject, *fakeLine, *taskv1.Assignment) {},
		"while it is being canceled": func(s *subject, l *fakeLine, a *taskv1.Assignment) {
			l.cancel(a)
			s.canceling()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, l := connect(t, executor.Config{CancelGrace: time.Hour})
			dir := t.TempDir()
			a := l.assign(order("makes", fmt.Sprintf(`{"Dir": %q, "Half": ["half"], "End": "sticky"}`, dir)))
			var pids []int
			told(t, f, &pids)
			child := watch(t, pids[0])
			before(s, l, a)
			l.refuse(a)
			child.ends("the child")
			s.end() // so nothing of it goes on
			if diff := cmp.Diff([]string{"half", "whole"}, files(t, dir)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			for _, report := range arrived(f.reports) {
				if len(report.GetDiscarded()) > 0 {
					t.Errorf("reported %v", report)
				}
			}
		})
	}
}

func TestADeletionThatHangsIsCut(t *testing.T) {
	for _, handler := range []string{"makes", "makes.here"} {
		t.Run(handler, func(t *testing.T) {
			f, s, l := connect(t, executor.Config{CancelGrace: 300 * time.Millisecond})
			dir := t.TempDir()
			outcome := l.do(order(handler, fmt.Sprintf(`{"Dir": %q, "Half": ["hangs", "half"], "End": "fail"}`, dir)))
			if got := outcome.GetError().GetDescription(); got != "no luck" {
				t.Errorf("outcome %v", outcome)
			}
			made, discarded := lastReport(t, f)
			if diff := cmp.Diff([]string{"half?", "hangs?", "whole"}, made); diff != "" || len(discarded) > 0 {
				t.Errorf("made, according to the last report (-want +got):\n%s, and deleted %v", diff, discarded)
			}
			if got := files(t, dir); !slices.Contains(got, "hangs.begun") {
				t.Errorf("it was not even begun: %v", got)
			}
			if handler == "makes.here" {
				letGo <- struct{}{}
			}
			if s.end(); handler == "makes" {
				if children := childrenOf(t, os.Getpid()); len(children) != 0 {
					t.Errorf("children left: %v", children)
				}
			}
		})
	}
}

func TestAHandlerThatCannotDeleteLeavesWhatItMade(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	dir := t.TempDir()
	l.do(order("makes.for.ever", fmt.Sprintf(`{"Dir": %q, "Half": ["half"], "End": "fail"}`, dir)))
	made, discarded := lastReport(t, f)
	if diff := cmp.Diff([]string{"half?", "whole"}, made); diff != "" || len(discarded) > 0 {
		t.Errorf("made, according to the last report (-want +got):\n%s, and deleted %v", diff, discarded)
	}
}

// What a task leaves running in its child asks for more while the child has the next task.
func TestNobodyAsksInTheNameOfTheNextTask(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1})
	gate, answer := pipe(t, "gate"), pipe(t, "answer")
	var pid int
	l.result(order("lingers", fmt.Sprintf(`{"Gate": %q, "Answer": %q}`, gate, answer)), &pid)
	next, pids := start(f, l, "wait")
	if pids[0] != pid {
		t.Fatalf("the next task runs in process %d, not in %d", pids[0], pid)
	}
	open(t, gate)
	text := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(answer)
		text <- fmt.Sprint(string(b), err)
	}()
	if got := receive(t, text, "the answer"); !strings.Contains(got, "the run has ended") {
		t.Errorf("it got %q", got)
	}
	if specs := arrived(f.dispatches); len(specs) != 0 {
		t.Errorf("dispatched %v", specs)
	}
	l.cancel(next)
	l.end(next)
}

func TestATaskThatTakesTooLongIsStopped(t *testing.T) {
	late := func(limit time.Duration) *taskv1.Outcome {
		return &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{
			Code: task.CodeTimeout, Reason: fmt.Sprintf(task.ReasonTimeoutFormat, limit),
		}}
	}
	const brief = 20 * time.Millisecond
	for name, c := range map[string]struct {
		handler string
		limit   time.Duration
		want    *taskv1.Outcome
	}{
		"by its dispatch":                              {"wait", 50 * time.Millisecond, late(50 * time.Millisecond)},
		"by its dispatch, here":                        {"wait.here", 50 * time.Millisecond, late(50 * time.Millisecond)},
		"by its handler":                               {"wait.briefly", 0, late(brief)},
		"by its handler, here":                         {"wait.briefly.here", 0, late(brief)},
		"by its dispatch, which counts":                {"wait.briefly", 70 * time.Millisecond, late(70 * time.Millisecond)},
		"by its dispatch, which counts, here":          {"wait.briefly.here", 70 * time.Millisecond, late(70 * time.Millisecond)},
		"and goes on":                                  {"sticky", 50 * time.Millisecond, late(50 * time.Millisecond)},
		"though nobody was ready to run it for a time": {"test.asleep", time.Nanosecond, late(time.Nanosecond)},
	} {
		t.Run(name, func(t *testing.T) {
			_, s, l := connect(t, executor.Config{CancelGrace: 100 * time.Millisecond})
			a := order(c.handler, "")
			if c.handler == "test.asleep" {
				a.KwargsJson = `{"seconds": 1000}`
			}
			if c.limit > 0 {
				a.Timeout = durationpb.New(c.limit)
			}
			expectOutcome(t, c.want, l.do(a))
			s.quiet()
			s.end()
			if children := childrenOf(t, os.Getpid()); len(children) != 0 {
				t.Errorf("children left: %v", children)
			}
		})
	}
}

func TestTheFirstReasonToStopCounts(t *testing.T) {
	t.Run("the timeout, then a cancel", func(t *testing.T) {
		f, s, l := connect(t, executor.Config{CancelGrace: time.Hour})
		a := order("sticky.here", "")
		a.Timeout = durationpb.New(50 * time.Millisecond)
		l.assign(a)
		told(t, f, new([]int))
		s.canceling()
		l.cancel(a)
		l.acknowledged(a)
		l.do(order("test.noop", "")) // the cancel has arrived
		letGo <- struct{}{}
		want := &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{
			Code: task.CodeTimeout, Reason: fmt.Sprintf(task.ReasonTimeoutFormat, 50*time.Millisecond),
		}}
		expectOutcome(t, want, l.end(a))
	})
	t.Run("a cancel, then the timeout", func(t *testing.T) {
		f, _, l := connect(t, executor.Config{CancelGrace: time.Hour})
		a := order("sticky.here", "")
		a.Timeout = durationpb.New(300 * time.Millisecond)
		l.assign(a)
		told(t, f, new([]int))
		l.cancel(a)
		l.acknowledged(a)
		l.do(order("test.sleep", `{"seconds": 0.5}`))
		letGo <- struct{}{}
		expectOutcome(t, canceled, l.end(a))
	})
	t.Run("the end, then the timeout and a cancel", func(t *testing.T) {
		f, _, l := connect(t, executor.Config{})
		release := make(chan struct{})
		hold := until(release)
		f.onLog.Store(&hold)
		a := order("print", `{"Text": "x"}`)
		a.Timeout = durationpb.New(2 * time.Second)
		l.assign(a)
		receive(t, f.logs, "the log, which is stored when all is over")
		l.acknowledged(a)
		l.cancel(a)
		l.do(order("test.sleep", `{"seconds": 2.1}`))
		close(release)
		if outcome := l.end(a); outcome.GetState() != taskv1.State_STATE_COMPLETED {
			t.Errorf("outcome %v", outcome)
		}
	})
}

func TestARefusalBetweenTheEndAndItsReportIsHonoured(t *testing.T) {
	f, s, l := connect(t, executor.Config{})
	release := make(chan struct{})
	hold := until(release)
	f.onLog.Store(&hold)
	a := l.assign(order("print", `{"Text": "x"}`))
	receive(t, f.logs, "the log, which is stored when all is over")
	l.acknowledged(a)
	l.refuse(a)
	l.do(order("test.noop", "")) // it has arrived
	close(release)
	s.quiet()
	l.do(order("test.sleep", `{"seconds": 0.2}`)) // and nothing is said of a
}

func TestARefusalWhileTheChildStartsIsHonoured(t *testing.T) {
	_, s, l := connect(t, executor.Config{ChildCommand: []string{"sleep", "1000"}}) // it is never ready
	a := l.assign(order("test.sleep", `{"seconds": 0}`))
	l.acknowledged(a)
	l.refuse(a)
	l.do(order("test.noop", ""))
	s.end()
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("children left: %v", children)
	}
}

// The times are the least that the rungs are apart; how much more it was is nobody's business here.
func TestTheLadderOfACancelHasItsSteps(t *testing.T) {
	const grace = 500 * time.Millisecond
	f, _, l := connect(t, executor.Config{CancelGrace: grace})
	file := filepath.Join(t.TempDir(), "steps")
	a := l.assign(order("ladder", fmt.Sprintf(`{"File": %q}`, file)))
	var pids []int
	told(t, f, &pids)
	child := watch(t, pids[0])
	began := time.Now()
	l.cancel(a)
	expectOutcome(t, canceled, l.outcome(a))
	if took := time.Since(began); took < grace {
		t.Errorf("it was killed after %s of its grace of %s", took, grace)
	}
	if !child.over(0) {
		t.Error("it was alive when its end was reported")
	}
	l.finished(a)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for line := range strings.Lines(string(b)) {
		what, when, _ := strings.Cut(strings.TrimSpace(line), " ")
		steps = append(steps, what)
		nanos, err := strconv.ParseInt(when, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if after := time.Unix(0, nanos).Sub(began); what == "SIGTERM" && after < grace/5 {
			t.Errorf("SIGTERM came after %s", after)
		}
	}
	if diff := cmp.Diff([]string{"context", "SIGTERM"}, steps); diff != "" {
		t.Errorf("steps before SIGKILL (-want +got):\n%s", diff)
	}
}

func TestAStoppedChildIsKilledToo(t *testing.T) {
	f, _, l := connect(t, executor.Config{CancelGrace: 100 * time.Millisecond})
	a, pids := start(f, l, "family")
	var family []process
	for _, pid := range pids {
		family = append(family, watch(t, pid))
	}
	if err := syscall.Kill(-pids[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.outcome(a))
	for i := range family {
		if !family[i].over(0) {
			t.Errorf("process %d was alive when the end was reported", family[i].pid)
		}
	}
	l.finished(a)
}

func TestWhatStartsOthersAllTheTimeIsKilledWithThem(t *testing.T) {
	for i := range 5 {
		f, s, l := connect(t, executor.Config{CancelGrace: 50 * time.Millisecond})
		mark := fmt.Sprintf("10%d%d", os.Getpid(), i)
		a := l.assign(order("spreads", fmt.Sprintf(`{"Mark": %q}`, mark)))
		told(t, f, new([]int))
		l.cancel(a)
		expectOutcome(t, canceled, l.end(a))
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range lines {
			line, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(line), mark) {
				continue // it ended meanwhile, or is none of ours
			}
			t.Errorf("alive: %s: %q", path, line)
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		s.end()
	}
}

// until answers what is stored when it is let.
func until(released <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-released:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
