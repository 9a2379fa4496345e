package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

// Greeting holds the arguments of the task "greet": by position ["Ada"], by name {"name": "Ada", "loud": true}.
type Greeting struct {
	Name string `json:"name"`
	Loud bool   `json:"loud,omitempty"`
}

func greet(ctx context.Context, in Greeting) (string, error) {
	if in.Name == "" {
		return "", worker.Permanent(worker.Safef("nobody to greet"))
	}
	worker.Logger(ctx).InfoContext(ctx, "greeting")
	text := "Hello, " + in.Name
	if in.Loud {
		text = strings.ToUpper(text)
	}
	return text, nil
}

// A program that holds handlers is its own worker: it hands its Mux to an executor, which starts the program again for
// each child process it needs. With pkg/cli the rest of main is os.Exit(cli.ExecutorMain(mux)).
func Example() {
	mux := worker.NewMux()
	worker.Handle(mux, "greet", greet, worker.Immediate())
	if worker.IsChild() {
		os.Exit(worker.ChildMain(mux))
	}

	// This is what an executor does with it, and how to test a handler with all that surrounds it.
	for _, kwargs := range []string{`{"name": "Ada", "loud": true}`, `{"nickname": "Ada"}`} {
		outcome := mux.Run(context.Background(), worker.Run{Assignment: &taskv1.Assignment{Name: "greet", KwargsJson: kwargs}})
		fmt.Println(outcome.GetResultJson() + outcome.GetError().GetDescription())
	}
	// Output:
	// "HELLO, ADA"
	// greet() got an unexpected argument "nickname"
}

// Mirror holds the arguments of the task "mirror".
type Mirror struct {
	Pages []string `json:"pages"`
}

var errBusy = errors.New("the remote is busy")

// fetch stands for what a handler does.
func fetch(_ context.Context, page string) error {
	if page == "busy" {
		return fmt.Errorf("get 192.0.2.1: %w", errBusy)
	}
	return nil
}

// mirror makes one thing of many, and says how far it is.
func mirror(ctx context.Context, in Mirror) (string, error) {
	progress, err := worker.NewProgress(ctx, worker.Part{Code: "mirror.fetching", Message: "Fetching", Total: int64(len(in.Pages)), Suffix: "pages"})
	if err != nil {
		return "", err
	}
	mirrored := "/mirrors/" + worker.Current(ctx).ID
	if err := worker.Creating(ctx, mirrored); err != nil {
		return "", err
	}
	for _, page := range in.Pages {
		switch err := fetch(ctx, page); {
		case errors.Is(err, errBusy):
			// People may read the new text, but not the old one, which has an address in it.
			return "", worker.Coded("REMOTE_BUSY", worker.Safef("the remote was busy at page %q", page))
		case err != nil:
			return "", err
		}
		progress.Add(1)
	}
	progress.Done()
	return mirrored, worker.Created(ctx, mirrored)
}

// A handler that declares what it is, reports what it does and makes, and fails in a way that programs can tell apart.
func Example_reports() {
	mux := worker.NewMux()
	worker.Handle(mux, "mirror", mirror,
		worker.Timeout(time.Hour),
		worker.Component("mirrors", "1.4.0"),
		worker.Discards(func(_ context.Context, resource string) error {
			fmt.Println("deleting", resource)
			return nil
		}),
	)

	// The executor's part: see pkg/worker.Calls.
	executor := newNotebook()
	run := worker.Run{Assignment: &taskv1.Assignment{TaskId: "42", Name: "mirror", ArgsJson: `[["a", "b", "busy"]]`}, Calls: executor}
	outcome := mux.Run(context.Background(), run)
	fmt.Println(outcome.GetError().GetCode(), outcome.GetError().GetDescription())
	fmt.Println(executor.progress[len(executor.progress)-1].GetDone(), "pages")
	mux.Discard(context.Background(), run, []string{executor.created[0].GetResource()})
	// Output:
	// REMOTE_BUSY the remote was busy at page "busy"
	// 2 pages
	// deleting /mirrors/42
}
