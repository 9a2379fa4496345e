package builtin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// registerReports adds tasks that tell of what they do and make, and that exchange files.
func registerReports(mux *worker.Mux) {
	worker.Handle(mux, "test.progress", progress)
	worker.Handle(mux, "test.create", create, worker.Discards(discard))
	worker.Handle(mux, "test.keep_file", keepFile)
	worker.Handle(mux, "test.read_files", readFiles)
}

type steps struct {
	Steps    uint32  `json:"steps"`
	Total    *int64  `json:"total,omitempty"`
	Interval float64 `json:"interval,omitempty"`
}

type stepsDone struct {
	Done int64 `json:"done"`
}

// progress does nothing, step by step.
func progress(ctx context.Context, in steps) (*stepsDone, error) {
	rest, err := duration("interval", in.Interval)
	if err != nil {
		return nil, err
	}
	if in.Total == nil {
		total := int64(in.Steps)
		in.Total = &total
	}
	part, err := worker.NewProgress(ctx, worker.Part{Code: "test.progress", Message: "Taking steps", Suffix: "steps"})
	if err != nil {
		return nil, err
	}
	part.SetTotal(*in.Total)
	for range in.Steps {
		if err := rested(ctx, rest); err != nil {
			part.Fail()
			return nil, err
		}
		part.Add(1)
	}
	part.Done()
	return &stepsDone{int64(in.Steps)}, nil
}

// rested pauses, if there is to be a pause: a timer for each of a million steps would be most of the work.
func rested(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return context.Cause(ctx)
	}
	return pause(ctx, d)
}

type creation struct {
	Resources  []string `json:"resources,omitempty"`
	Incomplete []string `json:"incomplete,omitempty"`
	Message    string   `json:"message,omitempty"`
	Seconds    float64  `json:"seconds,omitempty"`
}

// create makes files, which are its created resources by their paths. Each holds the task's id.
func create(ctx context.Context, in creation) (worker.None, error) {
	wait, err := duration("seconds", in.Seconds)
	if err != nil {
		return worker.None{}, err
	}
	for _, path := range in.Incomplete {
		if err := createOne(ctx, path); err != nil {
			return worker.None{}, err
		}
	}
	for _, path := range in.Resources {
		if err := createOne(ctx, path); err != nil {
			return worker.None{}, err
		}
		if err := worker.Created(ctx, path); err != nil {
			return worker.None{}, err
		}
	}
	if err := pause(ctx, wait); err != nil {
		return worker.None{}, err
	}
	if in.Message != "" {
		return worker.None{}, worker.Safe(errors.New(in.Message))
	}
	return worker.None{}, nil
}

// createOne makes a file that was not there, and leaves it incomplete.
func createOne(ctx context.Context, path string) error {
	if !filepath.IsAbs(path) {
		return wrong("a resource must be the absolute path of a file, is %q", path)
	}
	if err := worker.Creating(ctx, path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create a resource: %w", err)
	}
	_, err = file.WriteString(worker.Current(ctx).ID)
	return errors.Join(err, file.Close())
}

// discard removes a file that create made. Another task's is not its to remove: that one was there before.
func discard(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(text) != worker.Current(ctx).ID:
		return fmt.Errorf("%s was not made by this task", path)
	}
	return os.Remove(path)
}

type content struct {
	Text string `json:"text"`
}

type kept struct {
	File string `json:"file"`
}

// keepFile stores a text as a temporary file.
func keepFile(ctx context.Context, in content) (*kept, error) {
	const name = "kept"
	dir, err := worker.WorkingDir(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(in.Text), 0o600); err != nil {
		return nil, fmt.Errorf("write the file to keep: %w", err)
	}
	id, err := worker.KeepFile(ctx, name)
	if err != nil {
		return nil, err
	}
	return &kept{id}, nil
}

// readFiles returns the beginnings of the files that it was given.
func readFiles(ctx context.Context, _ nothing) ([]string, error) {
	const beginning = 4 << 10 // bytes: of 100 files they fit into a result
	texts := []string{}
	for _, id := range worker.Current(ctx).FileIDs {
		path, err := worker.FetchFile(ctx, id)
		if err != nil {
			return nil, err
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open a given file: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(file, beginning))
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("read a given file: %w", err)
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}
