package executor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/services/executor"
)

var (
	canceled = &taskv1.Outcome{State: taskv1.State_STATE_CANCELED, Error: &taskv1.TaskError{Reason: task.ReasonCanceled}}
	aborted  = &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Reason: task.ReasonShutdown, Code: task.CodeShutdown}}
)

func expectOutcome(t *testing.T, want, got *taskv1.Outcome) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

// start assigns a task that tells its process ids, and waits until it has.
func start(f *fakes, l *fakeLine, name string) (*taskv1.Assignment, []int) {
	f.t.Helper()
	a := l.assign(order(name, ""))
	l.acknowledged(a)
	var pids []int
	told(f.t, f, &pids)
	return a, pids
}

func TestCancelStopsARunningTask(t *testing.T) {
	for _, name := range []string{"wait", "wait.here"} {
		t.Run(name, func(t *testing.T) {
			f, _, l := connect(t, executor.Config{})
			a, _ := start(f, l, name)
			l.cancel(a)
			expectOutcome(t, canceled, l.end(a))
			l.cancel(a) // too late, and no harm
			if outcome := l.do(order("test.noop", "")); outcome.GetState() != taskv1.State_STATE_COMPLETED {
				t.Errorf("after a late cancel: %v", outcome)
			}
		})
	}
}

func TestCancelOfAnEndedTaskChangesNothing(t *testing.T) {
	_, _, l := connect(t, executor.Config{})
	a := l.assign(order("test.noop", ""))
	l.outcome(a)
	l.cancel(a) // it crossed the report of the end
	l.finished(a)
	l.do(order("test.noop", "")) // so nothing else was said about a
}

func TestCancelKillsTheWholeFamily(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a, pids := start(f, l, "family")
	var family []process
	for _, pid := range pids {
		family = append(family, watch(t, pid))
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
	for i, who := range []string{"the child", "its shell", "the shell's sleep"} {
		family[i].ends(who)
	}
}

func TestCancelKillsWhatACommandStarted(t *testing.T) {
	_, _, l := connect(t, executor.Config{})
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	a := l.assign(order("command.run", `{"argv": ["sh", "-c", "sleep 1000 & echo $! >`+fifo+`; wait"]}`))
	l.acknowledged(a)
	pid := readPID(t, fifo) // waits until the grandchild runs
	grandchild := watch(t, pid)
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
	grandchild.ends("what the command started")
}

func TestCanceledChildIsNotUsedAgain(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1})
	a, pids := start(f, l, "wait")
	child := watch(t, pids[0])
	l.cancel(a)
	l.outcome(a)
	child.ends("the child of a canceled task") // before the end was reported, in fact
	l.finished(a)
}

func TestStickyTaskIsKilledAfterTheGrace(t *testing.T) {
	f, s, l := connect(t, executor.Config{CancelGrace: 100 * time.Millisecond})
	a, pids := start(f, l, "sticky")
	child, shell, apart := watch(t, pids[0]), watch(t, pids[1]), watch(t, pids[2])
	l.cancel(a)
	expectOutcome(t, canceled, l.outcome(a))
	if !child.over(0) || !shell.over(0) || !apart.over(0) {
		t.Error("a process of the task was alive when its end was reported")
	}
	l.finished(a)
	child.ends("the sticky child")
	shell.ends("its sticky shell")
	apart.ends("its sticky shell in a session of its own")
	if running := s.running(); len(running) != 0 {
		t.Errorf("still running: %v", running)
	}
}

func TestStickyTaskLivesUntilItsGraceIsOver(t *testing.T) {
	f, s, l := connect(t, executor.Config{CancelGrace: time.Hour})
	a, pids := start(f, l, "sticky")
	child, shell, apart := watch(t, pids[0]), watch(t, pids[1]), watch(t, pids[2])
	l.cancel(a)
	l.cancel(a)                  // more of the same is not more
	l.do(order("test.noop", "")) // the cancel has arrived
	if running := s.running(); len(running) != 1 || !running[0].GetCanceling() {
		t.Errorf("running: %v", running)
	}
	child.lives("the sticky child")
	shell.lives("its sticky shell")
	apart.lives("its sticky shell in a session of its own")
	l.refuse(a) // which has no grace
	child.ends("the sticky child")
	shell.ends("its sticky shell")
	apart.ends("its sticky shell in a session of its own")
}

// A goroutine can't be killed, so its task has not ended, and nobody else may have its resources.
func TestStickyInProcessTaskRunsUntilItReturns(t *testing.T) {
	f, s, l := connect(t, executor.Config{CancelGrace: time.Millisecond})
	a, _ := start(f, l, "sticky.here")
	l.cancel(a)
	l.do(order("test.sleep", `{"seconds": 0.1}`)) // much later than the grace
	if running := s.running(); len(running) != 1 || !running[0].GetCanceling() {
		t.Errorf("running: %v", running)
	}
	letGo <- struct{}{}
	expectOutcome(t, canceled, l.end(a))
}

// The executor stops without it, but must not say that the task has ended: its code still runs.
func TestStopGivesUpOnAStickyInProcessTaskWithoutAWord(t *testing.T) {
	f, s, l := connect(t, executor.Config{CancelGrace: time.Millisecond, ShutdownGrace: time.Millisecond, ReportTimeout: 50 * time.Millisecond})
	start(f, l, "sticky.here")
	s.stop()
	if l.next().drain == nil {
		t.Error("no drain")
	}
	s.end()
	select {
	case m := <-l.in:
		t.Errorf("reported %v", m)
	case <-f.deregisters:
		t.Error("deregistered while a task still runs")
	default:
	}
	letGo <- struct{}{}
}

func TestCancelBeforeTheStartIsHonoured(t *testing.T) {
	f, _, l := connect(t, executor.Config{Slots: 1})
	first, _ := start(f, l, "wait")
	second := l.assign(order("wait", "")) // no slot: it does not start
	l.acknowledged(second)
	l.cancel(second)
	expectOutcome(t, canceled, l.end(second))
	l.cancel(first)
	l.end(first)
	select {
	case spec := <-f.dispatches:
		t.Errorf("the canceled task was started: %v", spec)
	default:
	}
}

func TestCancelWhileTheChildStarts(t *testing.T) {
	_, _, l := connect(t, executor.Config{ChildCommand: []string{"sleep", "1000"}}) // it is never ready
	a := l.assign(order("test.sleep", `{"seconds": 0}`))
	l.acknowledged(a)
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
}

func TestRunsSurviveALostScheduler(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a, _ := start(f, l, "wait")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	b := l.assign(order("command.run", `{"argv": ["cat", "`+fifo+`"]}`))
	l.acknowledged(b)
	f.away.Store(true)
	l.breakOff()
	// The second task ends while there is no scheduler. That it does shows in its log, which goes another way.
	if err := os.WriteFile(fifo, []byte("done"), 0); err != nil {
		t.Fatal(err)
	}
	receive(t, f.logs, "the log of the task that ended")

	f.away.Store(false)
	l = f.line()
	want := []*schedulerv1.Claim{claimOf(a), claimOf(b)}
	byID := protocmp.SortRepeated(func(x, y *schedulerv1.Claim) bool { return x.GetTaskId() < y.GetTaskId() })
	if diff := cmp.Diff(&schedulerv1.Hello{Held: want}, &schedulerv1.Hello{Held: l.hello.GetHeld()}, protocmp.Transform(), byID); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	l.welcome()
	if outcome := l.end(b); outcome.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("the task that ended meanwhile: %v", outcome)
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
}

func TestUnacceptedEndIsReportedAgain(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := l.assign(order("test.fail", `{"message": "once"}`))
	first := l.outcome(a)
	for range 2 {
		l.breakOff() // and not a word about the end
		l = f.line()
		if held := l.hello.GetHeld(); len(held) != 1 || held[0].GetTaskId() != a.GetTaskId() {
			t.Fatalf("held: %v", held)
		}
		l.welcome()
		expectOutcome(t, first, l.outcome(a))
	}
	l.finished(a)
	l.do(order("test.noop", "")) // its end comes after that of a is accepted
	l.breakOff()
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 0 {
		t.Errorf("still held after it was accepted: %v", held)
	}
	l.welcome()
}

func TestRefusedClaimIsKilledAndNotReported(t *testing.T) {
	f, s, l := connect(t, executor.Config{})
	a, pids := start(f, l, "family")
	grandchild := watch(t, pids[2])
	l.refuse(a)
	grandchild.ends("a process of a refused claim")
	s.quiet()
	l.do(order("test.noop", "")) // these are its next messages: nothing was said about a
	l.breakOff()
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 0 {
		t.Errorf("still held: %v", held)
	}
	l.welcome()
}

func TestRefusedEndIsForgotten(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a := l.assign(order("test.noop", ""))
	l.outcome(a)
	l.refuse(a)
	l.do(order("test.noop", ""))
	l.breakOff()
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 0 {
		t.Errorf("still held: %v", held)
	}
	l.welcome()
}

func TestRepeatedAssignmentRunsOnce(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	a, _ := start(f, l, "wait")
	l.assign(a)
	l.acknowledged(a) // it may not have arrived the first time
	l.cancel(a)
	l.outcome(a)
	l.assign(a)
	l.end(a)    // neither may this
	l.assign(a) // now it is over and known to be
	l.do(order("test.noop", ""))
	select {
	case spec := <-f.dispatches:
		t.Errorf("the task ran again: %v", spec)
	default:
	}
}

func TestNewerClaimReplacesTheOlder(t *testing.T) {
	f, _, l := connect(t, executor.Config{})
	older, pids := start(f, l, "wait")
	child := watch(t, pids[0])
	newer := order("look", "")
	newer.TaskId, newer.Claim = older.GetTaskId(), 2
	l.result(newer, new(sight)) // it looked into an empty directory, so the older run was over
	child.ends("the run of the older claim")
	l.assign(older)
	l.do(order("test.noop", "")) // the older claim is over for good
}

func TestFencedExecutorKillsEverythingAndBeginsANewLife(t *testing.T) {
	for name, fence := range map[string]func(*fakes, *fakeLine){
		"declared missing":     func(f *fakes, _ *fakeLine) { f.fenced.Store(true) },
		"no beat is confirmed": func(f *fakes, _ *fakeLine) { f.deaf.Store(true) },
		"told by the scheduler": func(_ *fakes, l *fakeLine) {
			l.hang <- errFenced
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, l := connect(t, executor.Config{TTL: time.Second, CancelGrace: time.Hour})
			_, pids := start(f, l, "family")
			var family []process
			for _, pid := range pids {
				family = append(family, watch(t, pid))
			}
			here, _ := start(f, l, "wait.here")
			ended := l.assign(order("test.noop", ""))
			l.outcome(ended)
			receive(t, f.registers, "the first registration")

			fence(f, l)
			receive(t, f.registers, "a second registration")
			f.deaf.Store(false)
			for i := range family {
				if !family[i].over(0) {
					t.Errorf("process %d was alive when the new life began", family[i].pid)
				}
			}
			before := l
			l = f.line()
			if l.hello.GetIncarnation() == before.hello.GetIncarnation() {
				t.Error("the new life has the old incarnation")
			}
			if len(l.hello.GetHeld()) != 0 {
				t.Errorf("the new life holds %v", l.hello.GetHeld())
			}
			l.welcome()
			l.do(order("test.sleep", `{"seconds": 0}`)) // nothing was said about the others before
			for len(before.in) > 0 {
				if m := <-before.in; m.finish != nil {
					t.Errorf("reported after the fence: %v", m)
				}
			}
			if running := s.running(); len(running) != 0 {
				t.Errorf("still running: %v (%s among them?)", running, here.GetTaskId())
			}
		})
	}
}

func TestLifeGoesOnWhileBeatsAreConfirmed(t *testing.T) {
	f, _, l := connect(t, executor.Config{TTL: time.Second})
	a, _ := start(f, l, "wait")
	receive(t, f.registers, "the registration")
	for f.beats.Load() < 6 { // longer than a time to live
		select {
		case <-f.registers:
			t.Fatal("registered anew")
		case <-time.After(10 * time.Millisecond):
		}
	}
	l.cancel(a)
	expectOutcome(t, canceled, l.end(a))
}

func TestNameTakenIsWaitedFor(t *testing.T) {
	f := newFakes(t)
	f.nameTaken.Store(2)
	s := f.begin(executor.Config{Name: "taken"})
	receive(t, f.registers, "a registration")
	receive(t, f.registers, "another attempt") // the answer to the first one has arrived
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), `another living executor is called "taken"`) {
		t.Errorf("waits for: %v", err)
	}
	f.line().welcome()
}

func TestStopWhileNobodyIsThere(t *testing.T) {
	f := newFakes(t)
	f.nameTaken.Store(1 << 30)
	s := f.begin(executor.Config{})
	receive(t, f.registers, "a registration")
	s.end()

	f = newFakes(t)
	f.away.Store(true)
	s = f.begin(executor.Config{})
	receive(t, f.registers, "a registration")
	s.end()
	receive(t, f.deregisters, "the goodbye")
}

func TestStopLetsTasksEnd(t *testing.T) {
	f, s, l := connect(t, executor.Config{ShutdownGrace: time.Hour})
	a, _ := start(f, l, "wait")
	s.stop()
	if l.next().drain == nil {
		t.Error("the scheduler was not told first")
	}
	// One that crossed the drain is not taken, and is given back at once: the executor says hello again without it.
	l.assign(order("test.noop", ""))
	l = f.line()
	if held := l.hello.GetHeld(); len(held) != 1 || held[0].GetTaskId() != a.GetTaskId() || !l.hello.GetDraining() {
		t.Errorf("the hello after it: %v", l.hello)
	}
	l.welcome()
	if l.next().drain == nil {
		t.Error("the drain was not repeated")
	}
	l.cancel(a) // a cancel is for the impatient, also now
	expectOutcome(t, canceled, l.outcome(a))
	select {
	case <-f.deregisters:
		t.Error("deregistered before the end was accepted")
	default:
	}
	l.finished(a)
	if got := receive(t, f.deregisters, "the goodbye"); got != l.hello.GetIncarnation() {
		t.Errorf("deregistered %s, not %s", got, l.hello.GetIncarnation())
	}
	s.end()
}

func TestStopAbortsWhatOutlastsTheGrace(t *testing.T) {
	work := t.TempDir()
	f, s, l := connect(t, executor.Config{ShutdownGrace: 50 * time.Millisecond, WorkDir: work})
	l.do(order("test.sleep", `{"seconds": 0}`)) // leaves a warm child
	_, pids := start(f, l, "family")
	grandchild := watch(t, pids[2])
	_, _ = start(f, l, "wait.here")
	_, _ = start(f, l, "sticky")
	s.stop()
	var outcomes []*taskv1.Outcome
	for len(outcomes) < 3 {
		m := l.next()
		if m.drain != nil {
			continue
		}
		if m.finish == nil {
			t.Fatalf("expected an end, got %v", m)
		}
		outcomes = append(outcomes, m.finish.GetOutcome())
		l.order(&schedulerv1.Orders{Finished: []*schedulerv1.Claim{m.finish.GetClaim()}})
	}
	for _, outcome := range outcomes {
		expectOutcome(t, aborted, outcome)
	}
	s.end()
	grandchild.ends("a process of an aborted task")
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("children left: %v", children)
	}
	// The file that executors lock against each other stays.
	if entries, err := os.ReadDir(work); err != nil || len(entries) != 1 || entries[0].Name() != ".lock" {
		t.Errorf("left in the work directory: %v, %v", entries, err)
	}
}

func TestStopDoesNotWaitForEverForAnAcceptance(t *testing.T) {
	f, s, l := connect(t, executor.Config{ReportTimeout: 50 * time.Millisecond})
	a := l.assign(order("test.noop", ""))
	l.outcome(a)
	s.end()
	// A goodbye would say that nothing is open.
	select {
	case <-f.deregisters:
		t.Error("deregistered although the end of a task was not accepted")
	default:
	}
}

func TestDrainTakesNoMoreButLetsRun(t *testing.T) {
	f, s, l := connect(t, executor.Config{})
	a, pids := start(f, l, "wait")
	running := s.running()
	if len(running) != 1 || running[0].GetTaskId() != a.GetTaskId() || int(running[0].GetPid()) != pids[0] ||
		running[0].GetName() != "wait" || running[0].GetCanceling() || running[0].GetSince().AsTime().IsZero() {
		t.Errorf("running: %v", running)
	}
	if n := s.drain(); n != 1 {
		t.Errorf("%d runs left, want 1", n)
	}
	if l.next().drain == nil {
		t.Error("the scheduler was not told")
	}
	l.breakOff()
	l = f.line()
	if !l.hello.GetDraining() {
		t.Error("the next scheduler is not told")
	}
	l.welcome()
	if l.next().drain == nil {
		t.Error("the next scheduler was not told again")
	}
	l.cancel(a)
	l.end(a)
}

// TestNothingOutlivesAKilledExecutor kills an executor that runs in a process of its own.
func TestNothingOutlivesAKilledExecutor(t *testing.T) {
	for name, kill := range map[string]func(*fakeLine, *os.Process){
		"kill -9": func(_ *fakeLine, p *os.Process) { _ = p.Kill() },
		"test.kill_worker": func(l *fakeLine, _ *os.Process) {
			l.assign(order("test.kill_worker", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakes(t)
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), remoteExecutor+"="+f.addr, "TEST_EXECUTOR_DIR="+t.TempDir())
			cmd.Stderr = t.Output()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			l := f.line()
			l.welcome()
			_, pids := start(f, l, "family")
			var family []process
			for _, pid := range pids {
				family = append(family, watch(t, pid))
			}
			var pid int
			l.result(order("print", `{"Text": ""}`), &pid)
			idle := watch(t, pid)
			kill(l, cmd.Process)
			for i, who := range []string{"the child", "its shell", "the shell's sleep"} {
				family[i].ends(who)
			}
			idle.ends("an idle child")
			_ = cmd.Wait()
			receive(t, l.gone, "the end of the line")
		})
	}
}
