package status

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	statusv1.RegisterStatusServiceServer(r, server{service: s})
}

// server is the gRPC face. Limits were checked before it is reached.
type server struct {
	statusv1.UnimplementedStatusServiceServer

	service *Service
}

// GetTask returns one task with all that there is of it.
func (s server) GetTask(ctx context.Context, req *statusv1.GetTaskRequest) (*statusv1.GetTaskResponse, error) {
	t, err := s.service.db.Get(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	d, err := s.service.db.Details(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &statusv1.GetTaskResponse{
		Task: wire.Task(t), ChildIds: d.Children, Report: d.Report.onWire(t), Attempts: attempts(d.Attempts),
	}, nil
}

// ListTasks returns one page.
func (s server) ListTasks(ctx context.Context, req *statusv1.ListTasksRequest) (*statusv1.ListTasksResponse, error) {
	l := List{
		Filter: filterOf(req), Order: req.GetOrder(), Size: int(req.GetPageSize()), Offset: int(req.GetOffset()),
		OmitResults: req.GetOmitResults(), OmitErrors: req.GetOmitErrors(),
	}
	if token := req.GetPageToken(); token != "" {
		after, err := placeOf(token)
		if err != nil {
			return nil, errs.Invalid(errs.Violation{Field: "page_token", Rule: "must be the next_page_token of a page before"})
		}
		l.After = after
	}
	if l.Size == 0 {
		l.Size = limits.DefaultPage
	}
	return s.service.list(ctx, req, l)
}

// WaitTasks waits until all the tasks are final.
func (s server) WaitTasks(ctx context.Context, req *statusv1.WaitTasksRequest) (*statusv1.WaitTasksResponse, error) {
	limit := limits.DefaultWait
	if req.GetTimeout() != nil {
		limit = req.GetTimeout().AsDuration()
	}
	// The answer must be on its way before the caller gives up: a quarter of a second is left for it.
	if deadline, has := ctx.Deadline(); has {
		limit = min(limit, max(0, time.Until(deadline)-250*time.Millisecond))
	}
	tasks, done, err := s.service.waitFor(ctx, limit, req.GetTaskIds())
	if err != nil {
		return nil, err
	}
	answer := &statusv1.WaitTasksResponse{Tasks: onWire(tasks), Done: done}
	// A thousand results of a mebibyte each are more than any client takes, and so are a thousand tracebacks.
	size := 0
	for _, t := range answer.GetTasks() {
		cause := t.GetError()
		size += len(t.GetResultJson()) + len(cause.GetDescription()) + len(cause.GetReason()) + len(cause.GetTraceback())
		if size <= resultsShown {
			continue
		}
		t.ResultJson = ""
		if cause != nil {
			cause.Description, cause.Reason, cause.Traceback = begin(cause.GetDescription()), begin(cause.GetReason()), ""
		}
	}
	return answer, nil
}

const (
	// systemLook is how long the database may take to say how the whole is doing.
	systemLook = 3 * time.Second
	// loadLook is how long the leader may take to say how much there is to do: it has that in memory.
	loadLook = time.Second
)

// resultsShown is how many bytes of results and errors an answer to a wait may have in full.
const resultsShown = 4 << 20

// WatchTask streams one task.
func (s server) WatchTask(req *statusv1.WatchTaskRequest, stream grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
	return s.service.watch(stream.Context(), req.GetTaskId(), func(t *task.Task) error {
		return stream.Send(&statusv1.WatchTaskResponse{Task: wire.Task(t)})
	})
}

// GetSystemStatus says how the whole is doing. An unreachable database is part of the answer, not an error.
func (s server) GetSystemStatus(ctx context.Context, _ *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error) {
	answer := &statusv1.GetSystemStatusResponse{Version: s.service.cfg.Version}
	// A database that hangs is as unreachable as one that refuses.
	look, cancel := context.WithTimeout(ctx, systemLook)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { answer.Load = s.service.load(look) })
	defer asking.Wait()
	sys, err := s.service.db.System(look)
	if errs.Is(err, errs.DatabaseAway) || err != nil && look.Err() != nil && ctx.Err() == nil {
		return answer, nil
	}
	if err != nil {
		return nil, err
	}
	answer.DatabaseConnected, answer.SchedulerLeads, answer.Epoch = true, sys.Leads, sys.Epoch
	answer.Executors, answer.Live = sys.Executors, stateCounts(sys.Live)
	return answer, nil
}

// load is how much there is to do, as the leader says; nil if none answers.
func (s *Service) load(ctx context.Context) *schedulerv1.GetLoadResponse {
	ctx, cancel := context.WithTimeout(ctx, loadLook)
	defer cancel()
	load, err := s.scheduler.GetLoad(ctx, &schedulerv1.GetLoadRequest{})
	if err != nil {
		s.log.DebugContext(ctx, "no scheduler says how much there is to do", slog.Any("error", err))
		return nil
	}
	return load
}

// end is the end of a text, at most limit bytes of whole characters.
func end(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	text = text[len(text)-limit:]
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return text
}

func onWire(tasks []*task.Task) []*taskv1.Task {
	out := make([]*taskv1.Task, len(tasks))
	for i, t := range tasks {
		out[i] = wire.Task(t)
	}
	return out
}

func reportsOf(tasks []*task.Task, reports map[string]*Report) map[string]*statusv1.TaskReport {
	out := make(map[string]*statusv1.TaskReport, len(reports))
	for _, t := range tasks {
		if r := reports[t.ID]; r != nil {
			out[t.ID] = r.onWire(t)
		}
	}
	return out
}

func stateCounts(counts map[task.State]int64) []*statusv1.StateCount {
	out := make([]*statusv1.StateCount, 0, len(counts))
	for _, state := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, &statusv1.StateCount{State: wire.State(state), Count: counts[state]})
	}
	return out
}
