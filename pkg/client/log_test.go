package client_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestALogIsFollowedAcrossARestartWithoutRepeatingIt(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	id := server.Put(&taskv1.Task{Name: "x"}).GetId()
	retry := func(t *taskv1.Task) {
		clienttest.Run(t)
		t.Attempt = 2
	}
	// What is done when a piece has come.
	steps := []func(){
		func() { server.Change(id, clienttest.Run) },
		func() { server.Print(id, "one\none\n") },
		func() {
			server.Stop()
			server.Print(id, "one\ntwo\n")
			server.Start()
		},
		func() { server.Change(id, retry) },
		func() { server.Print(id, "one\n") },
		func() {
			server.Stop()
			server.Start()
			server.Change(id, func(t *taskv1.Task) { t.State = taskv1.State_STATE_COMPLETED })
		},
	}
	var got []client.LogPart
	for part, err := range c.FollowLog(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part)
		if len(got) <= len(steps) {
			steps[len(got)-1]()
		}
	}
	want := []client.LogPart{
		{State: task.Waiting},
		{Attempt: 1, State: task.Running},
		{Text: "one\none\n", Attempt: 1, State: task.Running},
		{Text: "one\ntwo\n", Attempt: 1, State: task.Running},
		{Attempt: 2, State: task.Running},
		{Text: "one\n", Attempt: 2, State: task.Running},
		{Attempt: 2, State: task.Completed},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the pieces (-want +got): %s", diff)
	}
}

// A stream that is taken up again after more was written than is kept begins somewhere: the last words that came tell where it goes on.
func TestALogThatWasCutGoesOnWhereItWas(t *testing.T) {
	for name, c := range map[string]struct {
		then string
		want client.LogPart
	}{
		"what came is still there":        {"three\nfour\n", client.LogPart{Text: "three\nfour\n", Attempt: 1, State: task.Running}},
		"what came is not there any more": {"", client.LogPart{}},
	} {
		t.Run(name, func(t *testing.T) {
			server := clienttest.New(t)
			server.Skips = true
			conn := dial(t, server)
			id := server.Put(&taskv1.Task{Name: "x"}).GetId()
			server.Change(id, clienttest.Run)
			server.Print(id, "one\ntwo\n")
			n := 0
			for part, err := range conn.FollowLog(t.Context(), id) {
				if err != nil {
					t.Fatal(err)
				}
				switch n++; {
				case n == 1:
					want := client.LogPart{Text: "one\ntwo\n", Skipped: true, Attempt: 1, State: task.Running}
					if diff := cmp.Diff(want, part); diff != "" {
						t.Errorf("the first piece (-want +got): %s", diff)
					}
					server.Stop()
					if c.then == "" {
						server.Forget(id)
						c.want = client.LogPart{Text: strings.Repeat("x", 5000), Skipped: true, Attempt: 1, State: task.Running}
						server.Print(id, c.want.Text)
					}
					server.Print(id, c.then)
					server.Start()
					continue
				default:
					if diff := cmp.Diff(c.want, part); diff != "" {
						t.Errorf("the next piece (-want +got): %s", diff)
					}
				}
				break
			}
		})
	}
}

func TestFollowingALogOfNoTaskIsAnError(t *testing.T) {
	c := dial(t, clienttest.New(t))
	n := 0
	for _, err := range c.FollowLog(t.Context(), clienttest.ID(7)) {
		if n++; !errs.Is(err, errs.TaskNotFound) || n > 1 {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestListFindsTasksByTheirIDs(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	for range 3 {
		server.Put(&taskv1.Task{Name: "x"})
	}
	var got []string
	for one, err := range c.List(t.Context(), client.Filter{IDs: []string{clienttest.ID(1), clienttest.ID(3)}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, one.ID)
	}
	if diff := cmp.Diff([]string{clienttest.ID(3), clienttest.ID(1)}, got); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
}

func TestTheLoadIsThatOfTheLeaderOrNone(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	if _, err := c.Load(t.Context()); !errs.Is(err, errs.NotLeading) {
		t.Errorf("without a leader: %v", err)
	}
	load := &schedulerv1.GetLoadResponse{Blocked: 1, Ready: 2, Given: 3, Resting: 4, Runnable: 5, Slots: 6, FreeSlots: 7, Executors: 8}
	want := client.Load{Blocked: 1, Ready: 2, Given: 3, Resting: 4, Runnable: 5, Slots: 6, FreeSlots: 7, Executors: 8}
	server.Load = load
	server.System = &statusv1.GetSystemStatusResponse{Load: load}
	got, err := c.Load(t.Context())
	now, failed := c.Status(t.Context())
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]client.Load{want, want}, []client.Load{got, *now.Load}); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
}
