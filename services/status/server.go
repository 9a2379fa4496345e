package status

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
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

// systemLook is how long the database may take to say how the whole is doing.
const systemLook = 3 * time.Second

// resultsShown is how many bytes of results and errors an answer to a wait may have in full.
const resultsShown = 4 << 20

// WatchTask streams one task.
func (s server) WatchTask(req *statusv1.WatchTaskRequest, stream grpc.ServerStreamingServer[statusv1.WatchTaskResponse]) error {
	return s.service.watch(stream.Context(), req.GetTaskId(), func(t *task.Task) error {
		return stream.Send(&statusv1.WatchTaskResponse{Task: wire.Task(t)})
	})
}

// GetTaskLog returns a task's log.
func (s server) GetTaskLog(ctx context.Context, req *statusv1.GetTaskLogRequest) (*statusv1.GetTaskLogResponse, error) {
	l, err := s.service.db.Log(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &statusv1.GetTaskLogResponse{Text: l.Text, Truncated: l.Truncated}, nil
}

// PutTaskLog stores a task's log.
func (s server) PutTaskLog(ctx context.Context, req *statusv1.PutTaskLogRequest) (*statusv1.PutTaskLogResponse, error) {
	// Text columns can't hold the zero character, which processes do write.
	text := strings.ReplaceAll(req.GetText(), "\x00", "\uFFFD")
	tail := end(text, limits.MaxLog)
	log := Log{Text: tail, Truncated: req.GetTruncated() || tail != text}
	if err := s.service.db.PutLog(ctx, req.GetTaskId(), req.GetClaim(), log); err != nil {
		return nil, err
	}
	return &statusv1.PutTaskLogResponse{}, nil
}

// GetStats returns how tasks fared.
func (s server) GetStats(ctx context.Context, req *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error) {
	since := limits.DefaultSince
	if req.GetSince() != nil {
		since = req.GetSince().AsDuration()
	}
	stats, err := s.service.db.Stats(ctx, req.GetName(), since)
	if err != nil {
		return nil, err
	}
	answer := &statusv1.GetStatsResponse{}
	for _, n := range stats {
		answer.Names = append(answer.Names, &statusv1.NameStats{
			Name: n.Name, Finished: n.Finished, Failed: n.Failed, Canceled: n.Canceled,
			Unblock: percentiles(n.Unblock), Start: percentiles(n.Start), Run: percentiles(n.Run),
		})
	}
	return answer, nil
}

// GetSystemStatus says how the whole is doing. An unreachable database is part of the answer, not an error.
func (s server) GetSystemStatus(ctx context.Context, _ *statusv1.GetSystemStatusRequest) (*statusv1.GetSystemStatusResponse, error) {
	answer := &statusv1.GetSystemStatusResponse{Version: s.service.cfg.Version}
	// A database that hangs is as unreachable as one that refuses.
	look, cancel := context.WithTimeout(ctx, systemLook)
	defer cancel()
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

func percentiles(values []float64) *statusv1.Percentiles {
	if len(values) != 4 {
		return nil
	}
	return &statusv1.Percentiles{P50: values[0], P95: values[1], P99: values[2], Max: values[3]}
}
