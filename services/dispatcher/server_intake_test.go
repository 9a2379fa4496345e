package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// What is read at a time has a bound, however many calls there are; those that are many more are refused unread.
func TestSoManyMessagesAreReadAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := dispatcher.NewReader(3, 5, time.Minute)
		arrive := make(chan struct{})
		var mu sync.Mutex
		reading, most := 0, 0
		receive := func() error {
			mu.Lock()
			reading++
			most = max(most, reading)
			mu.Unlock()
			<-arrive
			mu.Lock()
			reading--
			mu.Unlock()
			return t.Context().Err()
		}
		var all sync.WaitGroup
		for range 3 + 5 {
			all.Go(func() {
				if err := reader.Read(t.Context(), receive); err != nil {
					t.Errorf("a call that there is room for: %v", err)
				}
			})
		}
		synctest.Wait()
		overloaded(t, reader.Read(t.Context(), receive))
		for range 3 + 5 {
			arrive <- struct{}{}
		}
		all.Wait()
		if most != 3 {
			t.Errorf("%d messages were read at a time, want 3", most)
		}
	})
}

// Who sends by the byte, or not at all, loses its turn to the others; and who goes away does not wait for it.
func TestMessageThatDoesNotArriveLosesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := dispatcher.NewReader(1, 5, 10*time.Second)
		gone := make(chan struct{})
		ended := make(chan error, 1)
		began := time.Now()
		go func() {
			ended <- reader.Read(t.Context(), func() error { <-gone; return errors.New("the stream ended") })
		}()
		synctest.Wait()
		ctx, giveUp := context.WithTimeout(t.Context(), time.Second)
		defer giveUp()
		if err := reader.Read(ctx, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gave up while it waited got %v", err)
		}
		if err := <-ended; status.Code(err) != codes.DeadlineExceeded || time.Since(began) != 10*time.Second {
			t.Errorf("after %s it got %v", time.Since(began), err)
		}
		close(gone) // as gRPC ends it with the call
		if err := reader.Read(t.Context(), func() error { return nil }); err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
}

// Callers see of it what they always saw.
func TestDispatchThatIsReadInItsTurnIsWhatItWas(t *testing.T) {
	w := newWorld(t, &leader{})
	w.dispatch(t)
	w.batch(t, specs(3)...)
	_, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: newSpec("")})
	if fields := broken(t, err); len(fields) != 1 || fields[0] != "task.name" {
		t.Errorf("bad input is %v", fields)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.client.Dispatch(ctx, &dispatcherv1.DispatchRequest{Task: newSpec("n")}); status.Code(err) != codes.Canceled {
		t.Errorf("a call that was given up: %v", err)
	}
	large := &taskv1.TaskSpec{Name: "n", ArgsJson: `["` + strings.Repeat("x", 9<<20) + `"]`}
	if _, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: large}); status.Code(err) != codes.ResourceExhausted || errs.Is(err, errs.Overloaded) {
		t.Errorf("a message that is too large: %v", err)
	}
	if n := w.rows(t).Task; n != 4 {
		t.Errorf("%d tasks are stored", n)
	}
}

// Callers that open their calls and send nothing take no turn for longer than a message may take, and no memory.
func TestCallsWithoutAMessageDoNotHoldUpTheOthers(t *testing.T) {
	const silent = 100
	cfg := dispatcher.Defaults()
	cfg.ReadFor = 200 * time.Millisecond
	service := dispatcher.NewService(cfg, dispatcher.NewStore(pgtest.New(t)), noLeader{}, quiet())
	conn, _ := rpctest.Serve(t, service.Register)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range silent {
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, dispatcherv1.DispatcherService_Dispatch_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := stream.RecvMsg(&dispatcherv1.DispatchResponse{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("a call without a message got %v", err)
			}
		})
	}
	client := dispatcherv1.NewDispatcherServiceClient(conn)
	for i := range 20 {
		if _, err := client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: newSpec(fmt.Sprint(i))}); err != nil {
			t.Errorf("a call with one: %v", err)
		}
	}
	all.Wait()
	cancel()
}
