// Command go dispatches a task and reads it until it has ended, with nothing but a client that was generated from the OpenAPI
// document. It takes the address of a Sluice, and prints the state and the result of the task.
//
// # Owns
//
// An example of a generated client, and the proof that one compiles and works: the end-to-end tests generate it anew and run it.
//
// # Failure
//
// It ends with code 1 and the reason.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/deploy/clients/go/sluice"
)

func main() {
	if err := run(os.Args[1], os.Getenv("SLUICE_USER"), os.Getenv("SLUICE_PASSWORD")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, user, password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := sluice.NewClientWithResponses(address, sluice.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.SetBasicAuth(user, password)
		return nil
	}))
	if err != nil {
		return fmt.Errorf("make a client for %s: %w", address, err)
	}
	made, err := client.TasksCreateWithResponse(ctx, nil, sluice.TaskCreate{
		Name: "test.echo", Kwargs: &map[string]any{"text": "hello from Go"},
	})
	switch {
	case err != nil:
		return fmt.Errorf("dispatch a task: %w", err)
	case made.JSON202 == nil:
		return fmt.Errorf("dispatch a task: %s: %s", made.Status(), made.Body)
	}
	id, err := uuid.Parse(path.Base(made.JSON202.Task))
	if err != nil {
		return fmt.Errorf("read the href %q: %w", made.JSON202.Task, err)
	}
	for {
		read, err := client.TasksReadWithResponse(ctx, id, nil)
		switch {
		case err != nil:
			return fmt.Errorf("read the task: %w", err)
		case read.JSON200 == nil:
			return fmt.Errorf("read the task: %s: %s", read.Status(), read.Body)
		case read.JSON200.FinishedAt == nil:
			time.Sleep(100 * time.Millisecond) // an example keeps to plain reading; tasks_wait would wait
			continue
		}
		result, err := json.Marshal(read.JSON200.Result)
		if err != nil {
			return fmt.Errorf("read the result: %w", err)
		}
		fmt.Println(*read.JSON200.State, string(result))
		return nil
	}
}
