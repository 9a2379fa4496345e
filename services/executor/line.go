package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
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

// line is one connection to the scheduler. Messages to it are queued and sent by a goroutine: nothing in the executor waits
// for the network.
type line struct {
	mu     sync.Mutex
	queue  []message
	wakeup chan struct{} // holds at most one
	// breakOff ends the line; another is opened, and its hello says what is held.
	breakOff context.CancelFunc
}

// message is something to send, and what to do when it was handed to the transport.
type message struct {
	request *schedulerv1.AcquireRequest
	sent    func()
}

func (l *line) post(messages ...message) {
	l.mu.Lock()
	l.queue = append(l.queue, messages...)
	l.mu.Unlock()
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

func (l *line) take() []message {
	l.mu.Lock()
	defer l.mu.Unlock()
	messages := l.queue
	l.queue = nil
	return messages
}

// send sends what is posted until ctx ends or the stream breaks; of that, Recv tells.
func (l *line) send(ctx context.Context, to stream) {
	for {
		select {
		case <-l.wakeup:
		case <-ctx.Done():
			return
		}
		for _, m := range l.take() {
			if err := to.Send(m.request); err != nil {
				return
			}
			if m.sent != nil {
				m.sent()
			}
		}
	}
}

func acknowledgeMessage(c claim, sent func()) message {
	return message{sent: sent, request: &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Acknowledge{
		Acknowledge: &schedulerv1.Acknowledge{Claim: c.wire()},
	}}}
}

func finishMessage(c claim, outcome *taskv1.Outcome) message {
	return message{request: &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Finish{
		Finish: &schedulerv1.Finish{Claim: c.wire(), Outcome: outcome},
	}}}
}

func drainMessage() message {
	return message{request: &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{Drain: &schedulerv1.Drain{}}}}
}

// acquire keeps a line to the leading scheduler for as long as the life lasts.
func (s *Service) acquire(ctx context.Context, l life, end context.CancelCauseFunc) {
	delays := newDelays()
	for {
		began := time.Now()
		err := s.connect(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if errs.Is(err, errs.Fenced) {
			s.log.ErrorContext(ctx, "the scheduler says that this life is over, giving up all tasks", slog.Any("error", err))
			end(errFenced)
			return
		}
		s.nowWaitsFor(fmt.Errorf("waiting for the scheduler: %w", err))
		// A line that breaks as soon as it is welcomed must not be opened again twenty times a second.
		if time.Since(began) > delays.MaxInterval {
			delays.Reset()
		}
		if !pause(ctx, delays.NextBackOff()) {
			return
		}
	}
}

// connect holds one line until it breaks.
func (s *Service) connect(ctx context.Context, l life) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.peers.Scheduler.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("open the line: %w", err)
	}
	hello, held := s.hello(l)
	// What a failed Send means is only known from Recv.
	_ = stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: hello}})
	if err := awaitWelcome(stream, cancel); err != nil {
		return err
	}

	line := s.begin(held, cancel)
	var sender sync.WaitGroup
	sender.Go(func() { line.send(ctx, stream) })
	defer sender.Wait()
	defer cancel()
	defer s.lose(line)
	s.nowWaitsFor(nil)
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the line broke: %w", err)
		}
		s.receive(ctx, line, response)
	}
}

// awaitWelcome expects the answer to the hello, within a limit: a scheduler that accepts connections and says nothing must
// not be waited for for ever.
func awaitWelcome(from stream, giveUp context.CancelFunc) error {
	silence := time.AfterFunc(welcomeTimeout, giveUp)
	defer silence.Stop()
	response, err := from.Recv()
	if err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	if response.GetWelcome() == nil {
		return errors.New("say hello: the scheduler answered with something else than a welcome")
	}
	return nil
}

// hello presents the executor with all claims that it holds.
func (s *Service) hello(l life) (*schedulerv1.Hello, []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hello := &schedulerv1.Hello{
		Executor:       s.config.Name,
		Incarnation:    l.incarnation,
		Slots:          int32(s.config.Slots),
		ImmediateSlots: int32(s.config.ImmediateSlots),
		TaskNames:      s.mux.Names(),
		Versions:       s.config.Versions,
		Draining:       s.draining,
	}
	held := make([]*run, 0, len(s.runs))
	for c, r := range s.runs {
		hello.Held = append(hello.Held, c.wire())
		held = append(held, r)
	}
	return hello, held
}

// begin makes a line the current one. The scheduler now knows what is held, which is as good as an acknowledgement; ends
// that it has not accepted are reported again.
func (s *Service) begin(held []*run, breakOff context.CancelFunc) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &line{wakeup: make(chan struct{}, 1), breakOff: breakOff}
	for _, r := range held {
		r.acknowledge()
	}
	for c, r := range s.runs {
		if r.outcome != nil {
			l.post(finishMessage(c, r.outcome))
		}
	}
	if s.draining {
		l.post(drainMessage()) // it may have begun after the hello
	}
	s.line = l
	return l
}

// lose forgets a line that broke.
func (s *Service) lose(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == l {
		s.line = nil
	}
}

func (s *Service) receive(ctx context.Context, l *line, response *schedulerv1.AcquireResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != l {
		return // the life is over: nothing from this line counts any more
	}
	switch m := response.GetMessage().(type) {
	case *schedulerv1.AcquireResponse_Assign:
		s.assignLocked(ctx, m.Assign)
	case *schedulerv1.AcquireResponse_Cancel:
		if r, held := s.runs[claimOf(m.Cancel.GetClaim())]; held && r.outcome == nil {
			s.log.InfoContext(ctx, "canceling", r.attrs()...)
			r.cancel(errCanceled)
		}
	case *schedulerv1.AcquireResponse_Finished:
		s.forgetLocked(claimOf(m.Finished.GetClaim()))
	case *schedulerv1.AcquireResponse_Refused:
		s.refuseLocked(m.Refused)
	default:
		// A second welcome, or what a newer scheduler says.
	}
}

// assignLocked takes a task over, once.
func (s *Service) assignLocked(ctx context.Context, a *taskv1.Assignment) {
	c := claim{task: a.GetTaskId(), number: a.GetClaim()}
	log := s.log.With(slog.String("task_id", c.task), slog.Int64("claim", c.number))
	if _, err := uuid.Parse(c.task); err != nil || c.number <= 0 {
		log.ErrorContext(ctx, "the scheduler assigned something that is no task")
		return
	}
	if r, held := s.runs[c]; held {
		// Our answer may have been lost. It is repeated, the run is not.
		if r.outcome != nil {
			s.line.post(finishMessage(c, r.outcome))
		} else {
			s.line.post(acknowledgeMessage(c, r.acknowledge))
		}
		return
	}
	if s.past.has(c) {
		log.WarnContext(ctx, "assigned again after its end, ignored")
		return
	}
	if s.stopping {
		// It crossed our drain. It is not taken, to be aborted here, but must not wait here either until all others have
		// ended: the next hello does not name it, and so gives it back.
		s.line.breakOff()
		log.InfoContext(ctx, "assigned while stopping, not taken")
		return
	}
	r := newRun(ctx, c, a)
	if before := s.byTask[c.task]; before != nil {
		if before.claim.number > c.number {
			log.WarnContext(ctx, "an older claim was assigned after a newer one, ignored", slog.Int64("newer", before.claim.number))
			return
		}
		// The scheduler would not give it to us if the older claim still held.
		r.after = before.done
		s.dropLocked(before)
	}
	s.runs[c], s.byTask[c.task] = r, r
	s.line.post(acknowledgeMessage(c, r.acknowledge))
	s.performing.Go(func() { s.perform(r) })
}

// refuseLocked stops a run whose claim does not hold. Nothing is reported.
func (s *Service) refuseLocked(refused *schedulerv1.Refused) {
	if r, held := s.runs[claimOf(refused.GetClaim())]; held {
		s.log.Warn("the scheduler refused a claim, its run is killed", append(r.attrs(), slog.String("reason", refused.GetReason()))...)
		s.dropLocked(r)
	}
}

// dropLocked kills a run, if it still runs, and forgets it.
func (s *Service) dropLocked(r *run) {
	r.kill(errDropped)
	s.forgetLocked(r.claim)
}

// forgetLocked removes a claim that nothing more is to be said about.
func (s *Service) forgetLocked(c claim) {
	if _, held := s.runs[c]; !held {
		return
	}
	delete(s.runs, c)
	s.past.add(c)
	s.changedLocked()
}

// dropAll kills all runs, when the life is fenced: by now they may be somebody else's.
func (s *Service) dropAll() {
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
