package executor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// hands are the hands of a clock, which a test can move.
type hands struct{ at atomic.Int64 }

func (h *hands) read() time.Duration { return time.Duration(h.at.Load()) }

// leap is what the clock does while this process is stopped.
func (h *hands) leap(by time.Duration) { h.at.Add(int64(by)) }

func TestALeaseEndsTwoThirdsAfterTheLastBeatAndForGood(t *testing.T) {
	const ttl = 30 * time.Second
	h := &hands{}
	h.leap(time.Hour)
	lost := 0
	l := newLease(h.read, ttl, h.read(), func() { lost++ })
	expect := func(left time.Duration) {
		t.Helper()
		if l.left() != left || l.holds() != (left > 0) {
			t.Errorf("left %s and holds: %v, expected %s", l.left(), l.holds(), left)
		}
	}
	expect(20 * time.Second)
	if want := int64(time.Hour + 22*time.Second + 500*time.Millisecond); l.last() != want {
		t.Errorf("all must be dead at %d, expected %d", l.last(), want)
	}
	h.leap(15 * time.Second)
	sent := h.read()
	h.leap(4 * time.Second)
	if !l.extend(sent) {
		t.Error("a beat that was confirmed in time does not count")
	}
	expect(16 * time.Second)
	if !l.extend(sent-time.Second) || l.left() != 16*time.Second {
		t.Errorf("an older beat changed it to %s", l.left())
	}
	h.leap(16*time.Second - 1)
	expect(1)
	if lost != 0 {
		t.Error("lost before its end")
	}
	h.leap(1)
	if l.extend(h.read()) || lost == 0 {
		t.Error("extended after its end, by a beat that was sent before")
	}
	expect(0)

	early := newLease(h.read, ttl, h.read(), func() {})
	early.lose()
	if early.extend(h.read()) || early.holds() {
		t.Error("what was lost holds again")
	}
}

func TestTheEndOfALeaseIsNoticedThoughNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		since := func() time.Duration { return time.Since(start) }
		lost := make(chan time.Duration, 10)
		l := newLease(since, 30*time.Second, 0, func() { lost <- since() })
		go l.watch(t.Context())
		<-time.After(12 * time.Second)
		l.extend(10 * time.Second)
		if at := <-lost; at != 30*time.Second {
			t.Errorf("lost at %s", at)
		}
	})
}

func TestTheEndOfALeaseIsNoticedSoonAfterTheMachineSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hands{}
		lost := make(chan time.Time, 10)
		l := newLease(h.read, 30*time.Second, 0, func() { lost <- time.Now() })
		go l.watch(t.Context())
		synctest.Wait()
		woke := time.Now()
		h.leap(time.Hour) // which no timer has seen
		if at := (<-lost).Sub(woke); at > watchEvery {
			t.Errorf("noticed %s after the machine woke", at)
		}
	})
}

func TestAWorkerIsToldTheEndOfItsLeaseByTheClockOfItsMachine(t *testing.T) {
	l := newLease(boottime(), 30*time.Second, boottime()()-5*time.Second, func() {})
	before := readClock(unix.CLOCK_MONOTONIC)
	m := l.message()
	after := readClock(unix.CLOCK_MONOTONIC)
	ends := time.Duration(m.GetEndsAtMonotonic())
	if ends > after+15*time.Second || ends < before+14*time.Second {
		t.Errorf("ends %s from now, expected 15 s: %v", ends-after, m)
	}
	if valid := m.GetValidFor().AsDuration(); valid > 15*time.Second || valid < 14*time.Second {
		t.Errorf("valid for %s", valid)
	}
}

// forgetful stands for services that nobody may call any more.
type forgetful struct{ statusv1.StatusServiceClient }

// A process that was stopped for longer than its lease goes on in the middle of anything. Whatever that is, it lets nothing out, and
// the life is over.
func TestWhateverRunsFirstAfterTheLeaseHasEndedLetsNothingOut(t *testing.T) {
	for name, wake := range map[string]func(*testing.T, *station, *run, func()){
		"a task that may begin": func(t *testing.T, s *station, r *run, stop func()) {
			stop()
			s.mu.Lock()
			s.beginLocked(t.Context(), r.claim)
			s.mu.Unlock()
			if r.hasBegun() {
				t.Error("it began")
			}
		},
		"a task whose turn has come": func(_ *testing.T, s *station, r *run, stop func()) {
			s.slots <- struct{}{} // taken
			s.mu.Lock()
			s.beginLocked(context.Background(), r.claim)
			s.mu.Unlock()
			synctest.Wait()
			stop()
			<-s.slots
			synctest.Wait() // perform fails the test
		},
		"a handler that dispatches": func(t *testing.T, _ *station, r *run, stop func()) {
			stop()
			if _, err := (calls{run: r}).Dispatch(t.Context(), &taskv1.TaskSpec{}); !errors.Is(err, errFenced) {
				t.Error(err)
			}
		},
		"a handler that makes a group": func(t *testing.T, _ *station, r *run, stop func()) {
			stop()
			if _, err := (calls{run: r}).NewGroup(t.Context(), ""); !errors.Is(err, errFenced) {
				t.Error(err)
			}
		},
		"a handler that keeps a file": func(t *testing.T, _ *station, r *run, stop func()) {
			stop()
			if _, err := (calls{run: r}).KeepFile(t.Context(), "f"); !errors.Is(err, errFenced) {
				t.Error(err)
			}
		},
		"a handler that wants a file": func(t *testing.T, _ *station, r *run, stop func()) {
			stop()
			if _, err := (calls{run: r}).FetchFile(t.Context(), oneTask); !errors.Is(err, errFenced) {
				t.Error(err)
			}
		},
		"a report and a log": func(t *testing.T, s *station, r *run, stop func()) {
			stop()
			s.peers.Status = forgetful{} // a call would be a panic
			if failed := s.keep(r, &statusv1.PutTaskReportRequest{}, &output{}); failed.report || failed.log {
				t.Error("it is to be stored later")
			}
		},
		"a task that has ended": func(t *testing.T, s *station, r *run, stop func()) {
			s.place = &scene{act: func(*run) *taskv1.Outcome { stop(); return completed("1") }}
			s.mu.Lock()
			s.beginLocked(t.Context(), r.claim)
			s.mu.Unlock()
			<-r.done
			s.mu.Lock()
			defer s.mu.Unlock()
			if r.outcome != nil || len(s.line.finished) != 0 {
				t.Errorf("to be said: %v, %v", r.outcome, s.line.finished)
			}
		},
		"what is about to be said": func(t *testing.T, s *station, r *run, stop func()) {
			w := &recorder{began: time.Now()}
			s.line.finish(r.claim, completed("1"))
			stop()
			s.line.send(t.Context(), w)
			if len(w.sent) != 0 {
				t.Errorf("said %v", w.sent)
			}
		},
		"a message to a worker": func(t *testing.T, s *station, _ *run, stop func()) {
			stop()
			g := &guest{station: s}
			if err := g.deliver(nil, &executorv1.WorkResponse{}); !errs.Is(err, errs.Fenced) {
				t.Error(err)
			}
		},
		"the confirmation of a beat": func(t *testing.T, s *station, r *run, stop func()) {
			sent := s.clock()
			stop()
			if r.lease.extend(sent) {
				t.Error("it counts")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &scene{act: func(*run) *taskv1.Outcome { t.Error("it was performed"); return completed("1") }, exit: func() {}}
				s := stationOf(t, p, errors.New("away"))
				h := &hands{}
				s.clock = h.read
				l := s.newLife("i", 0)
				s.lease = l.lease
				s.line = newLine(1, s.lease, func(error) {})
				s.mu.Lock()
				c := one(oneTask)
				s.assignLocked(t.Context(), &taskv1.Assignment{TaskId: c.task, Claim: c.number, Name: "t"})
				r := s.runs[c]
				s.mu.Unlock()
				wake(t, s, r, func() { h.leap(s.config.TTL) })
				if !l.fenced() {
					t.Error("the life goes on")
				}
				s.dropAll()
				s.performing.Wait()
			})
		})
	}
}

// pen is a witness that writes down what it hears.
type pen struct {
	mu    sync.Mutex
	notes []string
}

func (p *pen) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, what)
}

func (p *pen) begins(incarnation string, until int64) {
	p.note(incarnation + " until " + time.Duration(until).String())
}
func (p *pen) extended(until int64) { p.note("extended until " + time.Duration(until).String()) }
func (p *pen) over()                { p.note("over") }

// register is a heartbeat service that knows nobody else, without a network: time can be that of synctest.
type register struct {
	heartbeatv1.HeartbeatServiceClient

	pen
	lives int
	// confirmed is how many beats of each life are confirmed.
	confirmed int
	beats     []time.Duration
	began     time.Time
}

func (g *register) Register(_ context.Context, r *heartbeatv1.RegisterRequest, _ ...grpc.CallOption) (*heartbeatv1.RegisterResponse, error) {
	g.note("register instead of " + r.GetReplaces())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lives++
	return &heartbeatv1.RegisterResponse{Incarnation: string(rune('A' + g.lives - 1))}, nil
}

func (g *register) Deregister(_ context.Context, r *heartbeatv1.DeregisterRequest, _ ...grpc.CallOption) (*heartbeatv1.DeregisterResponse, error) {
	if r.GetDead() {
		g.note(r.GetIncarnation() + " is dead")
	} else {
		g.note(r.GetIncarnation() + " says goodbye")
	}
	return &heartbeatv1.DeregisterResponse{}, nil
}

func (g *register) Beat(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse], error) {
	return &pulseLine{ctx: ctx, register: g}, nil
}

type pulseLine struct {
	grpc.BidiStreamingClient[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]

	ctx      context.Context
	register *register
}

func (l *pulseLine) Send(*heartbeatv1.BeatRequest) error {
	l.register.mu.Lock()
	defer l.register.mu.Unlock()
	l.register.beats = append(l.register.beats, time.Since(l.register.began))
	return nil
}

func (l *pulseLine) Recv() (*heartbeatv1.BeatResponse, error) {
	l.register.mu.Lock()
	confirm := l.register.confirmed > 0
	l.register.confirmed--
	l.register.mu.Unlock()
	if !confirm {
		<-l.ctx.Done()
		return nil, l.ctx.Err()
	}
	return &heartbeatv1.BeatResponse{}, nil
}

// staged is a station in a bubble, of which one task runs: do decides what becomes of it. What others hear of its lives is returned.
func staged(t *testing.T, act func(*station, *run) *taskv1.Outcome, do func(*station, *register)) (heard []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &register{began: time.Now()}
		var s *station
		s = stationOf(t, &scene{act: func(r *run) *taskv1.Outcome { return act(s, r) }, exit: func() {}}, nil)
		s.peers = Peers{Heartbeat: g, Scheduler: away{}}
		s.clock = func() time.Duration { return time.Since(g.began) }
		s.witness, s.line = g, nil
		s.prepare = func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.line = newLine(1, s.lease, func(error) {})
			c := one(oneTask)
			s.assignLocked(context.Background(), &taskv1.Assignment{TaskId: c.task, Claim: c.number, Name: "t"})
			s.beginLocked(context.Background(), c)
			return nil
		}
		ended := make(chan error, 1)
		go func() { ended <- s.run() }()
		synctest.Wait()
		do(s, g)
		s.stop(AtOnce, errStopping)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		heard = g.notes
	})
	return heard
}

// away is a scheduler that does not answer.
type away struct {
	schedulerv1.SchedulerServiceClient
}

func (away) Acquire(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse], error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWhatOthersHearOfTheLivesOfAStation(t *testing.T) {
	obeys := func(_ *station, r *run) *taskv1.Outcome { <-r.asked.Done(); return r.verdict(completed("1")) }
	ignores := func(_ *station, r *run) *taskv1.Outcome { <-r.killed.Done(); return nil }
	accepted := func(s *station, r *run) *taskv1.Outcome {
		go func() { <-r.done; s.mu.Lock(); defer s.mu.Unlock(); s.forgetLocked(r.claim) }()
		return completed("1")
	}
	fenced := func(*station, *register) { <-time.After(21 * time.Second) }
	for name, c := range map[string]struct {
		act  func(*station, *run) *taskv1.Outcome
		do   func(*station, *register)
		want []string
	}{
		"it stops when all is settled": {accepted, func(*station, *register) {}, []string{
			"register instead of ", "A until 22.5s", "A says goodbye", "over",
		}},
		"it stops, and the end of a task was not accepted": {obeys, func(*station, *register) {}, []string{
			"register instead of ", "A until 22.5s", "A is dead", "over",
		}},
		"it stops, and something goes on": {ignores, func(*station, *register) {}, []string{
			"register instead of ", "A until 22.5s",
		}},
		"it is fenced, and all is dead": {obeys, fenced, []string{
			"register instead of ", "A until 22.5s", "over", "register instead of A", "B until 42.5s", "B says goodbye", "over",
		}},
		"it is fenced, and something goes on": {ignores, fenced, []string{
			"register instead of ", "A until 22.5s", "register instead of ", "B until 42.5s", "B says goodbye", "over",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, staged(t, c.act, c.do)); diff != "" {
				t.Errorf("heard (-want +got):\n%s", diff)
			}
		})
	}
}

// fencing is a scheduler that knows nobody.
type fencing struct {
	schedulerv1.SchedulerServiceClient
}

func (fencing) Acquire(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse], error) {
	return nil, errs.Precondition(errs.Fenced, "unknown")
}

func TestLivesThatAreFencedAtOnceDoNotFollowEachOtherWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 100 // in a minute
		g := &register{began: time.Now()}
		s := stationOf(t, &scene{act: func(*run) *taskv1.Outcome { return nil }, exit: func() {}}, nil)
		s.peers, s.line = Peers{Heartbeat: g, Scheduler: fencing{}}, nil
		s.clock = func() time.Duration { return time.Since(g.began) }
		over, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		defer context.AfterFunc(over, func() { s.stop(AtOnce, errStopping) })()
		s.witness = &eachLife{func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.lives > most {
				end()
			}
		}}
		if err := s.run(); err != nil {
			t.Error(err)
		}
		if g.lives > most || g.lives < 3 {
			t.Errorf("%d lives in %s", g.lives, time.Since(g.began))
		}
	})
}

// eachLife is a witness that does something at the beginning of each life.
type eachLife struct{ do func() }

func (e *eachLife) begins(string, int64) { e.do() }
func (e *eachLife) extended(int64)       {}
func (e *eachLife) over()                {}

func TestBeatsGoOnWhileTheyAreConfirmedAndNeverInStep(t *testing.T) {
	var beats []time.Duration
	heard := staged(t, func(_ *station, r *run) *taskv1.Outcome { <-r.asked.Done(); return r.verdict(nil) }, func(_ *station, g *register) {
		<-time.After(5 * time.Second) // of which the first beat, which is not confirmed: after 10 s there is another stream
		g.mu.Lock()
		g.confirmed = 1000
		g.mu.Unlock()
		<-time.After(30 * time.Second)
		g.mu.Lock()
		g.beats = nil
		g.mu.Unlock()
		<-time.After(10 * time.Minute)
		g.mu.Lock()
		defer g.mu.Unlock()
		beats = g.beats
	})
	if len(heard) < 80 || heard[1] != "A until 22.5s" || !slices.Equal(heard[len(heard)-2:], []string{"A is dead", "over"}) {
		t.Errorf("heard %v", heard)
	}
	different := map[time.Duration]bool{}
	for i := range len(beats) - 1 {
		pause := beats[i+1] - beats[i]
		different[pause] = true
		if pause < 6*time.Second || pause > 7500*time.Millisecond {
			t.Errorf("a beat %s after the one before, with a time to live of 30 s", pause)
		}
	}
	if len(beats) < 80 || len(different) < len(beats)/2 {
		t.Errorf("%d beats in ten minutes, %d different pauses", len(beats), len(different))
	}
}
