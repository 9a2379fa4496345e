package client_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// times returns an answer to the first n calls, and nil afterwards.
func times(n int32, err error) func(string) error {
	var calls atomic.Int32
	return func(string) error {
		if calls.Add(1) <= n {
			return err
		}
		return nil
	}
}

func away() error { return errs.Away(errs.DatabaseAway, nil, "the database can't be reached") }

func full(after time.Duration) error {
	return &errs.Error{Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "too much", RetryAfter: after}
}

// dialWith is dial with options.
func dialWith(t *testing.T, addr string, options ...grpc.DialOption) *client.Client {
	t.Helper()
	c, err := client.Dial(addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it only fails when closed twice
	return c
}

func TestDispatchWhoseAnswerIsLostIsStoredOnce(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	server.Lose = times(3, away())
	one, err := c.Dispatch(t.Context(), client.Spec{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	requests := server.Requests()
	if len(requests) != 4 || len(slices.Compact(requests)) != 1 || requests[0] == "" {
		t.Errorf("the request ids are %q, want one four times", requests)
	}
	if n := len(server.Specs()); n != 1 || one.ID != clienttest.ID(1) {
		t.Errorf("%d tasks are stored, the answer is %s", n, one.ID)
	}

	server.Lose = times(1, away())
	batch, err := c.DispatchBatch(t.Context(), []client.Spec{{Name: "a"}, {Name: "b", RequestID: "mine"}, {Name: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, one := range batch {
		names = append(names, one.Name)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" || len(server.Specs()) != 4 {
		t.Errorf("%d tasks are stored: %s", len(server.Specs()), diff)
	}
	if requests = server.Requests()[4:]; len(requests) != 6 || !slices.Equal(requests[:3], requests[3:]) || requests[1] != "mine" || requests[0] == requests[2] {
		t.Errorf("the request ids are %q", requests)
	}
}

// The network takes the answer away, and then itself: what the client sees is a broken connection.
func TestDispatchWhoseConnectionBreaksAfterTheCommitIsStoredOnce(t *testing.T) {
	server := clienttest.New(t)
	network := wire.Start(t, server.Addr)
	c := dialWith(t, network.Addr())
	if _, err := c.Dispatch(t.Context(), client.Spec{Name: "first"}); err != nil { // so that the connection is there
		t.Fatal(err)
	}
	network.ToClient.Drop()
	var stored atomic.Int32
	server.Lose = func(string) error {
		if stored.Add(1) == 1 {
			network.Cut()
			network.ToClient.Pass()
		}
		return nil
	}
	one, err := c.Dispatch(t.Context(), client.Spec{Name: "second"})
	if err != nil || one.Name != "second" {
		t.Errorf("the dispatch returned %+v, %v", one, err)
	}
	if requests := server.Requests(); len(requests) != 3 || requests[1] != requests[2] || len(server.Specs()) != 2 {
		t.Errorf("%d tasks are stored under %q", len(server.Specs()), requests)
	}
}

func TestDispatchComesAgainAsOftenAsItIsTold(t *testing.T) {
	invalid := errs.Invalid(errs.Violation{Field: "task.name", Rule: "r"})
	for _, c := range []struct {
		says    string
		err     error
		options []grpc.DialOption
		calls   int
	}{
		{"usually", away(), nil, 8},
		{"three times", away(), []grpc.DialOption{client.Attempts(9), client.Attempts(3)}, 3},
		{"once", away(), []grpc.DialOption{client.Attempts(1)}, 1},
		{"when there is no room", full(time.Millisecond), []grpc.DialOption{client.Attempts(4)}, 4},
		{"not with a mistake", invalid, nil, 1},
		{"not with a request id of another task", errs.Exists(errs.RequestIDReused, "r"), nil, 1},
		{"not when something else is exhausted", errs.Oversize(errs.InvalidInput, "too large"), nil, 1},
		{"not when the server is broken", status.Error(codes.Internal, "i"), nil, 1},
	} {
		t.Run(c.says, func(t *testing.T) {
			t.Parallel()
			server := clienttest.New(t)
			var calls atomic.Int32
			server.Fail = func(string) error {
				calls.Add(1)
				return c.err
			}
			if _, err := dialWith(t, server.Addr, c.options...).Dispatch(t.Context(), client.Spec{Name: "n"}); status.Code(err) != status.Code(c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			if n := int(calls.Load()); n != c.calls {
				t.Errorf("%d calls, want %d", n, c.calls)
			}
		})
	}
}

func TestDispatchThatIsHandedInOnceHasNoRequestIDOfItsOwn(t *testing.T) {
	server := clienttest.New(t)
	c := dialWith(t, server.Addr, client.Attempts(1))
	if _, err := c.DispatchBatch(t.Context(), []client.Spec{{Name: "n"}, {Name: "n", RequestID: "mine"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"", "mine"}, server.Requests()); diff != "" {
		t.Error(diff)
	}
}

// Who waits longer than the call may take learns at once that there was no room, and not later that the time is over.
func TestDispatchThatHasNoTimeForThePauseReturnsWhatTheServerSaid(t *testing.T) {
	server := clienttest.New(t)
	var calls atomic.Int32
	server.Fail = func(string) error {
		calls.Add(1)
		return full(time.Hour)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := dial(t, server).Dispatch(ctx, client.Spec{Name: "n"}); !errs.Is(err, errs.Overloaded) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// The first call is stored and its answer lost; those after it find no room. Who is told that there was no room hands it in anew.
func TestDispatchThatMayBeStoredIsNotSaidToHaveBeenRefused(t *testing.T) {
	server := clienttest.New(t)
	server.Lose = times(1, away())
	var calls atomic.Int32
	server.Fail = func(string) error {
		if calls.Add(1) == 1 {
			return nil
		}
		return full(time.Millisecond)
	}
	_, err := dialWith(t, server.Addr, client.Attempts(3)).Dispatch(t.Context(), client.Spec{Name: "n"})
	if n := len(server.Specs()); n != 1 || calls.Load() != 3 {
		t.Fatalf("%d tasks are stored by %d calls: this proves nothing", n, calls.Load())
	}
	if errs.Is(err, errs.Overloaded) || status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, and the task is stored", err)
	}
}

// Two tasks that are the same are two tasks, also for who keeps what he hands in.
func TestSpecThatIsSentTwiceIsTwoTasks(t *testing.T) {
	server := clienttest.New(t)
	conn, err := rpc.Dial(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it only fails when closed twice
	spec := &taskv1.TaskSpec{Name: "n"}
	for range 2 {
		if _, err := client.SendTask(t.Context(), dispatcherv1.NewDispatcherServiceClient(conn), spec); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(server.Specs()); n != 2 {
		t.Errorf("%d tasks are stored under %q", n, server.Requests())
	}
}

func TestPurgeGoesThroughAllPagesAndCountsWhatItRemoved(t *testing.T) {
	server := clienttest.New(t)
	before := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var asked []string
	server.OnPurge = func(r *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
		if !r.GetFinishedBefore().AsTime().Equal(before) || !slices.Equal(r.GetStates(), []taskv1.State{taskv1.State_STATE_FAILED}) {
			t.Errorf("asked for %v", r)
		}
		asked = append(asked, r.GetPageToken())
		answer := &dispatcherv1.PurgeTasksResponse{Deleted: []*dispatcherv1.PurgedCount{{State: taskv1.State_STATE_FAILED, Count: 7}}}
		if len(asked) < 3 {
			answer.NextPageToken = r.GetPageToken() + "x"
		}
		return answer, nil
	}
	server.Fail = times(2, away())
	var seen []int64
	gone, err := dial(t, server).Purge(t.Context(), client.PurgeFilter{FinishedBefore: before, States: []task.State{task.Failed}},
		func(now map[task.State]int64) { seen = append(seen, now[task.Failed]) })
	if err != nil || gone[task.Failed] != 21 {
		t.Errorf("removed %v, %v", gone, err)
	}
	if diff := cmp.Diff([]int64{7, 14, 21}, seen); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"", "x", "xx"}, asked); diff != "" {
		t.Error(diff)
	}
}
