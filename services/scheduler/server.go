package scheduler

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) { schedulerv1.RegisterSchedulerServiceServer(r, s) }

// Offer wakes the leader. With tasks to settle it waits for their fate.
func (s *Service) Offer(ctx context.Context, req *schedulerv1.OfferRequest) (*schedulerv1.OfferResponse, error) {
	rows := make([]Row, len(req.GetTasks()))
	for i, t := range req.GetTasks() {
		rows[i] = Row{
			Seq: t.GetSeq(), ID: t.GetTaskId(), Name: t.GetName(), State: task.Waiting,
			Exclusive: t.GetExclusiveResources(), Shared: t.GetSharedResources(),
			Immediate: t.GetImmediate(), Deferred: t.GetDeferred(), Versions: t.GetVersions(), CreatedAt: t.GetCreatedAt().AsTime(),
			Retry: wire.FromRetry(t.GetRetry()),
		}
	}
	inbox, err := s.leading()
	if err != nil {
		return nil, err
	}
	e := offerEvent{rows: rows}
	if len(req.GetSettleTaskIds()) > 0 {
		e.settle = &settle{ids: req.GetSettleTaskIds(), done: make(chan struct{}), left: ctx.Done()}
	}
	if err := inbox.offer(e); err != nil {
		return nil, err
	}
	if e.settle == nil {
		return s.offered(), nil
	}
	select {
	case <-e.settle.done:
		return s.offered(), nil
	case <-inbox.ended:
		return nil, errStandby()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// offered answers an offer.
func (s *Service) offered() *schedulerv1.OfferResponse {
	return &schedulerv1.OfferResponse{LiveTasks: s.live.Load()}
}

// Acquire serves one executor.
func (s *Service) Acquire(stream grpc.BidiStreamingServer[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return errs.Precondition(errs.BadProtocol, "the first message must be a hello")
	}
	inbox, err := s.leading()
	if err != nil {
		return err
	}
	living, err := s.living(stream.Context(), hello)
	if err != nil {
		return err
	}
	if !living {
		return errFenced
	}

	out := newLine()
	if !inbox.put(helloEvent{line: out, hello: hello}) {
		return errStandby()
	}
	hangUp := func() { inbox.put(hangupEvent{line: out, from: hello.GetIncarnation()}) }
	// While something is sent to one who does not read, which takes as long as his connection lasts, only the pulse can tell.
	pulse := startPulse(out, s.cfg.PulseEvery, hangUp)
	defer func() {
		out.close(nil)
		pulse.stop()
		hangUp()
	}()

	// Reading ends when the stream's context does, which is when this function returns.
	go func() { out.close(s.listen(stream, inbox, out, pulse, hello.GetIncarnation())) }()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-out.signal:
		}
		orders, closed, err := out.take()
		if err := pack(orders, stream.Send); err != nil {
			return err
		}
		if closed {
			return err
		}
	}
}

// living asks whether an executor may say hello. After a takeover all of them do at once, and a tick must not wait for a
// connection behind ten thousand of these questions.
func (s *Service) living(ctx context.Context, hello *schedulerv1.Hello) (bool, error) {
	select {
	case s.questions <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-s.questions }()
	return s.db.Living(ctx, hello.GetExecutor(), hello.GetIncarnation())
}

// listen passes on what the executor says: acknowledgements to its line, the rest into the inbox. It returns what the stream is
// to end with.
func (s *Service) listen(stream grpc.BidiStreamingServer[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse], inbox *inbox, out *line, pulse *pulse, from string) error {
	for {
		request, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		pulse.hear()
		var e event
		switch m := request.GetMessage().(type) {
		case *schedulerv1.AcquireRequest_Report:
			out.hear(m.Report)
			if len(m.Report.GetFinished()) == 0 {
				continue
			}
			e = reportEvent{line: out, from: from, report: m.Report, at: time.Now()}
		case *schedulerv1.AcquireRequest_Drain:
			e = drainEvent{from: from}
		case *schedulerv1.AcquireRequest_Pulse:
			continue // to have said it is all
		default:
			return errs.Precondition(errs.BadProtocol, "a hello is sent once, as the first message")
		}
		if !inbox.put(e) {
			return errStandby()
		}
	}
}

// Follow streams committed changes.
func (s *Service) Follow(_ *schedulerv1.FollowRequest, stream grpc.ServerStreamingServer[schedulerv1.FollowResponse]) error {
	inbox, err := s.leading()
	if err != nil {
		return err
	}
	follower, unfollow := s.follow()
	defer unfollow()
	// An empty message tells the follower that from here on nothing is missed.
	if err := stream.Send(&schedulerv1.FollowResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-inbox.ended:
			return errStandby()
		case <-follower.signal:
			changes, closed, err := follower.take()
			if len(changes) > 0 {
				if err := stream.Send(&schedulerv1.FollowResponse{Changes: changes}); err != nil {
					return err
				}
			}
			if closed {
				return err
			}
		}
	}
}

// ask runs a question in the goroutine that owns the leader's memory.
func ask[T any](ctx context.Context, s *Service, question func(*leader) T) (T, error) {
	var zero T
	inbox, err := s.leading()
	if err != nil {
		return zero, err
	}
	answer := make(chan T, 1)
	if inbox.length() >= maxPending {
		return zero, errBusy()
	}
	if !inbox.put(askEvent(func(l *leader) { answer <- question(l) })) {
		return zero, errStandby()
	}
	select {
	case a := <-answer:
		return a, nil
	case <-inbox.ended:
		return zero, errStandby()
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// ListResources lists the longest queues.
func (s *Service) ListResources(ctx context.Context, req *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error) {
	return ask(ctx, s, func(l *leader) *schedulerv1.ListResourcesResponse { return l.resources(pageSize(req.GetPageSize())) })
}

// GetResource shows one queue.
func (s *Service) GetResource(ctx context.Context, req *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error) {
	found, err := ask(ctx, s, func(l *leader) *schedulerv1.GetResourceResponse {
		return l.resource(req.GetName(), pageSize(req.GetPageSize()))
	})
	if err == nil && found == nil {
		return nil, errs.NotFound(errs.ResourceUnknown, "nobody holds or waits for resource %q", req.GetName())
	}
	return found, err
}

const (
	// loadAge is how old a count may be that GetLoad answers with: who has just dispatched wants to see it.
	loadAge = 200 * time.Millisecond
	// loadPatience is how long GetLoad waits for a leader that hangs on its database, before the last count has to do.
	loadPatience = 300 * time.Millisecond
)

// GetLoad says how much there is to do.
func (s *Service) GetLoad(ctx context.Context, _ *schedulerv1.GetLoadRequest) (*schedulerv1.GetLoadResponse, error) {
	last := s.survey.Load()
	limited, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	now, err := ask(limited, s, func(l *leader) *schedulerv1.GetLoadResponse {
		l.takeStock(loadAge)
		if counted := s.survey.Load(); counted != nil {
			return counted.load()
		}
		counted := l.survey()
		return counted.load()
	})
	if err != nil && last != nil && ctx.Err() == nil {
		return last.load(), nil
	}
	return now, err
}
