package gateway

import (
	"context"
	"sync"
	"time"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
)

const (
	// rosterFresh is how long an answer is used: clients that wait for a task read it every second.
	rosterFresh = time.Second
	// rosterWait bounds the question, and rosterPause the time until it is asked again after it failed: a task is shown
	// without its worker rather than late.
	rosterWait  = 250 * time.Millisecond
	rosterPause = 5 * time.Second
)

// roster remembers for a moment which executors live, so that tasks can name their worker.
type roster struct {
	heartbeat heartbeatv1.HeartbeatServiceClient

	mu     sync.Mutex // held while asking: of many readers one asks and the others wait for its answer
	until  time.Time
	living map[string]string // name to incarnation
}

func newRoster(heartbeat heartbeatv1.HeartbeatServiceClient) *roster {
	return &roster{heartbeat: heartbeat}
}

// incarnation is the life of the executor of that name; "" if none lives or nobody can say.
func (r *roster) incarnation(ctx context.Context, executor string) string {
	if executor == "" {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().After(r.until) {
		r.ask(ctx)
	}
	return r.living[executor]
}

func (r *roster) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, rosterWait)
	defer cancel()
	response, err := r.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER})
	if err != nil {
		if ctx.Err() == context.Canceled {
			return // one client went away; that says nothing about the service
		}
		r.living, r.until = nil, time.Now().Add(rosterPause)
		return
	}
	r.living, r.until = map[string]string{}, time.Now().Add(rosterFresh)
	for _, app := range response.GetApps() {
		if app.GetOnline() {
			r.living[app.GetName()] = app.GetIncarnation()
		}
	}
}
