package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// workStream is the executor's side of a worker's stream.
type workStream = grpc.BidiStreamingServer[executorv1.WorkRequest, executorv1.WorkResponse]

// guest is a worker of any language, connected over a stream of its own. It is the place of a station.
//
// What a guest does with a task nobody here can force. It has promised to stop its tasks when its stream ends, and the executor
// holds it to that: whatever it does not do in time ends its stream, and with that its tasks.
type guest struct {
	config   Config
	peers    Peers
	log      *slog.Logger
	hello    *executorv1.WorkerHello
	handlers map[string]*executorv1.TaskHandler
	home     *home
	station  *station
	outgoing chan *executorv1.WorkResponse

	// ctx ends with the stream, or when the executor ends it: why says what the worker is told then.
	ctx context.Context
	end context.CancelCauseFunc
	// released is closed when the name is free again.
	released chan struct{}

	mu sync.Mutex
	// visits are the runs that the worker has. said remembers those it had, for what it still says of them.
	visits map[claim]*visit
	past   memory
}

// visit is one run while a guest has it.
type visit struct {
	run   *run
	calls *callServer
	// deaf: no more calls are served. Under the lock of the guest.
	deaf   bool
	begun  chan struct{} // closed when the worker has said anything of it
	heard  sync.Once
	ended  chan *taskv1.Outcome // holds one
	thrown chan map[string]string
	// discarding: it was asked to delete something.
	discarding atomic.Bool
}

// handover is how long the stream of a worker may last when another of its name has come: that of one that died may not have ended
// yet when it is started anew.
const handover = time.Second

// admit makes a guest of a worker that has said hello. One that comes back under its name is let in as soon as it is settled what
// became of the tasks that it had. As long as the stream of the one before lasts, the name is taken.
func (s *Service) admit(ctx context.Context, hello *executorv1.WorkerHello) (*guest, error) {
	late := time.NewTimer(handover)
	defer late.Stop()
	for {
		s.mu.Lock()
		former := s.guests[hello.GetName()]
		if former == nil || s.how != 0 || s.closed {
			defer s.mu.Unlock()
			return s.admitLocked(ctx, hello)
		}
		s.mu.Unlock()
		select {
		case <-former.ctx.Done():
		case <-late.C:
			return nil, errs.Exists(errs.NameTaken, "a worker named %q is connected already", hello.GetName())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case <-former.released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Service) admitLocked(ctx context.Context, hello *executorv1.WorkerHello) (*guest, error) {
	name := hello.GetName()
	switch {
	case s.how != 0 || s.closed:
		return nil, errs.Away(errs.Stopping, nil, "the executor stops")
	case s.home == nil:
		return nil, errs.Away(errs.NotReady, nil, "the executor is not registered yet")
	case name == "":
		for s.unnamed++; s.guests[fmt.Sprint("worker-", s.unnamed)] != nil; s.unnamed++ {
		}
		name = fmt.Sprint("worker-", s.unnamed)
	}
	full := s.config.Name + "/" + name
	if len(full) > limits.MaxName {
		return nil, errs.Invalid(errs.Violation{Field: "hello.name", Rule: fmt.Sprintf("must have at most %d bytes together with the executor's: %q", limits.MaxName, full)})
	}
	g := &guest{
		config: s.config, peers: s.peers, hello: hello, home: s.home, log: s.log.With(slog.String("executor", full)),
		handlers: make(map[string]*executorv1.TaskHandler, len(hello.GetHandlers())), visits: map[claim]*visit{},
		released: make(chan struct{}),
	}
	for _, h := range hello.GetHandlers() {
		g.handlers[h.GetName()] = h
	}
	slots := max(1, int(hello.GetSlots()))
	// Room for all that may be under way: of each task its start, its stop and the answers to its calls. Who lets it fill up
	// does not read.
	g.outgoing = make(chan *executorv1.WorkResponse, openCalls+8*(slots+int(hello.GetImmediateSlots())))
	g.ctx, g.end = context.WithCancelCause(context.WithoutCancel(ctx)) // what ended it, reading finds out
	g.station = newStation(ctx, full, slots, int(hello.GetImmediateSlots()), s.config, s.peers, g, s.log)
	g.station.once = true
	g.station.prepare = func() error { g.welcome(full); return nil }
	g.station.nothingLeft = s.nothingLeft()
	g.station.draining = s.draining
	s.guests[name] = g
	s.hosting.Add(1)
	return g, nil
}

// release forgets a guest that is gone.
func (s *Service) release(g *guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.guests, func(_ string, other *guest) bool { return other == g })
	close(g.released)
	if g.station.nothingLeft != nil {
		g.station.nothingLeft() // perhaps it was all that the others were waiting for
	}
	s.hosting.Done()
}

// dismissGuests waits until all guests are gone. The executor has been told to stop, and so have they.
func (s *Service) dismissGuests() {
	s.mu.Lock()
	s.closed = true
	if s.how == 0 {
		s.how = AtOnce // the executor ended by an error
	}
	for _, g := range s.guests {
		g.station.stop(s.how, errStopping)
	}
	s.mu.Unlock()
	s.hosting.Wait()
}

// host serves a guest until its stream ends, and returns what it ends with. The station lives on until it has reported what
// became of the guest's tasks.
func (s *Service) host(g *guest, stream workStream) error {
	go func() {
		defer s.release(g)
		if err := g.station.run(); err == nil {
			g.end(errs.Away(errs.Stopping, nil, "the executor stops"))
		}
	}()
	context.AfterFunc(g.ctx, func() {
		g.station.stop(AtOnce, fmt.Errorf("%w: %w", errVanished, context.Cause(g.ctx)))
	})
	// Both end when the stream has, which is when this function has returned: to a worker that reads nothing even a write can hang.
	go g.read(stream)
	go g.write(stream)
	<-g.ctx.Done()
	why := context.Cause(g.ctx)
	if errors.Is(why, errLeft) {
		return nil // it wanted no more
	}
	return why
}

var (
	// errLeft ends the stream of a worker that closed its side.
	errLeft = errors.New("it closed the stream")
	// errBroken ends the stream of one whose connection is gone, as it is when its process dies.
	errBroken = errs.Away(errs.BadProtocol, nil, "its connection broke")
	errDull   = errs.Away(errs.BadProtocol, nil, "it does not read what it is sent")
)

// write sends what is queued, until the stream is to end.
func (g *guest) write(stream workStream) {
	for {
		select {
		case m := <-g.outgoing:
			if err := g.deliver(stream, m); err != nil {
				g.end(err)
				return
			}
		case <-g.ctx.Done():
			return
		}
	}
}

// deliver sends a message, if the lease still holds: it may have been queued for as long as this process was stopped. A lease is
// told as it is now.
func (g *guest) deliver(stream workStream, m *executorv1.WorkResponse) error {
	lease := g.station.held()
	if lease != nil && !lease.holds() {
		return g.errFenced()
	}
	if m.GetLease() != nil {
		m = &executorv1.WorkResponse{Message: &executorv1.WorkResponse_Lease{Lease: lease.message()}}
	}
	return stream.Send(m)
}

// send queues a message; a worker that does not read loses its stream.
func (g *guest) send(m *executorv1.WorkResponse) {
	select {
	case g.outgoing <- m:
	default:
		g.end(errDull)
	}
}

// fenced ends the stream at once: by the time that the tasks are others', the worker must have noticed.
func (g *guest) fenced() { g.end(g.errFenced()) }

func (g *guest) errFenced() error {
	return errs.Precondition(errs.Fenced, "the lease of %s was lost: stop its tasks and connect anew", g.station.name)
}

// welcome tells the worker who it is, and at once when its lease ends.
func (g *guest) welcome(name string) {
	lease := g.station.held()
	g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Welcome{Welcome: &executorv1.WorkerWelcome{
		Worker: name, Lease: durationpb.New(lease.left()), CancelGrace: durationpb.New(g.config.CancelGrace),
	}}})
	g.leased(lease)
	g.log.Info("a worker is connected", slog.Any("tasks", g.tasks()), slog.Int("pid", int(g.hello.GetPid())))
}

func (g *guest) tasks() []string { return slices.Sorted(maps.Keys(g.handlers)) }

func (g *guest) versions() map[string]string { return g.hello.GetVersions() }

// leased tells the worker how long it may go on: what that is, is found out when it is sent.
func (g *guest) leased(*lease) {
	g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Lease{Lease: &executorv1.Lease{}}})
}

// perform has the worker run a task.
func (g *guest) perform(r *run) *taskv1.Outcome {
	handler, known := g.handlers[r.assignment.GetName()]
	switch {
	case !known:
		return unfit("This worker has no handler for the task %q.", r.assignment.GetName())
	case r.assignment.GetImmediate() && !handler.GetImmediate():
		return unfit("%s The handler of %q is not declared fit to run immediately.", task.DescriptionImmediate, r.assignment.GetName())
	}
	dir := &taskDir{home: g.home, task: r.claim.task}
	defer dir.clear(r, g.log)
	path, err := dir.make()
	if err != nil {
		return unfit("Could not make the task's working directory: %v.", err)
	}
	var most time.Duration
	if r.assignment.GetImmediate() {
		most = g.config.ImmediateTimeout
	}
	if warning := r.diagnose(g.config.Diagnostics, false); warning != "" {
		_ = r.told.write(warning) // it has not ended
	}
	over := r.within(handler.GetTimeout().AsDuration(), most)
	calls := calls{dispatcher: g.peers.Dispatcher, log: g.log, run: r, dir: dir}
	v := &visit{
		run: r, begun: make(chan struct{}), ended: make(chan *taskv1.Outcome, 1), thrown: make(chan map[string]string, 1),
		calls: newCallServer(r.asked, calls, func(reply *executorv1.CallReply) {
			g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Reply{Reply: reply}})
		}),
	}
	g.mu.Lock()
	g.visits[r.claim] = v
	g.mu.Unlock()
	outcome := g.attend(v, path)
	over()
	g.mu.Lock()
	v.deaf = true
	g.mu.Unlock()
	v.calls.close()
	if left := leftover(r, outcome); len(left) > 0 {
		r.told.gone(without(left, g.discard(v, handler, left), r, g.log))
	}
	g.mu.Lock()
	delete(g.visits, r.claim)
	g.past.add(r.claim)
	g.mu.Unlock()
	return outcome
}

// attend gives a task to the worker and waits for its end, or for the moment from which the worker, or nobody, has it. It returns
// the outcome.
func (g *guest) attend(v *visit, dir string) *taskv1.Outcome {
	r := v.run
	run := &executorv1.RunTask{Assignment: r.assignment, WorkingDir: dir}
	if r.limit > 0 {
		run.Timeout = durationpb.New(r.limit)
	}
	g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Run{Run: run}})
	patience := time.NewTimer(g.config.ConfirmTimeout)
	defer patience.Stop()
	begun, asked, killed := v.begun, r.asked.Done(), r.killed.Done()
	var grace <-chan time.Time
	for {
		select {
		case made := <-v.ended:
			return r.farewell(made)
		case <-begun:
			begun = nil
			patience.Stop()
		case <-patience.C:
			g.cut("it did not say within %s that it begins task %s", g.config.ConfirmTimeout, r.claim.task)
		case <-asked:
			asked = nil
			g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Stop{
				Stop: &executorv1.StopRun{TaskId: r.claim.task, Claim: r.claim.number},
			}})
			timer := time.NewTimer(g.config.CancelGrace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			g.cut("it did not stop task %s within the cancel grace of %s", r.claim.task, g.config.CancelGrace)
		case <-killed:
			killed = nil
			if errors.Is(context.Cause(r.killed), errDropped) {
				continue // it was asked to stop, and has its grace: others' runs on this stream are still good
			}
			g.end(errs.Away(errs.Stopping, nil, "the executor stops"))
		case <-g.ctx.Done():
			select {
			case made := <-v.ended: // its last words
				return r.farewell(made)
			default:
			}
			r.kill(fmt.Errorf("%w: %w", errVanished, context.Cause(g.ctx)))
			return r.verdict(nil)
		}
	}
}

// farewell is the outcome of a run whose worker said how it ended. That the worker is gone by now takes nothing from it.
func (r *run) farewell(made *taskv1.Outcome) *taskv1.Outcome {
	if cause := r.why(); cause == nil || errors.Is(cause, errVanished) {
		return honest(made)
	}
	return r.verdict(made)
}

// cut ends the stream of a worker that does not do what it has to.
func (g *guest) cut(format string, args ...any) {
	g.end(errs.Late(errs.WorkerUnheard, format, args...))
}

// discard has the worker delete what a run left incomplete.
func (g *guest) discard(v *visit, handler *executorv1.TaskHandler, names []string) (failed map[string]string) {
	if !handler.GetDiscards() {
		return all(names, "the handler declares no way to delete it")
	}
	v.discarding.Store(true)
	g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Discard{
		Discard: &executorv1.DiscardRun{Assignment: v.run.assignment, Resources: names},
	}})
	timer := time.NewTimer(g.config.CancelGrace)
	defer timer.Stop()
	select {
	case failed := <-v.thrown:
		return failed
	case <-timer.C:
		return all(names, "it took longer than the cancel grace")
	case <-v.run.dropped.Done():
		return all(names, errDropped.Error())
	case <-g.ctx.Done():
		return all(names, "the worker is gone")
	}
}

// read hears the worker until its stream ends.
func (g *guest) read(stream workStream) {
	for {
		request, err := stream.Recv()
		if err != nil {
			g.end(ofStream(err))
			return
		}
		if err := g.receive(request); err != nil {
			g.end(err)
			return
		}
	}
}

// ofStream says why a stream ended, in words for the error of a task.
func ofStream(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errLeft
	case status.Code(err) == codes.Canceled:
		return errBroken
	case status.Code(err) == codes.ResourceExhausted:
		return errs.Oversize(errs.InvalidInput, "a message was larger than %d MiB", limits.MaxMessage>>20)
	default:
		return err
	}
}

func (g *guest) receive(request *executorv1.WorkRequest) error {
	switch m := request.GetMessage().(type) {
	case *executorv1.WorkRequest_Hello:
		return errs.Invalid(errs.Violation{Field: "hello", Rule: "must be sent once, as the first message"})
	case *executorv1.WorkRequest_Drain:
		g.station.drain()
	case *executorv1.WorkRequest_Started:
		g.of(m.Started, func(*visit) error { return nil })
	case *executorv1.WorkRequest_Ended:
		g.of(m.Ended, func(v *visit) error {
			select {
			case v.ended <- m.Ended.GetOutcome():
				return nil
			default:
				return errors.New("it has ended before")
			}
		})
	case *executorv1.WorkRequest_Progress:
		g.of(m.Progress, func(v *visit) error { return v.run.told.progress(m.Progress.GetProgress()) })
	case *executorv1.WorkRequest_GroupProgress:
		g.of(m.GroupProgress, func(v *visit) error { return v.run.told.added(m.GroupProgress.GetProgress()) })
	case *executorv1.WorkRequest_Created:
		g.of(m.Created, func(v *visit) error { return v.run.told.created(m.Created.GetCreated()) })
	case *executorv1.WorkRequest_Log:
		g.of(m.Log, func(v *visit) error { return v.run.told.write(m.Log.GetText()) })
	case *executorv1.WorkRequest_Discarded:
		g.of(m.Discarded, func(v *visit) error {
			if !v.discarding.Swap(false) {
				return errors.New("nothing was to be deleted")
			}
			v.thrown <- m.Discarded.GetFailed() // holds one
			return nil
		})
	case *executorv1.WorkRequest_Call:
		g.call(m.Call)
	default:
		// What a newer worker says.
	}
	return nil
}

// about is a message about a run.
type about interface {
	proto.Message
	GetTaskId() string
	GetClaim() int64
}

// of passes what the worker says of a run on. Of a run that it does not have, it is told so, and nothing else happens; of one that
// it had, it may not have known yet.
func (g *guest) of(m about, do func(*visit) error) {
	c := claim{task: m.GetTaskId(), number: m.GetClaim()}
	g.mu.Lock()
	v, late := g.visits[c], g.past.has(c)
	g.mu.Unlock()
	switch {
	case v != nil:
		v.heard.Do(func() { close(v.begun) })
		if err := do(v); err != nil {
			g.refuse(c, err.Error())
		}
	case late:
		g.refuse(c, "the run is over")
	default:
		g.log.Warn("a worker speaks of a task that it does not have", slog.String("task_id", c.task), slog.Int64("claim", c.number))
		g.refuse(c, "this worker does not have the task under this claim")
	}
}

func (g *guest) refuse(c claim, reason string) {
	g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Refusal{
		Refusal: &executorv1.Refusal{TaskId: c.task, Claim: c.number, Reason: reason},
	}})
}

// call serves what a running task asks for.
func (g *guest) call(call *executorv1.Call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var asking *visit
	for c, v := range g.visits {
		if c.task == call.GetTaskId() && !v.deaf {
			asking = v
		}
	}
	if asking == nil {
		g.send(&executorv1.WorkResponse{Message: &executorv1.WorkResponse_Reply{
			Reply: &executorv1.CallReply{Id: call.GetId(), Error: "this worker does not have the task " + call.GetTaskId()},
		}})
		return
	}
	asking.heard.Do(func() { close(asking.begun) })
	asking.calls.serve(call)
}
