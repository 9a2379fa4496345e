package cli

import (
	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// explanationView is what `task explain` prints.
type explanationView struct {
	ID                    string             `json:"id"`
	Name                  string             `json:"name"`
	State                 task.State         `json:"state"`
	Live                  bool               `json:"live"`
	Summary               string             `json:"summary"`
	Unblocked             bool               `json:"unblocked"`
	CreatedAt             stamp              `json:"created_at"`
	UnblockedAt           *stamp             `json:"unblocked_at"`
	StartedAt             *stamp             `json:"started_at"`
	FinishedAt            *stamp             `json:"finished_at"`
	Attempt               int                `json:"attempt"`
	Waits                 []resourceWaitView `json:"waits"`
	Chain                 []blockerView      `json:"chain"`
	ExecutorsWithName     int                `json:"executors_with_name"`
	ExecutorsWithVersions int                `json:"executors_with_versions"`
	FreeSlots             int                `json:"free_slots"`
	Nearest               []nearView         `json:"nearest"`
	ReadyAhead            int64              `json:"ready_ahead"`
	EstimateSeconds       *float64           `json:"estimate_seconds"`
	RetryAt               *stamp             `json:"retry_at"`
	Executor              *string            `json:"executor"`
	LastBeatAt            *stamp             `json:"last_beat_at"`
	Progress              []progressView     `json:"progress"`
	ProgressAt            *stamp             `json:"progress_at"`
}

type resourceWaitView struct {
	Resource     string            `json:"resource"`
	Exclusive    bool              `json:"exclusive"`
	Holders      []resourceUseView `json:"holders"`
	HolderCount  int64             `json:"holder_count"`
	Ahead        int64             `json:"ahead"`
	AheadAtLeast bool              `json:"ahead_at_least"`
	WaitingAhead []resourceUseView `json:"waiting_ahead"`
}

// blockerView is one element of who waits for whom.
type blockerView struct {
	Resource string          `json:"resource"`
	Task     resourceUseView `json:"task"`
	Standing string          `json:"standing"`
}

// nearView is an executor that lacks a version.
type nearView struct {
	Executor string    `json:"executor"`
	Gaps     []gapView `json:"gaps"`
}

type gapView struct {
	Component string  `json:"component"`
	Wanted    string  `json:"wanted"`
	Has       *string `json:"has"`
}

// resourceUseView is one task in the queue of a resource; `granted` says that it holds it.
type resourceUseView struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Exclusive bool       `json:"exclusive"`
	Granted   bool       `json:"granted"`
	CreatedAt stamp      `json:"created_at"`
	Since     stamp      `json:"since"`
	State     task.State `json:"state"`
	Executor  *string    `json:"executor"`
}

func viewExplanation(id string, e client.Explanation) explanationView {
	view := explanationView{
		ID: id, Name: e.Name, State: e.State, Live: e.Live, Summary: e.Summary, Unblocked: e.Unblocked,
		CreatedAt: stamp(e.CreatedAt), UnblockedAt: stampOf(e.UnblockedAt), StartedAt: stampOf(e.StartedAt), FinishedAt: stampOf(e.FinishedAt),
		Attempt: e.Attempt,
		Waits: views(e.Waits, func(w client.ResourceWait) resourceWaitView {
			return resourceWaitView{
				Resource: w.Resource, Exclusive: w.Exclusive, Holders: views(w.Holders, viewUse), HolderCount: w.HolderCount,
				Ahead: w.Ahead, AheadAtLeast: w.AheadAtLeast, WaitingAhead: views(w.WaitingAhead, viewUse),
			}
		}),
		Chain: views(e.Chain, func(b client.BlockerLink) blockerView {
			return blockerView{Resource: b.Resource, Task: viewUse(b.Task), Standing: b.Standing}
		}),
		ExecutorsWithName:     e.ExecutorsWithName,
		ExecutorsWithVersions: e.ExecutorsWithVersions,
		FreeSlots:             e.FreeSlots,
		Nearest: views(e.Nearest, func(n client.NearExecutor) nearView {
			return nearView{Executor: n.Executor, Gaps: views(n.Gaps, func(g client.VersionGap) gapView {
				return gapView{Component: g.Component, Wanted: g.Wanted, Has: text(g.Has)}
			})}
		}),
		ReadyAhead: e.ReadyAhead,
		RetryAt:    stampOf(e.RetryAt),
		Executor:   text(e.Executor), LastBeatAt: stampOf(e.LastBeatAt),
		Progress: views(e.Progress, viewProgress), ProgressAt: stampOf(e.ProgressAt),
	}
	if e.Estimate != nil {
		left := e.Estimate.Seconds()
		view.EstimateSeconds = &left
	}
	return view
}

func viewUse(u client.ResourceUse) resourceUseView {
	return resourceUseView{
		ID: u.TaskID, Name: u.Name, Exclusive: u.Exclusive, Granted: u.Granted, CreatedAt: stamp(u.CreatedAt), Since: stamp(u.Since),
		State: u.State, Executor: text(u.Executor),
	}
}

// resourceView is one element of what `resource list` prints.
type resourceView struct {
	Name         string `json:"name"`
	Exclusive    bool   `json:"exclusive"`
	Holders      int64  `json:"holders"`
	Waiting      int64  `json:"waiting"`
	HeldSince    *stamp `json:"held_since"`
	WaitingSince *stamp `json:"waiting_since"`
}

// shownResourceView is what `resource show` prints.
type shownResourceView struct {
	resourceView
	Queue []resourceUseView `json:"queue"`
}

func viewResource(r client.Resource) resourceView {
	return resourceView{
		Name: r.Name, Exclusive: r.Exclusive, Holders: r.Holders, Waiting: r.Waiting,
		HeldSince: stampOf(r.HeldSince), WaitingSince: stampOf(r.WaitingSince),
	}
}
