package builtin_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
)

// pages is a dispatcher that answers a purge with one page after the other; an error takes the place of a page.
type pages struct {
	asked   []*dispatcherv1.PurgeTasksRequest
	answers []any
	// before is called before each answer.
	before func(n int)
}

func (p *pages) PurgeTasks(_ context.Context, request *dispatcherv1.PurgeTasksRequest, _ ...grpc.CallOption) (*dispatcherv1.PurgeTasksResponse, error) {
	p.asked = append(p.asked, proto.CloneOf(request))
	if p.before != nil {
		p.before(len(p.asked))
	}
	answer := p.answers[0]
	p.answers = p.answers[1:]
	if err, failed := answer.(error); failed {
		return nil, err
	}
	return answer.(*dispatcherv1.PurgeTasksResponse), nil
}

func page(next string, groups int64, deleted ...*dispatcherv1.PurgedCount) *dispatcherv1.PurgeTasksResponse {
	return &dispatcherv1.PurgeTasksResponse{Deleted: deleted, DeletedGroups: groups, NextPageToken: next}
}

func count(state taskv1.State, n int64) *dispatcherv1.PurgedCount {
	return &dispatcherv1.PurgedCount{State: state, Count: n}
}

// purge runs the task on a dispatcher.
func purge(ctx context.Context, p *pages, kwargs string) (*taskv1.Outcome, *recorder) {
	mux, calls := worker.NewMux(), &recorder{}
	builtin.RegisterPurge(mux, p)
	return mux.Run(ctx, worker.Run{Assignment: &taskv1.Assignment{Name: builtin.PurgeTask, TaskId: "the-task", KwargsJson: kwargs}, Calls: calls}), calls
}

// last is what was told last of each part, by its code: its state, what is done, and of how many.
func (r *recorder) last() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]string{}
	for _, p := range r.progress {
		total := "unknown"
		if p.Total != nil {
			total = time.Duration(p.GetTotal()).String()
		}
		found[p.GetCode()] = strings.TrimPrefix(p.GetState().String(), "STATE_") + " " + time.Duration(p.GetDone()).String() + " of " + total
	}
	return found
}

func TestPurgeGoesOnToTheEndAndTellsWhatItDeleted(t *testing.T) {
	completed, failed := taskv1.State_STATE_COMPLETED, taskv1.State_STATE_FAILED
	p := &pages{answers: []any{
		page("1", 0, count(completed, 3), count(failed, 1)), page("2", 0), page("group:x", 2, count(completed, 4)), page("", 1),
	}}
	outcome, calls := purge(t.Context(), p, `{"finished_before": "2026-01-31T12:00:00.25+01:00", "states": ["completed", "failed", "skipped"]}`)
	want := &taskv1.Outcome{State: completed, ResultJson: `{"deleted":{"completed":7,"failed":1,"skipped":0},"deleted_groups":3}`}
	if diff := cmp.Diff(want, outcome, protocmp.Transform()); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{
		"purge.tasks.total": "COMPLETED 8ns of 8ns", "purge.tasks.key.core.Task": "COMPLETED 8ns of 8ns", "purge.tasks.key.core.TaskGroup": "COMPLETED 3ns of 3ns",
	}, calls.last()); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	var tokens []string
	for _, asked := range p.asked {
		tokens = append(tokens, asked.GetPageToken())
		if at := asked.GetFinishedBefore().AsTime(); !at.Equal(time.Date(2026, 1, 31, 11, 0, 0, 250_000_000, time.UTC)) || len(asked.GetStates()) != 3 || asked.GetPageSize() != 1000 {
			t.Errorf("it asks for %v", asked)
		}
	}
	if diff := cmp.Diff([]string{"", "1", "2", "group:x"}, tokens); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}

func TestPurgeThatIsToldNothingDeletesWhatCompletedAMonthAgo(t *testing.T) {
	for _, kwargs := range []string{"", `{}`, `{"finished_before": null}`, `{"states": []}`} {
		p := &pages{answers: []any{page("", 0)}}
		from := time.Now().Add(-30 * 24 * time.Hour)
		outcome, calls := purge(t.Context(), p, kwargs)
		if got := outcome.GetResultJson(); got != `{"deleted":{"completed":0},"deleted_groups":0}` {
			t.Errorf("%s: %v", kwargs, outcome)
		}
		if diff := cmp.Diff(map[string]string{"purge.tasks.total": "COMPLETED 0s of 0s", "purge.tasks.key.core.Task": "COMPLETED 0s of 0s"}, calls.last()); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
		at := p.asked[0].GetFinishedBefore().AsTime()
		if at.Before(from) || at.After(time.Now().Add(-30*24*time.Hour)) || len(p.asked[0].GetStates()) != 1 || p.asked[0].GetStates()[0] != taskv1.State_STATE_COMPLETED {
			t.Errorf("it asks for %v", p.asked[0])
		}
	}
}

func TestPurgeThatIsToldNonsenseDeletesNothing(t *testing.T) {
	const time1 = `sluice.purge_tasks() argument "finished_before" must be a time such as 2026-01-31T12:00:00Z, is `
	const states1 = `sluice.purge_tasks() argument "states" must name final states: completed, failed, canceled or skipped; has `
	for kwargs, want := range map[string]string{
		`{"finished_before": "yesterday"}`:            time1 + `"yesterday"`,
		`{"finished_before": ""}`:                     time1 + `""`,
		`{"finished_before": "0000-01-01T00:00:00Z"}`: time1 + `"0000-01-01T00:00:00Z"`,
		`{"states": ["completed", "running"]}`:        states1 + `"running"`,
		`{"states": [""]}`:                            states1 + `""`,
		`{"states": "failed"}`:                        `sluice.purge_tasks() argument "states" must be an array, is string`,
		`{"state": ["failed"]}`:                       `sluice.purge_tasks() got an unexpected argument "state"`,
	} {
		p := &pages{}
		outcome, _ := purge(t.Context(), p, kwargs)
		got := outcome.GetError().GetDescription()
		if got != want || !outcome.GetSafe() || outcome.GetError().GetCode() != task.CodePermanent || len(p.asked) > 0 {
			t.Errorf("%s: %v, want %s", kwargs, outcome, want)
		}
	}
}

func TestPurgeEndsBetweenPagesWhenItIsCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := &pages{answers: []any{page("1", 0, count(taskv1.State_STATE_COMPLETED, 5)), page("2", 0)}, before: func(n int) {
		if n == 2 {
			cancel()
		}
	}}
	outcome, calls := purge(ctx, p, "")
	if outcome.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(outcome.GetError().GetDescription(), context.Canceled.Error()) || len(p.asked) != 2 {
		t.Errorf("after %d pages: %v", len(p.asked), outcome)
	}
	if got := calls.last()["purge.tasks.total"]; got != "RUNNING 5ns of unknown" {
		t.Errorf("it told %q", got) // its end is the task's
	}
}

func TestPurgeOutlivesADispatcherThatIsAwayForAWhile(t *testing.T) {
	away := status.Error(codes.Unavailable, "away")
	for name, c := range map[string]struct {
		answers []any
		calls   int
		state   taskv1.State
	}{
		"a while":    {[]any{page("1", 0), away, away, away, page("", 0)}, 5, taskv1.State_STATE_COMPLETED},
		"too long":   {[]any{away, away, away, away, away, away, away}, 7, taskv1.State_STATE_FAILED},
		"for good":   {[]any{status.Error(codes.InvalidArgument, "no")}, 1, taskv1.State_STATE_FAILED},
		"in between": {[]any{away, page("1", 0), away, page("2", 0), away, away, away, away, away, page("", 0)}, 10, taskv1.State_STATE_COMPLETED},
		"a bug":      {[]any{errors.New("x")}, 1, taskv1.State_STATE_FAILED},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pages{answers: c.answers}
				outcome, _ := purge(t.Context(), p, "")
				if outcome.GetState() != c.state || len(p.asked) != c.calls {
					t.Errorf("after %d calls: %v", len(p.asked), outcome)
				}
				tokens := map[string]int{}
				for _, asked := range p.asked {
					tokens[asked.GetPageToken()]++
				}
				if name == "a while" && (tokens[""] != 1 || tokens["1"] != 4) {
					t.Errorf("pages were asked for so often: %v", tokens)
				}
			})
		})
	}
}

func TestPurgeRunsInTheExecutorsProcess(t *testing.T) {
	mux := worker.NewMux()
	builtin.RegisterPurge(mux, &pages{})
	if traits, known := mux.Traits(builtin.PurgeTask); !known || !traits.InProcess || traits.Immediate {
		t.Errorf("traits %+v, known %v", traits, known)
	}
}
