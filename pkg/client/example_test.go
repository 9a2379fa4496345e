package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Dispatch a task that changes one report while it reads the settings, and wait for its result.
func Example() {
	ctx := context.Background()
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	report, err := sluice.Dispatch(ctx, client.Spec{
		Name:      "command.run",
		Kwargs:    map[string]any{"argv": []string{"make", "report"}, "timeout": 600},
		Exclusive: []string{"reports/2026"},
		Shared:    []string{"settings"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended, err := sluice.Wait(ctx, report.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := ended[0].Err(); err != nil {
		fmt.Println(err) // it failed or was canceled; the text says why
		return
	}
	fmt.Println(string(ended[0].Result))
}

// Many tasks on their own parts of one thing, then one that needs all of it: its exclusive reservation makes it wait for
// every task that was dispatched before and shares the tree.
func ExampleClient_Dispatch() {
	ctx := context.Background()
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	for _, part := range []string{"a", "b", "c"} {
		spec := client.Spec{Name: "index.part", Args: []string{part}, Shared: []string{"tree"}, Exclusive: []string{"tree/" + part}}
		if _, err := sluice.Dispatch(ctx, spec); err != nil {
			fmt.Println(err)
			return
		}
	}
	if _, err := sluice.Dispatch(ctx, client.Spec{Name: "index.publish", Exclusive: []string{"tree"}}); err != nil {
		fmt.Println(err)
		return
	}
}

// Run a task at once or not at all. An error tells which fields of the spec were wrong.
func ExampleClient_Dispatch_immediate() {
	ctx := context.Background()
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	t, err := sluice.Dispatch(ctx, client.Spec{Name: "test.asleep", Args: []int{0}, Exclusive: []string{"door"}, Immediate: true, NoDefer: true})
	var invalid *errs.Error
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			fmt.Println(v.Field, v.Rule)
		}
	}
	if t.State == task.Canceled {
		fmt.Println("somebody else is at the door")
	}
}

// A task that may fail for a while: five attempts, none longer than a minute, and a look at how they went. Between attempts it
// keeps its resources, so nothing overtakes it.
func ExampleRetry() {
	ctx := context.Background()
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	mirror, err := sluice.Dispatch(ctx, client.Spec{
		Name: "mirror.update", Exclusive: []string{"mirror"}, Timeout: time.Minute, Retry: &client.Retry{MaxAttempts: 5, Backoff: 10 * time.Second},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := sluice.Wait(ctx, mirror.ID); err != nil {
		fmt.Println(err)
		return
	}
	mirror, err = sluice.Get(ctx, mirror.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, a := range mirror.Attempts {
		fmt.Println("attempt", a.Number, "failed:", a.Error)
	}
	for _, p := range mirror.Progress {
		fmt.Println(p.Message, p.Done, p.State)
	}
}

// Wait with a limit of time, and leave the task to itself when it takes longer.
func ExampleClient_Wait() {
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tasks, err := sluice.Wait(ctx, "01900000-0000-7000-8000-000000000001")
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("still", tasks[0].State)
	}
}

// Follow what becomes of a task.
func ExampleClient_Watch() {
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	for t, err := range sluice.Watch(context.Background(), "01900000-0000-7000-8000-000000000001") {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(t.UpdatedAt, t.State)
	}
}

// Cancel everything that still waits for a resource.
func ExampleClient_List() {
	ctx := context.Background()
	sluice, err := client.Dial(client.DefaultAddr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sluice.Close()

	for t, err := range sluice.List(ctx, client.Filter{States: []task.State{task.Waiting}, Resources: []string{"reports/2026"}}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		// It may have ended since it was listed.
		if _, err := sluice.Cancel(ctx, t.ID); err != nil && !errs.Is(err, errs.TaskFinal) {
			fmt.Println(err)
			return
		}
	}
}
