package e2e

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	record "github.com/sluice-tasks/sluice/pkg/history"
)

const (
	soakClients = 4
	soakPace    = 100 * time.Millisecond // of each client
	// soakOpen is how many tasks may be stored and not final; more are not handed in.
	soakOpen = 300
	// soakCall is how long a client waits for an answer, as impatient ones do.
	soakCall = 5 * time.Second
	// soakStorms cancel side by side.
	soakStorms = 16
)

// flow has clients hand in tasks until it is stopped. Half of them go through the gateway.
func (r *soak) flow() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var crowded sync.Map // an entry while too many tasks are open
	all.Go(func() {
		look := time.NewTicker(500 * time.Millisecond)
		defer look.Stop()
		for {
			var open int
			if err := r.admin.QueryRow(ctx, `select count(*) from task_live`).Scan(&open); err == nil && open < soakOpen {
				crowded.Delete("")
			} else {
				crowded.Store("", true)
			}
			select {
			case <-look.C:
			case <-ctx.Done():
				return
			}
		}
	})
	for i := range soakClients {
		all.Go(func() {
			pace := time.NewTicker(soakPace)
			defer pace.Stop()
			for {
				if _, wait := crowded.Load(""); !wait {
					r.handIn(i)
				}
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// handIn is one call of a client. It is not cut off when the flow stops.
func (r *soak) handIn(by int) {
	r.mu.Lock()
	r.calls++
	call := r.calls
	r.mu.Unlock()
	var specs []client.Spec
	for i := range 1 + call%3/2 { // every third call brings two
		drawn := drawTask(r.seed, by, 2*call+i)
		spec := client.Spec{
			Name: "soak.run", Kwargs: map[string]any{"file": r.path, "millis": drawn.millis, "kind": drawn.kind},
			Exclusive: r.names(drawn.exclusive), Shared: r.names(drawn.shared),
		}
		if drawn.immediate && len(specs) == 0 && call%3 != 2 {
			spec.Name, spec.Immediate = "soak.now", true
		}
		specs = append(specs, spec)
	}
	ctx, cancel := context.WithTimeout(context.Background(), soakCall)
	defer cancel()
	called := time.Since(r.began)
	made, err := r.clients[by%len(r.clients)].DispatchBatch(ctx, specs)
	returned := time.Since(r.began)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		text, _, _ := strings.Cut(err.Error(), ":")
		r.refused[text]++
		return
	}
	for i, one := range made {
		r.returned[one.ID] = record.Task{
			ID: one.ID, Exclusive: specs[i].Exclusive, Shared: specs[i].Shared, Called: called, Returned: returned, Batch: call,
		}
		r.recent = append(r.recent, one.ID)
	}
}

func (r *soak) names(numbers []int) []string {
	var names []string
	for _, n := range numbers {
		names = append(names, "soak:"+strconv.Itoa(n))
	}
	return names
}

// storm cancels the n tasks that were acknowledged last, all at the same time.
func (r *soak) storm(n int) {
	r.mu.Lock()
	ids := append([]string{}, r.recent[max(0, len(r.recent)-n):]...)
	for _, id := range ids {
		r.canceled[id] = true
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), soakCall)
	defer cancel()
	var all sync.WaitGroup
	turn := make(chan struct{}, soakStorms)
	for i, id := range ids {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			_, _ = r.clients[i%len(r.clients)].Cancel(ctx, id) // it may be final, or nobody may answer
		})
	}
	all.Wait()
}

// acknowledged is a copy of what was acknowledged.
func (r *soak) acknowledged() map[string]record.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.returned)
}
