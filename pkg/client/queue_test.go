package client_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestAnExplanationSaysAllThatTheSchedulerDoes(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	id := server.Put(&taskv1.Task{Name: "a"}).GetId()
	at := func(second int) time.Time { return clienttest.Epoch.Add(time.Duration(second) * time.Second) }
	sent := func(second int) *timestamppb.Timestamp { return timestamppb.New(at(second)) }
	moment := func(second int) *time.Time { m := at(second); return &m }
	use := &schedulerv1.ResourceUse{
		TaskId: "t", Name: "n", Exclusive: true, Granted: true, CreatedAt: sent(1), Since: sent(2), State: taskv1.State_STATE_RUNNING, Executor: "x",
	}
	used := client.ResourceUse{TaskID: "t", Name: "n", Exclusive: true, Granted: true, CreatedAt: at(1), Since: at(2), State: task.Running, Executor: "x"}
	server.Explanation = &schedulerv1.ExplainResponse{
		Live: true, Summary: "s", State: taskv1.State_STATE_RUNNING, Name: "a", CreatedAt: sent(3), UnblockedAt: sent(4), StartedAt: sent(5),
		FinishedAt: sent(6), Attempt: 2, Unblocked: true,
		Waits: []*schedulerv1.ResourceWait{{
			Resource: "r", Exclusive: true, Holders: []*schedulerv1.ResourceUse{use}, HolderCount: 3, Ahead: 4, AheadAtLeast: true,
			WaitingAhead: []*schedulerv1.ResourceUse{use},
		}},
		Chain:             []*schedulerv1.BlockerLink{{Resource: "r", Task: use, Standing: "runs"}},
		ExecutorsWithName: 5, ExecutorsWithVersions: 6, FreeSlots: 7, ReadyAhead: 8, Estimate: durationpb.New(time.Minute), RetryAt: sent(9),
		Nearest:  []*schedulerv1.NearExecutor{{Executor: "x", Gaps: []*schedulerv1.VersionGap{{Component: "core", Wanted: "2", Has: "1"}}}},
		Executor: "x", LastBeatAt: sent(10), ProgressAt: sent(11),
		Progress: []*taskv1.Progress{{Code: "c", Message: "m", State: taskv1.State_STATE_RUNNING, Total: proto.Int64(9), Done: 3, Suffix: "files"}},
	}
	got, err := c.Explain(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	minute := time.Minute
	total := int64(9)
	if diff := cmp.Diff(client.Explanation{
		Live: true, Summary: "s", State: task.Running, Name: "a", CreatedAt: at(3), UnblockedAt: moment(4), StartedAt: moment(5),
		FinishedAt: moment(6), Attempt: 2, Unblocked: true,
		Waits: []client.ResourceWait{{
			Resource: "r", Exclusive: true, Holders: []client.ResourceUse{used}, HolderCount: 3, Ahead: 4, AheadAtLeast: true,
			WaitingAhead: []client.ResourceUse{used},
		}},
		Chain:             []client.BlockerLink{{Resource: "r", Task: used, Standing: "runs"}},
		ExecutorsWithName: 5, ExecutorsWithVersions: 6, FreeSlots: 7, ReadyAhead: 8, Estimate: &minute, RetryAt: moment(9),
		Nearest:  []client.NearExecutor{{Executor: "x", Gaps: []client.VersionGap{{Component: "core", Wanted: "2", Has: "1"}}}},
		Executor: "x", LastBeatAt: moment(10), ProgressAt: moment(11),
		Progress: []client.Progress{{Code: "c", Message: "m", State: task.Running, Total: &total, Done: 3, Suffix: "files"}},
	}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestResourcesSaySinceWhen(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	since := clienttest.Epoch
	server.Resource = &schedulerv1.GetResourceResponse{Resource: &schedulerv1.Resource{Name: "r", Holders: 1, HeldSince: timestamppb.New(since)}}
	got, queue, err := c.Resource(t.Context(), "r", 0)
	if diff := cmp.Diff(client.Resource{Name: "r", Holders: 1, HeldSince: &since}, got); err != nil || diff != "" || len(queue) != 0 {
		t.Errorf("%v, %v, -want +got\n%s", queue, err, diff)
	}
}
