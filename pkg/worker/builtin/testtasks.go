package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

func registerTests(mux *worker.Mux) {
	worker.Handle(mux, "test.noop", noop, worker.Immediate())
	worker.HandleRaw(mux, "test.echo", echo, worker.Immediate())
	worker.Handle(mux, "test.sleep", sleep)
	worker.Handle(mux, "test.asleep", sleep, worker.Immediate())
	worker.Handle(mux, "test.fail", fail)
	worker.Handle(mux, "test.afail", fail, worker.Immediate())
	worker.Handle(mux, "test.gooey", gooey)
	worker.Handle(mux, "test.kill_worker", killWorker)
	worker.Handle(mux, "test.dummy_group", dummyGroup)
	worker.Handle(mux, "test.group_with_finalizer", groupWithFinalizer)
	registerEnds(mux)
	registerReports(mux)
}

type nothing struct{}

func noop(context.Context, nothing) (worker.None, error) { return worker.None{}, nil }

// echo returns its arguments as they came, digit for digit.
func echo(_ context.Context, arguments worker.Arguments) (json.RawMessage, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"args":%s,"kwargs":%s}`, arguments.Args, arguments.Kwargs)
	return b.Bytes(), nil
}

type interval struct {
	Seconds float64 `json:"seconds"`
}

// duration refuses what is no time to wait.
func duration(argument string, seconds float64) (time.Duration, error) {
	if seconds < 0 || seconds > longest.Seconds() {
		return 0, wrong("argument %q must be between 0 and %.0f seconds, is %g", argument, longest.Seconds(), seconds)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

func sleep(ctx context.Context, in interval) (worker.None, error) {
	d, err := duration("seconds", in.Seconds)
	if err != nil {
		return worker.None{}, err
	}
	return worker.None{}, pause(ctx, d)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type failure struct {
	Message string `json:"message,omitempty"`
}

func fail(_ context.Context, in failure) (worker.None, error) {
	if in.Message == "" {
		in.Message = "failed on request"
	}
	return worker.None{}, worker.Safe(errors.New(in.Message))
}

// gooey is the task that sticks: it takes no notice of its context, which is all that a message or SIGTERM can end.
func gooey(ctx context.Context, in interval) (worker.None, error) {
	return sleep(context.WithoutCancel(ctx), in)
}

func killWorker(ctx context.Context, _ nothing) (worker.None, error) {
	if err := syscall.Kill(os.Getppid(), syscall.SIGKILL); err != nil {
		return worker.None{}, fmt.Errorf("kill the executor: %w", err)
	}
	// We die of that too, any moment now.
	return worker.None{}, pause(ctx, time.Minute)
}

// groupOf is the group of the running task, or a new one if it has none.
func groupOf(ctx context.Context, description string) (string, error) {
	if current := worker.Current(ctx); current.GroupID != "" {
		return current.GroupID, nil
	}
	return worker.NewGroup(ctx, description)
}

type dummies struct {
	Inbetween *float64  `json:"inbetween,omitempty"`
	Intervals []float64 `json:"intervals,omitempty"`
}

type dummiesResult struct {
	Group string   `json:"group"`
	Tasks []string `json:"tasks"`
}

// dummyGroup dispatches one test.sleep for each interval into its own group, with a pause after each but the last. If it is a member
// itself, it adds them to the progress of the group.
func dummyGroup(ctx context.Context, in dummies) (*dummiesResult, error) {
	between := 3.0
	if in.Inbetween != nil {
		between = *in.Inbetween
	}
	if in.Intervals == nil {
		in.Intervals = []float64{0, 1, 2, 3, 4}
	}
	rest, err := duration("inbetween", between)
	if err != nil {
		return nil, err
	}
	group, err := groupOf(ctx, "test.dummy_group")
	if err != nil {
		return nil, err
	}
	var progress *worker.GroupProgress // nil goes nowhere
	if worker.Current(ctx).GroupID != "" {
		part := worker.Part{Code: "test.dummy_group", Message: "Dispatching members", Total: int64(len(in.Intervals)), Suffix: "tasks"}
		if progress, err = worker.NewGroupProgress(ctx, part); err != nil {
			return nil, err
		}
	}
	result := &dummiesResult{Group: group, Tasks: []string{}}
	for i, seconds := range in.Intervals {
		if i > 0 {
			if err := pause(ctx, rest); err != nil {
				return nil, err
			}
		}
		id, err := worker.Dispatch(ctx, worker.Spec{Name: "test.sleep", Args: []any{seconds}, GroupID: group})
		if err != nil {
			return nil, err
		}
		result.Tasks = append(result.Tasks, id)
		progress.Add(1)
	}
	return result, nil
}

type finalized struct {
	Resource string `json:"resource"`
}

type finalizedResult struct {
	Group     string   `json:"group"`
	Members   []string `json:"members"`
	Finalizer string   `json:"finalizer"`
}

// groupWithFinalizer dispatches members that share a resource named after the group and need another one for themselves,
// and a last task that takes the group's resource exclusively: however long a member waits, the last task waits for it.
func groupWithFinalizer(ctx context.Context, in finalized) (*finalizedResult, error) {
	const members = 2
	group, err := groupOf(ctx, "test.group_with_finalizer")
	if err != nil {
		return nil, err
	}
	all := "prn:core.taskgroup:" + group
	result := &finalizedResult{Group: group}
	for range members {
		id, err := worker.Dispatch(ctx, worker.Spec{
			Name: "test.sleep", Args: []any{0}, GroupID: group, Exclusive: []string{in.Resource}, Shared: []string{all},
		})
		if err != nil {
			return nil, err
		}
		result.Members = append(result.Members, id)
	}
	result.Finalizer, err = worker.Dispatch(ctx, worker.Spec{Name: "test.noop", GroupID: group, Exclusive: []string{all}})
	if err != nil {
		return nil, err
	}
	return result, nil
}
