package client_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestGroupsTellHowFarTheyAre(t *testing.T) {
	server := clienttest.New(t)
	server.Groups = []*statusv1.GetTaskGroupResponse{{
		Id: clienttest.ID(1), Description: "d", CreatedAt: timestamppb.New(time.Unix(7, 0)),
		Counts:   []*statusv1.StateCount{{State: taskv1.State_STATE_FAILED, Count: 3}},
		Progress: []*taskv1.GroupProgress{{Code: "c", Message: "m", Total: 9, Done: 7, Suffix: "s"}},
	}}
	got, err := dial(t, server).Group(t.Context(), clienttest.ID(1))
	want := client.Group{
		ID: clienttest.ID(1), Description: "d", CreatedAt: time.Unix(7, 0).UTC(), Counts: map[task.State]int64{task.Failed: 3},
		Progress: []client.GroupProgress{{Code: "c", Message: "m", Total: 9, Done: 7, Suffix: "s"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestGroupsAreAskedForPageByPage(t *testing.T) {
	server := clienttest.New(t)
	for i := range 2500 {
		server.Groups = append(server.Groups, &statusv1.GetTaskGroupResponse{Id: clienttest.ID(i)})
	}
	c := dial(t, server)
	for _, step := range []struct{ limit, want int }{{0, 2500}, {1, 1}, {1000, 1000}, {1700, 1700}, {9999, 2500}} {
		n := 0
		for g, err := range c.Groups(t.Context(), step.limit) {
			if err != nil || g.ID != clienttest.ID(n) {
				t.Fatalf("group %d: %s, %v", n, g.ID, err)
			}
			n++
		}
		if n != step.want {
			t.Errorf("limit %d: %d groups", step.limit, n)
		}
	}
	for g, err := range c.Groups(t.Context(), 0) {
		if err != nil || g.ID != clienttest.ID(0) {
			t.Errorf("the first one: %s, %v", g.ID, err)
		}
		break
	}
}

func TestCancelOfAGroupSaysHowManyItReached(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	for range 3 {
		if _, err := c.Dispatch(t.Context(), client.Spec{Name: "x", GroupID: clienttest.ID(900)}); err != nil {
			t.Fatal(err)
		}
	}
	server.Change(clienttest.ID(1), clienttest.Run)
	for _, want := range [][2]int64{{2, 1}, {0, 1}} {
		canceled, canceling, err := c.CancelGroup(t.Context(), clienttest.ID(900))
		if got := [2]int64{canceled, canceling}; err != nil || got != want {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
}
