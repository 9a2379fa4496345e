package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	process "github.com/sluice-tasks/sluice/pkg/run" // run is a task's here
)

// claim names one claim on one task.
type claim struct {
	task   string
	number int64
}

func (c claim) wire() *schedulerv1.Claim { return &schedulerv1.Claim{TaskId: c.task, Claim: c.number} }

func claimOf(c *schedulerv1.Claim) claim { return claim{task: c.GetTaskId(), number: c.GetClaim()} }

// stream is what the scheduler's Acquire gives a client.
type stream = grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]

// line is one connection to the scheduler. What is to be said on it is collected, and sent by a goroutine: nothing in the
// executor waits for the network, and what comes while a message is on its way goes with the next.
type line struct {
	mu       sync.Mutex
	unsaid   map[claim]bool // acknowledgements
	finished []*schedulerv1.Finish
	drain    bool
	pulses   []*schedulerv1.Pulse
	wakeup   chan struct{} // holds at most one
	// breakOff ends the line; another is opened, and its hello says what is held.
	breakOff context.CancelCauseFunc

	// epoch is that of the scheduler that welcomed us.
	epoch int64
	// lease is that of the life that the line belongs to. Nothing is said without it.
	lease *lease
	// heard is when the last message came, by the clock of the lease.
	heard atomic.Int64
}

const (
	// reportBytes is how large one message may get before another is begun, and reportClaims how many claims are in one. With
	// the largest outcome on top it stays far below what a scheduler takes.
	reportBytes  = 1 << 20
	reportClaims = 1000
)

func newLine(epoch int64, lease *lease, breakOff context.CancelCauseFunc) *line {
	l := &line{unsaid: map[claim]bool{}, wakeup: make(chan struct{}, 1), breakOff: breakOff, epoch: epoch, lease: lease}
	l.hear()
	return l
}

// hear notes that a message came.
func (l *line) hear() { l.heard.Store(int64(l.lease.clock())) }

// silentFor is how long none came.
func (l *line) silentFor() time.Duration {
	return max(0, l.lease.clock()-time.Duration(l.heard.Load()))
}

func (l *line) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

// acknowledge says that a claim is held: its task begins only when the scheduler has heard that.
func (l *line) acknowledge(c claim) {
	l.mu.Lock()
	l.unsaid[c] = true
	l.mu.Unlock()
	l.wake()
}

// finish reports an end.
func (l *line) finish(c claim, outcome *taskv1.Outcome) {
	l.mu.Lock()
	l.finished = append(l.finished, &schedulerv1.Finish{Claim: c.wire(), Outcome: outcome})
	l.mu.Unlock()
	l.wake()
}

// drop takes back what was not said yet about a claim that is not ours any more.
func (l *line) drop(c claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unsaid, c)
	l.finished = slices.DeleteFunc(l.finished, func(f *schedulerv1.Finish) bool { return claimOf(f.GetClaim()) == c })
}

// wantNoMore says that no more tasks are wanted.
func (l *line) wantNoMore() {
	l.mu.Lock()
	l.drain = true
	l.mu.Unlock()
	l.wake()
}

// answer gives a pulse back.
func (l *line) answer(p *schedulerv1.Pulse) {
	l.mu.Lock()
	l.pulses = append(l.pulses, p)
	l.mu.Unlock()
	l.wake()
}

// take returns all that is to be said.
func (l *line) take() []*schedulerv1.AcquireRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	var requests []*schedulerv1.AcquireRequest
	for _, p := range l.pulses {
		requests = append(requests, &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Pulse{Pulse: p}})
	}
	if l.drain {
		requests = append(requests, &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{Drain: &schedulerv1.Drain{}}})
	}
	var open *schedulerv1.Report
	size, claims := 0, 0
	report := func(bytes int) *schedulerv1.Report {
		if open == nil || size > reportBytes || claims >= reportClaims {
			open, size, claims = &schedulerv1.Report{}, 0, 0
			requests = append(requests, &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Report{Report: open}})
		}
		size += bytes
		claims++
		return open
	}
	// First, also of what has ended already (it was canceled before it began): an end is believed of who has the claim.
	for c := range l.unsaid {
		r := report(0)
		r.Acknowledged = append(r.Acknowledged, c.wire())
	}
	for _, finish := range l.finished {
		r := report(proto.Size(finish))
		r.Finished = append(r.Finished, finish)
	}
	l.finished, l.drain, l.pulses = nil, false, nil
	clear(l.unsaid)
	return requests
}

// send sends what there is to say until ctx ends, the stream breaks, of which Recv tells, or the lease is over.
func (l *line) send(ctx context.Context, to stream) {
	for {
		select {
		case <-l.wakeup:
		case <-ctx.Done():
			return
		}
		// What else is ready to run goes first: runs that have just ended, too, whose reports go along. With nothing ready it is nothing.
		runtime.Gosched()
		for _, request := range l.take() {
			if !l.lease.holds() || to.Send(request) != nil {
				return
			}
		}
	}
}

// acquire keeps a line to the leading scheduler for as long as the life lasts.
func (s *station) acquire(l *life) {
	ctx := l.over
	delays := newDelays(soon, time.Second)
	for {
		began := time.Now()
		err := s.connect(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if errs.Is(err, errs.Fenced) {
			l.fence(err)
			return
		}
		s.nowWaitsFor(fmt.Errorf("waiting for the scheduler: %w", err))
		// A line that breaks as soon as it is welcomed must not be opened again twenty times a second.
		if time.Since(began) > delays.MaxInterval {
			delays.Reset()
		}
		if !process.Pause(ctx, delays.NextBackOff()) {
			return
		}
	}
}

// Why we break a line off.
var (
	errNoWelcome = fmt.Errorf("the scheduler did not answer the hello within %s", welcomeTimeout)
	errSilent    = errors.New("the scheduler is silent")
	errGivenBack = errors.New("what is not to be run here is given back")
)

// connect holds one line until it breaks.
func (s *station) connect(ctx context.Context, l *life) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	asked := time.Now()
	stream, err := s.peers.Scheduler.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("open the line: %w", err)
	}
	if !process.Pause(ctx, afterWait(time.Since(asked))) || !l.lease.holds() {
		return ctx.Err()
	}
	// What a failed Send means is only known from Recv.
	_ = stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: s.hello(l)}})
	welcome, err := awaitWelcome(ctx, stream, cancel)
	if err != nil {
		return fmt.Errorf("say hello: %w", err)
	}

	line := s.open(welcome.GetEpoch(), cancel)
	var sender sync.WaitGroup
	sender.Go(func() { line.send(ctx, stream) })
	defer sender.Wait()
	defer cancel(nil)
	defer s.lose(line)
	s.nowWaitsFor(nil)
	patience, stop := listen(welcome.GetPulseEvery().AsDuration(), cancel)
	defer stop()
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the line broke: %w", orCause(ctx, err))
		}
		patience()
		s.receive(ctx, line, response)
	}
}

// afterWait spreads the hellos of executors that found the same new leader at the same moment, the more the longer they had to
// wait for it: nobody misses a quarter of that, and ten thousand have up to a second.
func afterWait(waited time.Duration) time.Duration { return rand.N(min(waited/4, time.Second) + 1) }

// awaitWelcome expects the answer to the hello, within a limit: a scheduler that accepts connections and says nothing must
// not be waited for for ever.
func awaitWelcome(ctx context.Context, from stream, giveUp context.CancelCauseFunc) (*schedulerv1.Welcome, error) {
	silence := time.AfterFunc(welcomeTimeout, func() { giveUp(errNoWelcome) })
	defer silence.Stop()
	response, err := from.Recv()
	if err != nil {
		return nil, orCause(ctx, err)
	}
	if response.GetWelcome() == nil {
		return nil, errors.New("the scheduler answered with something else than a welcome")
	}
	return response.GetWelcome(), nil
}

// silentPulses is for how many of the usual pauses between pulses a scheduler may be silent.
const silentPulses = 3

// listen gives a line up on which nothing comes for too long, whatever the network says of it. heard is to be called for each
// message. A scheduler that has no pulses may be silent.
func listen(every time.Duration, giveUp context.CancelCauseFunc) (heard, stop func()) {
	if every <= 0 {
		return func() {}, func() {}
	}
	patience := silentPulses * every
	silence := time.AfterFunc(patience, func() { giveUp(fmt.Errorf("%w for %s", errSilent, patience)) })
	return func() { silence.Reset(patience) }, func() { silence.Stop() }
}

// hello presents the executor with all claims that it holds.
func (s *station) hello(l *life) *schedulerv1.Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config.metrics.count(countLine)
	s.hellos++
	s.takenBack = false
	hello := &schedulerv1.Hello{
		Executor:       s.name,
		Incarnation:    l.incarnation,
		Slots:          int32(cap(s.slots)),
		ImmediateSlots: int32(cap(s.immediate)),
		TaskNames:      s.place.tasks(),
		Versions:       s.place.versions(),
		Draining:       s.draining,
		Line:           s.hellos,
		Burst:          s.nothingLeft != nil,
	}
	for c := range s.runs {
		hello.Held = append(hello.Held, c.wire())
	}
	return hello
}

// open makes a line the current one. The hello said what is held; ends that were not accepted are reported again.
func (s *station) open(epoch int64, breakOff context.CancelCauseFunc) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := newLine(epoch, s.lease, breakOff)
	for c, r := range s.runs {
		if r.outcome != nil {
			l.finish(c, r.outcome)
		}
	}
	if s.draining {
		l.wantNoMore() // it may have begun after the hello
	}
	if s.takenBack {
		breakOff(errGivenBack)
	}
	s.line = l
	return l
}

// lose forgets a line that broke, and with it that there was nothing left: the next scheduler will say so again.
func (s *station) lose(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == l {
		s.line, s.idle = nil, false
	}
}

func (s *station) receive(ctx context.Context, l *line, response *schedulerv1.AcquireResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != l {
		return // the life is over: nothing from this line counts any more
	}
	l.hear()
	if p := response.GetPulse(); p != nil {
		l.answer(p)
		return
	}
	// A second welcome, or what a newer scheduler says, has no orders.
	orders := response.GetOrders()
	if !s.stopping {
		for _, c := range orders.GetAnnounced() {
			l.acknowledge(claimOf(c))
		}
	}
	for _, a := range orders.GetAssign() {
		s.assignLocked(ctx, a)
	}
	for _, a := range orders.GetRun() {
		s.takeLocked(ctx, a, func(claim) {}) // it was acknowledged when it was announced
	}
	for _, c := range orders.GetCancel() {
		if r, held := s.runs[claimOf(c)]; held && r.outcome == nil {
			s.log.InfoContext(ctx, "canceling", r.attrs()...)
			r.cancel(errCanceled)
		}
	}
	for _, c := range orders.GetFinished() {
		s.forgetLocked(claimOf(c))
	}
	for _, refused := range orders.GetRefused() {
		s.refuseLocked(refused)
	}
	if orders.GetNothingLeft() && s.nothingLeft != nil {
		s.idle = true
		s.nothingLeft()
	}
	for _, c := range orders.GetBegin() {
		s.beginLocked(ctx, claimOf(c))
	}
	for _, a := range orders.GetRun() { // not before: one that is canceled in the same message never begins
		s.beginLocked(ctx, claim{task: a.GetTaskId(), number: a.GetClaim()})
	}
}

// assignLocked takes a task over, once. It begins when the scheduler has heard of that.
func (s *station) assignLocked(ctx context.Context, a *taskv1.Assignment) {
	s.takeLocked(ctx, a, s.line.acknowledge)
}

// takeLocked takes a task over, once, and acknowledges that.
func (s *station) takeLocked(ctx context.Context, a *taskv1.Assignment, acknowledge func(claim)) {
	c := claim{task: a.GetTaskId(), number: a.GetClaim()}
	attrs := func() []any { return describe(c, a) }
	if _, err := uuid.Parse(c.task); err != nil || c.number <= 0 {
		s.log.ErrorContext(ctx, "the scheduler assigned something that is no task", attrs()...)
		return
	}
	if r, held := s.runs[c]; held {
		// Our answer may have been lost. It is repeated, the run is not.
		if r.outcome != nil {
			s.line.finish(c, r.outcome)
		} else {
			acknowledge(c)
		}
		return
	}
	if s.past.has(c) {
		s.log.WarnContext(ctx, "assigned again after its end, ignored", attrs()...)
		return
	}
	if s.stopping {
		// It crossed our drain. It is not taken, to be aborted here, but must not wait here either until all others have
		// ended: the next hello does not name it, and so gives it back.
		s.line.breakOff(errGivenBack)
		s.log.InfoContext(ctx, "assigned while stopping, not taken", attrs()...)
		return
	}
	r := newRun(ctx, s, c, a)
	if before := s.byTask[c.task]; before != nil {
		if before.claim.number > c.number {
			s.log.WarnContext(ctx, "an older claim was assigned after a newer one, ignored", attrs()...)
			return
		}
		// The scheduler would not give it to us if the older claim still held.
		r.after = before.done
		s.dropLocked(before)
	}
	s.runs[c], s.byTask[c.task], s.idle = r, r, false
	acknowledge(c)
	s.performing.Go(func() { s.conduct(r) })
}

// beginLocked lets a run begin, once.
func (s *station) beginLocked(ctx context.Context, c claim) {
	r, held := s.runs[c]
	switch {
	case !held:
		s.log.DebugContext(ctx, "something is to begin that is not here", slog.String("task_id", c.task), slog.Int64("claim", c.number))
	case !r.hasBegun() && r.lease.holds():
		r.since = time.Now()
		close(r.begun)
	}
}

// giveBackLocked forgets what has not begun, and breaks the line off: the next hello does not name it, nor does the goodbye, and
// so it goes to others unharmed.
func (s *station) giveBackLocked() {
	given := 0
	for _, r := range s.runs {
		if !r.hasBegun() && r.asked.Err() == nil { // of one that was canceled the end is under way
			s.dropLocked(r)
			given++
		}
	}
	if given == 0 {
		return
	}
	s.log.Info("giving back what has not begun", slog.Int("tasks", given))
	if s.takenBack = true; s.line != nil {
		s.line.breakOff(errGivenBack)
	}
}

// refuseLocked stops a run whose claim does not hold. Nothing is reported.
func (s *station) refuseLocked(refused *schedulerv1.Refused) {
	if r, held := s.runs[claimOf(refused.GetClaim())]; held {
		s.log.Warn("the scheduler refused a claim, its run is killed", append(r.attrs(), slog.String("reason", refused.GetReason()))...)
		s.dropLocked(r)
	}
}

// dropLocked kills a run, if it still runs, and forgets it.
func (s *station) dropLocked(r *run) {
	r.drop()
	r.kill(errDropped)
	if s.line != nil {
		s.line.drop(r.claim)
	}
	s.forgetLocked(r.claim)
}

// is reports whether a message is about the claim.
func (c claim) is(m about) bool { return m.GetTaskId() == c.task && m.GetClaim() == c.number }

// forgetLocked removes a claim that nothing more is to be said about.
func (s *station) forgetLocked(c claim) {
	if _, held := s.runs[c]; !held {
		return
	}
	delete(s.runs, c)
	s.past.add(c)
	s.changedLocked()
	if s.draining && !s.stopping && s.nothingLeft != nil {
		s.nothingLeft() // nobody will say so of one that wants no more
	}
}

// dropAll kills all runs, when the life is fenced: by now they may be somebody else's.
func (s *station) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = nil
	for _, r := range s.runs {
		s.dropLocked(r)
	}
}

// memory is a set of the latest claims that were added to it.
type memory struct {
	known map[claim]bool
	order []claim
	next  int
}

func (m *memory) has(c claim) bool { return m.known[c] }

func (m *memory) add(c claim) {
	if m.known == nil {
		m.known = make(map[claim]bool)
	}
	if len(m.order) < rememberedClaims {
		m.order = append(m.order, c)
	} else {
		delete(m.known, m.order[m.next])
		m.order[m.next] = c
		m.next = (m.next + 1) % rememberedClaims
	}
	m.known[c] = true
}
