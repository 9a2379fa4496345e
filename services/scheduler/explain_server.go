package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// maxProgress is how many parts of a task's work an explanation shows.
const maxProgress = 100

// Explain says why a task waits, where it runs, or how it ended. What a task waits for the leader's memory knows. How far a run is, and
// how one ended, stands only in the tables: those are asked after, so that who waits for the leader waits for no database.
func (s *Service) Explain(ctx context.Context, req *schedulerv1.ExplainRequest) (*schedulerv1.ExplainResponse, error) {
	answer, err := ask(ctx, s, func(l *leader) *schedulerv1.ExplainResponse { return l.explain(req.GetTaskId()) })
	if err != nil || answer.GetLive() && answer.GetState() == taskv1.State_STATE_WAITING {
		return answer, err
	}
	read, err := s.particulars(ctx, req.GetTaskId())
	switch {
	case err != nil && answer.GetLive():
		s.log.WarnContext(ctx, "an explanation lacks what the tables know", slog.String("task_id", req.GetTaskId()), slog.Any("error", err))
		return answer, nil
	case err != nil:
		return nil, err
	case read == nil:
		return nil, errs.NotFound(errs.TaskNotFound, "no task %s", req.GetTaskId())
	case read.State.Final():
		return read.ended(), nil // perhaps while the tables were asked
	case !answer.GetLive():
		answer = &schedulerv1.ExplainResponse{Summary: "It was dispatched, and the scheduler has not seen it yet."}
	}
	read.complete(answer)
	return answer, nil
}

// particulars reads what the tables know, few at a time.
func (s *Service) particulars(ctx context.Context, id string) (*Particulars, error) {
	select {
	case s.questions <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.questions }()
	return s.db.Particulars(ctx, id)
}

// complete adds to an explanation what the tables know of a task that is not final.
func (p *Particulars) complete(e *schedulerv1.ExplainResponse) {
	e.Name, e.State = p.Name, wire.State(p.State)
	e.CreatedAt, e.UnblockedAt, e.StartedAt = timestamppb.New(p.CreatedAt), wire.Time(p.UnblockedAt), wire.Time(p.StartedAt)
	e.Executor, e.Attempt = cmp.Or(p.Executor, e.GetExecutor()), p.Attempt
	e.LastBeatAt, e.ProgressAt = wire.Time(p.LastBeatAt), wire.Time(p.ProgressAt)
	for _, part := range p.Progress[:min(maxProgress, len(p.Progress))] {
		e.Progress = append(e.Progress, &taskv1.Progress{
			Code: part.Code, Message: part.Message, State: wire.State(cmp.Or(part.State, task.Running)), Total: part.Total, Done: part.Done,
			Suffix: part.Suffix,
		})
	}
}

// ended explains a task that is final: nothing stands between it and anything.
func (p *Particulars) ended() *schedulerv1.ExplainResponse {
	return &schedulerv1.ExplainResponse{
		State: wire.State(p.State), Name: p.Name, Unblocked: p.UnblockedAt != nil, Attempt: p.Attempt,
		CreatedAt: timestamppb.New(p.CreatedAt), UnblockedAt: wire.Time(p.UnblockedAt), StartedAt: wire.Time(p.StartedAt),
		FinishedAt: wire.Time(p.EndedAt), Executor: p.Executor, Summary: p.summary(),
	}
}

// summary is the sentence for people about a task that is final.
func (p *Particulars) summary() string {
	var text strings.Builder
	if p.State == task.Canceled || p.State == task.Skipped {
		fmt.Fprintf(&text, "It was %s", p.State)
	} else {
		fmt.Fprintf(&text, "It %s", p.State)
	}
	switch {
	case p.StartedAt != nil && p.EndedAt != nil:
		fmt.Fprintf(&text, " after %s on %s", lasting(p.EndedAt.Sub(*p.StartedAt)), p.Executor)
		// Before a later attempt it did not only wait.
		if waited := p.StartedAt.Sub(p.CreatedAt); waited >= time.Millisecond && p.Attempt <= 1 {
			fmt.Fprintf(&text, ", having waited for %s before", lasting(waited))
		}
	case p.EndedAt != nil:
		fmt.Fprintf(&text, " after it had waited for %s, and never ran", lasting(p.EndedAt.Sub(p.CreatedAt)))
	}
	if p.State == task.Failed && p.Attempt > 1 {
		fmt.Fprintf(&text, "; that was attempt %d", p.Attempt)
	}
	why, _, _ := strings.Cut(p.Error.String(), "\n")
	if why = strings.TrimSuffix(why, "."); why != "" {
		fmt.Fprintf(&text, ": %s", why)
	}
	return text.String() + "."
}
