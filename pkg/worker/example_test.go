package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

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
		return "", errors.New("nobody to greet")
	}
	worker.Logger(ctx).InfoContext(ctx, "greeting")
	text := "Hello, " + in.Name
	if in.Loud {
		text = strings.ToUpper(text)
	}
	return text, nil
}

// A program that holds handlers is its own worker: it hands its Mux to an executor, which starts the program again for
// each child process it needs.
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
