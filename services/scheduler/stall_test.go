package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

// slowDatabase takes some milliseconds for each tick, before or after it has done it.
type slowDatabase struct{ *ownDatabase }

func aMoment() { <-time.After(rand.N(5 * time.Millisecond)) }

func (d slowDatabase) Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error) {
	aMoment()
	defer aMoment()
	return d.ownDatabase.Tick(ctx, epoch, plan)
}

// left counts what is not final.
func (d *ownDatabase) left() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, row := range d.rows {
		if !row.final {
			n++
		}
	}
	return n
}

// diligent is an executor that does what it is told until its line ends, each task in some milliseconds.
func diligent(x *line, say func(event)) {
	finish := func(c *schedulerv1.Claim) {
		aMoment()
		r := &schedulerv1.Report{Finished: []*schedulerv1.Finish{{Claim: c, Outcome: success()}}}
		x.hear(r)
		say(reportEvent{line: x, from: "life of x", report: r, at: time.Now()})
	}
	for range x.signal {
		orders, closed, _ := x.take()
		if closed {
			return
		}
		aMoment()
		for _, o := range orders {
			switch {
			case o.announced != nil:
				x.hear(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{o.announced}})
			case o.assign != nil && o.run:
				go finish(&schedulerv1.Claim{TaskId: o.assign.GetTaskId(), Claim: o.assign.GetClaim()})
			case o.assign != nil:
				x.hear(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{{TaskId: o.assign.GetTaskId(), Claim: o.assign.GetClaim()}}})
			case o.begin != nil:
				go finish(o.begin)
			}
		}
	}
}

// Looks are an hour apart: whatever is to be done must be done because of what happens, however ticks and events fall.
func TestNoWorkWaitsForALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &ownDatabase{modelDatabase: newModel()}
		db.epoch, db.epochNow = 1, 1
		db.modelDatabase.now = func() int64 { return time.Now().UnixMicro() }
		cfg := Defaults()
		cfg.Lease, cfg.LookEvery = 24*time.Hour, time.Hour
		service := New(cfg, slowDatabase{db}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- service.Run(ctx) }()
		synctest.Wait()
		inbox, err := service.leading()
		if err != nil {
			t.Fatal(err)
		}
		say := func(e event) { inbox.put(e) }
		x := newLine()
		say(helloEvent{line: x, hello: &schedulerv1.Hello{Executor: "x", Incarnation: "life of x", Slots: 8, TaskNames: []string{"t"}}})
		done := make(chan struct{})
		go func() {
			defer close(done)
			diligent(x, say)
		}()

		// Each round ends with nothing under way: what the last events of it should have led to would wait for the next look.
		for round := 0; round < 200 && !t.Failed(); round++ {
			for range 1 + rand.N(4) {
				db.mu.Lock()
				var rows []*modelRow
				for range 1 + rand.N(8) {
					row := tRow(fmt.Sprint(rand.N(4)))
					if rand.N(3) == 0 {
						row.Shared, row.Exclusive = row.Exclusive, nil
					}
					rows = append(rows, db.add(row))
				}
				e := offers(rows...)
				db.mu.Unlock()
				if rand.N(5) == 0 {
					e.rows = nil // a hint
				}
				say(e)
				aMoment()
			}
			began := time.Now()
			for left := 1; left > 0 && !t.Failed(); {
				if time.Since(began) > time.Minute {
					t.Errorf("%d tasks are left of round %d when a minute has gone", left, round)
				}
				<-time.After(10 * time.Millisecond)
				left = db.left()
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-done
	})
}
