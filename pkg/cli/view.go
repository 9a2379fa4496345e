package cli

import (
	"encoding/json"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// The views below are what `--output json` prints. Programs rely on them: fields are added, never renamed or removed. What is
// not there is null; lists and maps are never null.

// stamp prints as RFC 3339 in UTC with microseconds, the precision of the database.
type stamp time.Time

// MarshalJSON implements json.Marshaler.
func (s stamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(s).UTC().Format(`"2006-01-02T15:04:05.000000Z07:00"`)), nil
}

func stampOf(t *time.Time) *stamp {
	if t == nil {
		return nil
	}
	made := stamp(*t)
	return &made
}

// taskView is one task, in all commands.
type taskView struct {
	ID                 string            `json:"id"`
	Seq                int64             `json:"seq"`
	Name               string            `json:"name"`
	State              task.State        `json:"state"`
	Domain             string            `json:"domain"`
	ExclusiveResources []string          `json:"exclusive_resources"`
	SharedResources    []string          `json:"shared_resources"`
	Immediate          bool              `json:"immediate"`
	Deferred           bool              `json:"deferred"`
	Versions           map[string]string `json:"versions"`
	ParentID           *string           `json:"parent_id"`
	GroupID            *string           `json:"group_id"`
	CorrelationID      *string           `json:"correlation_id"`
	CreatedAt          stamp             `json:"created_at"`
	UpdatedAt          stamp             `json:"updated_at"`
	UnblockedAt        *stamp            `json:"unblocked_at"`
	StartedAt          *stamp            `json:"started_at"`
	FinishedAt         *stamp            `json:"finished_at"`
	Executor           *string           `json:"executor"`
	Attempt            int               `json:"attempt"`
	Claim              int64             `json:"claim"`
	Result             json.RawMessage   `json:"result"`
	Error              *errorView        `json:"error"`
	TimeoutSeconds     *float64          `json:"timeout_seconds"`
	Retry              *retryView        `json:"retry"`
	RetryAt            *stamp            `json:"retry_at"`
	ProfileOptions     []string          `json:"profile_options"`
	FileIDs            []string          `json:"file_ids"`
}

// retryView says which failures are retried; an empty `on` means all.
type retryView struct {
	MaxAttempts       int      `json:"max_attempts"`
	BackoffSeconds    float64  `json:"backoff_seconds"`
	MaxBackoffSeconds float64  `json:"max_backoff_seconds"`
	On                []string `json:"on"`
}

// errorView says why a task did not complete.
type errorView struct {
	Description *string `json:"description"`
	Traceback   *string `json:"traceback"`
	Reason      *string `json:"reason"`
	Code        *string `json:"code"`
}

// shownTaskView is what `task show` and `task watch` print.
type shownTaskView struct {
	taskView
	ChildIDs         []string       `json:"child_ids"`
	Progress         []progressView `json:"progress"`
	CreatedResources []createdView  `json:"created_resources"`
	Attempts         []attemptView  `json:"attempts"`
}

// progressView is how far one part of a task's work is.
type progressView struct {
	Code    string     `json:"code"`
	Message *string    `json:"message"`
	State   task.State `json:"state"`
	Total   *int64     `json:"total"`
	Done    int64      `json:"done"`
	Suffix  *string    `json:"suffix"`
}

func viewProgress(p client.Progress) progressView {
	return progressView{Code: p.Code, Message: text(p.Message), State: p.State, Total: p.Total, Done: p.Done, Suffix: text(p.Suffix)}
}

type createdView struct {
	Resource   string `json:"resource"`
	Incomplete bool   `json:"incomplete"`
}

// attemptView is one that failed and was retried.
type attemptView struct {
	Attempt   int        `json:"attempt"`
	Claim     int64      `json:"claim"`
	Executor  string     `json:"executor"`
	StartedAt stamp      `json:"started_at"`
	EndedAt   stamp      `json:"ended_at"`
	Error     *errorView `json:"error"`
}

func viewTask(t client.Task) taskView {
	view := taskView{
		ID:                 t.ID,
		Seq:                t.Seq,
		Name:               t.Name,
		State:              t.State,
		Domain:             t.Domain,
		ExclusiveResources: list(t.Exclusive),
		SharedResources:    list(t.Shared),
		Immediate:          t.Immediate,
		Deferred:           t.Deferred,
		Versions:           dict(t.Versions),
		ParentID:           text(t.ParentID),
		GroupID:            text(t.GroupID),
		CorrelationID:      text(t.CorrelationID),
		CreatedAt:          stamp(t.CreatedAt),
		UpdatedAt:          stamp(t.UpdatedAt),
		UnblockedAt:        stampOf(t.UnblockedAt),
		StartedAt:          stampOf(t.StartedAt),
		FinishedAt:         stampOf(t.FinishedAt),
		Executor:           text(t.Executor),
		Attempt:            t.Attempt,
		Claim:              t.Claim,
		Result:             t.Result,
		Error:              viewError(t.Error),
		RetryAt:            stampOf(t.RetryAt),
		ProfileOptions:     list(t.ProfileOptions),
		FileIDs:            list(t.Files),
	}
	if t.Timeout > 0 {
		limit := t.Timeout.Seconds()
		view.TimeoutSeconds = &limit
	}
	if r := t.Retry; r != nil {
		view.Retry = &retryView{
			MaxAttempts: r.MaxAttempts, BackoffSeconds: max(0, r.Backoff).Seconds(), MaxBackoffSeconds: max(0, r.MaxBackoff).Seconds(), On: list(r.On),
		}
	}
	return view
}

func viewError(e *task.Error) *errorView {
	if e == nil {
		return nil
	}
	return &errorView{Description: text(e.Description), Traceback: text(e.Traceback), Reason: text(e.Reason), Code: text(e.Code)}
}

func viewTasks(tasks []client.Task) []taskView { return views(tasks, viewTask) }

func viewTaskWithChildren(t client.Task, children []string) shownTaskView {
	return shownTaskView{
		taskView: viewTask(t),
		ChildIDs: list(children),
		Progress: views(t.Progress, viewProgress),
		CreatedResources: views(t.Created, func(c client.Created) createdView {
			return createdView{Resource: c.Resource, Incomplete: c.Incomplete}
		}),
		Attempts: views(t.Attempts, func(a client.Attempt) attemptView {
			return attemptView{
				Attempt: a.Number, Claim: a.Claim, Executor: a.Executor, StartedAt: stamp(a.StartedAt), EndedAt: stamp(a.EndedAt), Error: viewError(a.Error),
			}
		}),
	}
}

// deletedView is one element of what `task delete` and `file delete` print.
type deletedView struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}

// logView is what `task logs` prints.
type logView struct {
	ID        string `json:"id"`
	Text      string `json:"text"`
	Truncated bool   `json:"truncated"`
}

// workerView is one element of what `worker list` prints.
type workerView struct {
	Name           string            `json:"name"`
	Incarnation    string            `json:"incarnation"`
	Online         bool              `json:"online"`
	Missing        bool              `json:"missing"`
	RegisteredAt   stamp             `json:"registered_at"`
	LastBeatAt     stamp             `json:"last_beat_at"`
	TTLSeconds     float64           `json:"ttl_seconds"`
	DeafSince      *stamp            `json:"deaf_since"`
	Versions       map[string]string `json:"versions"`
	RunningTaskIDs []string          `json:"running_task_ids"`
}

func viewWorker(w client.Worker) workerView {
	return workerView{
		Name:           w.Name,
		Incarnation:    w.Incarnation,
		Online:         w.Online,
		Missing:        w.Missing,
		RegisteredAt:   stamp(w.RegisteredAt),
		LastBeatAt:     stamp(w.LastBeatAt),
		TTLSeconds:     w.TTL.Seconds(),
		DeafSince:      stampOf(w.DeafSince),
		Versions:       dict(w.Versions),
		RunningTaskIDs: list(w.Running),
	}
}

// statsView is one element of what `stats` prints. Times are in seconds.
type statsView struct {
	Name        string          `json:"name"`
	Domain      string          `json:"domain"`
	Finished    int64           `json:"finished"`
	Completed   int64           `json:"completed"`
	Failed      int64           `json:"failed"`
	Canceled    int64           `json:"canceled"`
	FailureRate float64         `json:"failure_rate"`
	Unblock     percentilesView `json:"unblock_seconds"`
	Start       percentilesView `json:"start_seconds"`
	Run         percentilesView `json:"run_seconds"`
}

type percentilesView struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func viewStats(n client.NameStats) statsView {
	percentiles := func(p client.Percentiles) percentilesView {
		return percentilesView{Count: p.Count, P50: p.P50.Seconds(), P95: p.P95.Seconds(), P99: p.P99.Seconds(), Max: p.Max.Seconds()}
	}
	return statsView{
		Name: n.Name, Domain: n.Domain, Finished: n.Finished, Completed: n.Completed, Failed: n.Failed, Canceled: n.Canceled,
		FailureRate: n.FailureRate, Unblock: percentiles(n.Unblock), Start: percentiles(n.Start), Run: percentiles(n.Run),
	}
}

// statusView is what `status` prints. tasks counts those that are not final.
type statusView struct {
	Version           string       `json:"version"`
	DatabaseConnected bool         `json:"database_connected"`
	SchedulerLeads    bool         `json:"scheduler_leads"`
	Epoch             int64        `json:"epoch"`
	Executors         int          `json:"executors"`
	Tasks             liveTaskView `json:"tasks"`
}

type liveTaskView struct {
	Waiting   int64 `json:"waiting"`
	Running   int64 `json:"running"`
	Canceling int64 `json:"canceling"`
}

func viewStatus(s client.Status) statusView {
	return statusView{
		Version:           s.Version,
		DatabaseConnected: s.DatabaseConnected,
		SchedulerLeads:    s.SchedulerLeads,
		Epoch:             s.Epoch,
		Executors:         s.Executors,
		Tasks:             liveTaskView{Waiting: s.Live[task.Waiting], Running: s.Live[task.Running], Canceling: s.Live[task.Canceling]},
	}
}

// versionView is what `version` prints.
type versionView struct {
	Version  string  `json:"version"`
	Commit   *string `json:"commit"`
	Modified bool    `json:"modified"`
	Go       string  `json:"go"`
	Platform string  `json:"platform"`
}

func views[T, V any](from []T, view func(T) V) []V {
	made := make([]V, len(from))
	for i, t := range from {
		made[i] = view(t)
	}
	return made
}

// list and dict print what is empty as [] and {}.
func list(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

func dict(pairs map[string]string) map[string]string {
	if pairs == nil {
		return map[string]string{}
	}
	return pairs
}

// text prints what is empty as null.
func text(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}
