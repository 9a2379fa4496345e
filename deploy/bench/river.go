package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// What River's own bench command sets; everything else, the completer and the pool's size included, is River's and pgx's
// default there and here.
const (
	riverFetchCooldown     = 2 * time.Millisecond
	riverFetchPollInterval = 20 * time.Millisecond
	riverMaxWorkers        = 2_000
	riverInsertBatch       = 5_000
	riverReserve           = 75_000                 // continuous: as many are kept waiting, and are there before the clock starts
	riverReservePause      = 250 * time.Millisecond // between two looks at how many are left
)

// riverPatience bounds a burn-down that lost count.
const riverPatience = 5 * time.Minute

type riverOptions struct {
	url      string
	jobs     int           // burn down
	duration time.Duration // continuous
}

type riverResult struct {
	JobsPerSecond float64 `json:"jobs_per_second"`
	Jobs          int64   `json:"jobs"` // worked while the clock ran
	Inserted      int64   `json:"jobs_inserted"`
	Seconds       float64 `json:"seconds"`        // from the client's start to the last job
	InsertSeconds float64 `json:"insert_seconds"` // before the clock started
}

type noopArgs struct {
	Number int `json:"number"`
}

// Kind is the name under which River stores the job.
func (noopArgs) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noopArgs]
}

// Work does nothing.
func (*noopWorker) Work(context.Context, *river.Job[noopArgs]) error { return nil }

// riverBench is one client of River and what it has done so far.
type riverBench struct {
	client   *river.Client[pgx.Tx]
	inserted atomic.Int64
	worked   atomic.Int64
	last     atomic.Int64 // when the last job was seen to be completed, in Unix nanoseconds
}

// benchRiver works jobs that do nothing, in this process, as River's bench command does.
func benchRiver(ctx context.Context, o riverOptions, progress io.Writer) (riverResult, error) {
	pool, err := pgxpool.New(ctx, o.url)
	if err != nil {
		return riverResult{}, fmt.Errorf("connect River: %w", err)
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	log := slog.New(slog.NewTextHandler(progress, &slog.HandlerOptions{Level: slog.LevelWarn}))
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: log})
	if err != nil {
		return riverResult{}, fmt.Errorf("prepare River's schema: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return riverResult{}, fmt.Errorf("make River's schema: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{})
	client, err := river.NewClient(driver, &river.Config{
		FetchCooldown:     riverFetchCooldown,
		FetchPollInterval: riverFetchPollInterval,
		Logger:            log,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverMaxWorkers}},
		Workers:           workers,
	})
	if err != nil {
		return riverResult{}, fmt.Errorf("make River's client: %w", err)
	}
	return (&riverBench{client: client}).run(ctx, o)
}

func (b *riverBench) run(ctx context.Context, o riverOptions) (riverResult, error) {
	// Counted are jobs whose completion is stored, which the worker itself does not know. River drops events that find the
	// channel full.
	events, unsubscribe := b.client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: max(o.jobs, riverReserve),
		Kinds:    []river.EventKind{river.EventKindJobCompleted, river.EventKindJobCancelled, river.EventKindJobFailed},
	})
	ctx, cancel := context.WithCancelCause(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel(nil)
	defer unsubscribe()
	allDone := make(chan struct{})
	background.Go(func() { b.count(events, int64(o.jobs), allDone, cancel) })

	ahead := o.jobs
	if o.duration > 0 {
		ahead = riverReserve
	}
	filling := time.Now()
	if err := b.fill(ctx, ahead); err != nil {
		return riverResult{}, err
	}
	fillTime := time.Since(filling)

	if err := b.client.Start(ctx); err != nil {
		return riverResult{}, fmt.Errorf("start River: %w", err)
	}
	start := time.Now()
	end := time.NewTimer(riverPatience)
	defer end.Stop()
	if o.duration > 0 {
		end.Reset(o.duration)
		background.Go(func() { b.keepFilled(ctx, cancel) })
	}
	select {
	case <-allDone:
	case <-end.C:
		if o.jobs > 0 {
			return riverResult{}, fmt.Errorf("wait for River: it worked %d of %d jobs in %s", b.worked.Load(), o.jobs, riverPatience)
		}
	case <-ctx.Done():
		return riverResult{}, context.Cause(ctx)
	}
	worked, seconds := b.worked.Load(), time.Unix(0, b.last.Load()).Sub(start).Seconds()
	cancel(nil) // a hard stop: what it was doing is not measured any more
	<-b.client.Stopped()
	if worked == 0 {
		return riverResult{}, errors.New("wait for River: it worked nothing")
	}
	return riverResult{
		JobsPerSecond: float64(worked) / seconds,
		Jobs:          worked,
		Inserted:      b.inserted.Load(),
		Seconds:       seconds,
		InsertSeconds: fillTime.Seconds(),
	}, nil
}

// count counts until the channel is closed, and closes allDone after so many; any end but completion ends the run.
func (b *riverBench) count(events <-chan *river.Event, all int64, allDone chan<- struct{}, fail context.CancelCauseFunc) {
	for event := range events {
		if event.Kind != river.EventKindJobCompleted {
			fail(fmt.Errorf("job %d ended as %s", event.Job.ID, event.Job.State))
			continue
		}
		b.last.Store(time.Now().UnixNano())
		if b.worked.Add(1) == all {
			close(allDone)
		}
	}
}

// fill inserts, in batches, until so many jobs have yet to be worked.
func (b *riverBench) fill(ctx context.Context, jobs int) error {
	for {
		left := int(b.inserted.Load() - b.worked.Load())
		if left >= jobs {
			return nil
		}
		batch := make([]river.InsertManyParams, min(riverInsertBatch, jobs-left))
		for i := range batch {
			batch[i].Args = noopArgs{Number: i}
		}
		if _, err := b.client.InsertMany(ctx, batch); err != nil {
			return fmt.Errorf("insert River's jobs: %w", err)
		}
		b.inserted.Add(int64(len(batch)))
	}
}

func (b *riverBench) keepFilled(ctx context.Context, fail context.CancelCauseFunc) {
	pause := time.NewTicker(riverReservePause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if err := b.fill(ctx, riverReserve); err != nil {
			fail(err) // after the end this is the cancellation, and nobody asks for it
			return
		}
	}
}
