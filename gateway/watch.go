package gateway

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

const (
	// eventTask has a task as its data, eventReset says that changes may have been missed, and eventEnd that no more can come.
	eventTask  = "task"
	eventReset = "reset"
	eventEnd   = "end"

	// watchBatch is how many changes are shown at a time, when they come that fast: what they need besides is read at once. It is also
	// what waits for a slow client, and each can have a result of a mebibyte.
	watchBatch = 32
	// idEnded is the id of the event that ends the watch of one task. Who comes back with it is told to stay away.
	idEnded = "end"
)

// watching answers the streams of tasks.
type watching struct {
	gateway *Gateway
	alive   time.Duration // between signs of life
}

// watchByHand adds tasks/watch, tasks/{pulp_id}/watch and tasks/wait. Their parameters are told by the table of the document, too.
func (g *Gateway) watchByHand() {
	w := &watching{gateway: g, alive: eventsAlive}
	list := (&pulpv3.ListTasksRequest{}).ProtoReflect().Descriptor()
	g.routes.at("/api/v3/tasks/watch").operations[http.MethodGet] = operation{
		input: list, list: true, also: []string{"last_event_id", "include_current"}, hand: w.tasks,
	}
	g.routes.at("/api/v3/tasks/{pulp_id}/watch").operations[http.MethodGet] = operation{
		input: (&pulpv3.ReadTaskRequest{}).ProtoReflect().Descriptor(), also: []string{"last_event_id"}, hand: w.task,
	}
	g.routes.at("/api/v3/tasks/wait").operations[http.MethodGet] = operation{
		input: list, list: true, also: []string{"timeout"}, hand: w.wait,
	}
}

// until is the context of a stream: it ends with the client's connection, or when the gateway is told to stop.
func (g *Gateway) until(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	unlink := context.AfterFunc(g.leaving, cancel)
	return ctx, func() {
		unlink()
		cancel()
	}
}

// refused answers what went wrong before a stream began.
func (w *watching) refused(out http.ResponseWriter, r *http.Request, err error) {
	g := w.gateway
	if g.leaving.Err() != nil {
		g.refuse(r.Context(), out, later(http.StatusServiceUnavailable, "This server is stopping.", 0))
		return
	}
	g.refuse(r.Context(), out, g.refusalOf(r.Context(), r.Method, err))
}

// selected translates the filters of a request.
func (w *watching) selected(r *http.Request) (*statusv1.Filter, error) {
	given := requestFrom(r.Context())
	filter, nothing, err := taskFilter(queried(&pulpv3.ListTasksRequest{}, given.query), w.gateway.hrefs.at(r.Context()))
	if nothing && err == nil {
		filter = &statusv1.Filter{Node: &statusv1.Filter_Any{Any: &statusv1.FilterList{}}} // of nothing
	}
	return filter, err
}

// message is what came of a stream, or how it ended.
type message struct {
	change *statusv1.WatchTasksResponse
	err    error
}

// open begins a watch, and returns its first message and the others. They end with an error, at the latest when ctx does.
func (w *watching) open(ctx context.Context, request *statusv1.WatchTasksRequest) (first *statusv1.WatchTasksResponse, others <-chan message, err error) {
	stream, err := w.gateway.status.WatchTasks(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	if first, err = stream.Recv(); err != nil {
		return nil, nil, err
	}
	// What the client does not take fills this, then the stream's window; then the status service waits.
	messages := make(chan message, watchBatch)
	go func() {
		for {
			change, err := stream.Recv()
			select {
			case messages <- message{change, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return first, messages, nil
}

// tasks streams the tasks that match.
func (w *watching) tasks(out http.ResponseWriter, r *http.Request) {
	given := requestFrom(r.Context())
	filter, err := w.selected(r)
	current, wrong := truth(given.query.Get("include_current"))
	switch {
	case err != nil:
		w.refused(out, r, err)
		return
	case wrong != nil:
		w.refused(out, r, errs.Invalid(errs.Violation{Field: "include_current", Rule: "Must be a valid boolean."}))
		return
	}
	ctx, cancel := w.gateway.until(r)
	defer cancel()
	first, changes, err := w.open(ctx, &statusv1.WatchTasksRequest{
		Filter: filter, IncludeCurrent: current, Resume: lastEvent(r, given.query.Get("last_event_id")),
	})
	if err != nil {
		w.refused(out, r, err)
		return
	}
	e, err := beginEvents(out)
	defer e.end()
	if err == nil && r.Method != http.MethodHead {
		err = w.stream(ctx, e, first, changes)
	}
	if err != nil && ctx.Err() == nil {
		w.gateway.log.DebugContext(ctx, "a stream of tasks ended", slog.Any("error", err))
	}
}

// stream writes events until the client is gone, or the watch ends. A client comes back by itself, and misses nothing.
func (w *watching) stream(ctx context.Context, e *events, first *statusv1.WatchTasksResponse, changes <-chan message) error {
	if err := w.show(ctx, e, []*statusv1.WatchTasksResponse{first}); err != nil {
		return err
	}
	alive := time.NewTicker(w.alive)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-alive.C:
			if err := e.alive(); err != nil {
				return err
			}
		case m := <-changes:
			batch := []message{m}
			for len(changes) > 0 && len(batch) < watchBatch && batch[len(batch)-1].err == nil {
				batch = append(batch, <-changes)
			}
			var ended error
			var told []*statusv1.WatchTasksResponse
			for _, m := range batch {
				if ended = m.err; ended == nil {
					told = append(told, m.change)
				}
			}
			if err := w.show(ctx, e, told); err != nil {
				return err
			}
			if ended != nil {
				return ended
			}
		}
	}
}

// show writes what a watch told.
func (w *watching) show(ctx context.Context, e *events, told []*statusv1.WatchTasksResponse) error {
	given := requestFrom(ctx)
	shows := given.shows()
	more, err := w.more(ctx, told, shows)
	if err != nil {
		return err
	}
	h := w.gateway.hrefs.at(ctx)
	for _, change := range told {
		t := change.GetTask()
		switch {
		case change.GetReset_():
			err = e.event(eventReset, change.GetResume(), []byte("{}"))
		case t == nil && change.GetResume() != "":
			err = e.place(change.GetResume())
		case t == nil:
		default:
			shown := &statusv1.GetTaskResponse{Task: t, Report: more.GetReports()[t.GetId()], ChildIds: more.GetChildren()[t.GetId()].GetIds()}
			var data []byte
			data, err = marshalView(view{message: h.task(shown), shows: shows})
			if err == nil {
				err = e.event(eventTask, change.GetResume(), data)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// more reads what a list shows of tasks besides, if the client wants to see any of it.
func (w *watching) more(ctx context.Context, told []*statusv1.WatchTasksResponse, shows func(string) bool) (*statusv1.ListTasksResponse, error) {
	var ids []string
	for _, change := range told {
		if id := change.GetTask().GetId(); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	reports := shows == nil || slices.ContainsFunc(reportFields, shows)
	children := shows == nil || shows("child_tasks")
	if len(ids) == 0 || !reports && !children {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	return listAll(ctx, w.gateway.status, &statusv1.ListTasksRequest{
		Filter: tasksOf(ids...), PageSize: int32(len(ids)), IncludeReports: reports, IncludeChildren: children,
		OmitResults: true, OmitErrors: true, // the watch has told them
	})
}

// tasksOf selects tasks by their ids.
func tasksOf(ids ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{
		Field: statusv1.TaskField_TASK_FIELD_ID, Comparison: statusv1.Comparison_COMPARISON_IN, Values: ids,
	}}}
}

// task streams one task: as it is, then whenever it or what it has told of its work changes, until it is final.
func (w *watching) task(out http.ResponseWriter, r *http.Request) {
	given := requestFrom(r.Context())
	id, ok := canonicalID(given.vars["pulp_id"])
	if !ok {
		w.refused(out, r, noTask())
		return
	}
	if lastEvent(r, given.query.Get("last_event_id")) == idEnded {
		out.WriteHeader(http.StatusNoContent) // which keeps a browser from coming back once more
		return
	}
	ctx, cancel := w.gateway.until(r)
	defer cancel()
	// Watched before it is read: no change falls between. It is always shown as it is, so nothing needs to be resumed.
	_, changes, err := w.open(ctx, &statusv1.WatchTasksRequest{Filter: tasksOf(id), IncludeReports: true})
	if err != nil {
		w.refused(out, r, err)
		return
	}
	one := &watchedTask{watching: w, id: id}
	if err := one.read(ctx); err != nil {
		w.refused(out, r, err)
		return
	}
	e, err := beginEvents(out)
	defer e.end()
	if err == nil && r.Method != http.MethodHead {
		err = one.stream(ctx, e, changes)
	}
	if err != nil && ctx.Err() == nil {
		w.gateway.log.DebugContext(ctx, "the stream of a task ended", slog.Any("error", err), slog.String("task_id", id))
	}
}

// watchedTask is a task that is streamed.
type watchedTask struct {
	*watching
	id    string
	data  []byte
	state string
	final bool
}

// read reads the task as it is.
func (t *watchedTask) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	all, err := t.gateway.status.GetTask(ctx, &statusv1.GetTaskRequest{TaskId: t.id})
	if err != nil {
		return notFoundAs(err, noTask())
	}
	state := wire.FromState(all.GetTask().GetState())
	t.state, t.final = string(state), state.Final()
	shown := t.gateway.hrefs.at(ctx).task(all)
	t.data, err = marshalView(view{message: shown, shows: requestFrom(ctx).shows()})
	return err
}

func (t *watchedTask) stream(ctx context.Context, e *events, changes <-chan message) error {
	alive := time.NewTicker(t.alive)
	defer alive.Stop()
	resume := ""
	for {
		if err := e.event(eventTask, resume, t.data); err != nil {
			return err
		}
		if t.final {
			return e.event(eventEnd, idEnded, fmt.Appendf(nil, "{\"state\":%q}", t.state))
		}
		before := t.data
		for bytes.Equal(before, t.data) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-alive.C:
				if err := e.alive(); err != nil {
					return err
				}
				continue
			case m := <-changes:
				for m.err == nil && len(changes) > 0 { // it is read as it is now, whatever happened
					m = <-changes
				}
				if m.err != nil {
					return m.err
				}
				resume = m.change.GetResume()
			}
			if err := t.read(ctx); errs.Is(err, errs.TaskNotFound) {
				return e.event(eventEnd, idEnded, []byte(`{"state":null}`))
			} else if err != nil {
				return err
			}
		}
	}
}
