package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// GroupCmd looks after task groups.
type GroupCmd struct {
	Create GroupCreateCmd `cmd:"" help:"Make a task group that tasks can join."`
	List   GroupListCmd   `cmd:"" help:"List task groups, the newest first."`
	Show   GroupShowCmd   `cmd:"" help:"Show one task group: how many members are in which state, and how far its work is."`
	Cancel GroupCancelCmd `cmd:"" help:"Stop all members of task groups."`
}

// groupView is one task group. Every state is named.
type groupView struct {
	ID          string               `json:"id"`
	Description string               `json:"description"`
	CreatedAt   stamp                `json:"created_at"`
	Tasks       map[task.State]int64 `json:"tasks"`
	Progress    []groupProgressView  `json:"progress"`
}

type groupProgressView struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Total   int64  `json:"total"`
	Done    int64  `json:"done"`
	Suffix  string `json:"suffix"`
}

func viewGroup(g client.Group) groupView {
	view := groupView{
		ID: g.ID, Description: g.Description, CreatedAt: stamp(g.CreatedAt), Tasks: map[task.State]int64{}, Progress: []groupProgressView{},
	}
	for _, state := range task.States() {
		view.Tasks[state] = g.Counts[state]
	}
	for _, p := range g.Progress {
		view.Progress = append(view.Progress, groupProgressView(p))
	}
	return view
}

// canceledGroupView is what a cancel of a group reached.
type canceledGroupView struct {
	ID        string `json:"id"`
	Canceled  int64  `json:"canceled"`
	Canceling int64  `json:"canceling"`
}

// GroupCreateCmd makes a group.
type GroupCreateCmd struct {
	Description string `arg:"" optional:"" help:"What it is for."`
	Connection
}

// Help is the longer explanation.
func (*GroupCreateCmd) Help() string {
	return `Prints the id of the new group. Tasks join it when they are dispatched.

    sluice group create 'nightly sync'
    sluice dispatch test.noop --group $(sluice group create)`
}

// Run makes the group.
func (c *GroupCreateCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		id, err := s.CreateGroup(ctx, c.Description)
		if err != nil {
			return err
		}
		if !s.json {
			s.printf("%s\n", id)
			return nil
		}
		g, err := s.Group(ctx, id)
		if err != nil {
			return err
		}
		return s.printJSON(viewGroup(g))
	})
}

// GroupListCmd lists groups.
type GroupListCmd struct {
	Limit int `default:"50" placeholder:"N" help:"At most this many (${default})."`
	Connection
}

// Help is the longer explanation.
func (*GroupListCmd) Help() string {
	return `With --output json: an array of groups, with the progress of each.

    sluice group list --limit 5`
}

// Run prints the list.
func (c *GroupListCmd) Run(ctx context.Context, env *Environment) error {
	if c.Limit < 1 {
		return usage("--limit: must be at least 1, is %d", c.Limit)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		var groups []client.Group
		for g, err := range s.Groups(ctx, c.Limit) {
			if err != nil {
				return err
			}
			groups = append(groups, g)
		}
		switch {
		case s.json:
			return s.printJSON(views(groups, viewGroup))
		case len(groups) == 0:
			s.note("there are no task groups")
			return nil
		}
		rows := [][]string{{"ID", "AGE", "TASKS", "DESCRIPTION"}}
		for _, g := range groups {
			rows = append(rows, []string{g.ID, s.since(g.CreatedAt), counts(g.Counts), g.Description})
		}
		s.printTable(rows)
		if len(groups) == c.Limit {
			s.note("there may be more; --limit asks for them")
		}
		return nil
	})
}

// GroupShowCmd shows one group.
type GroupShowCmd struct {
	ID string `arg:"" help:"Id of the group."`
	Connection
}

// Help is the longer explanation.
func (*GroupShowCmd) Help() string {
	return `Its members are listed by "sluice task list --group". With --output json: one group.

    sluice group show 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints the group.
func (c *GroupShowCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		g, err := s.Group(ctx, c.ID)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewGroup(g))
		}
		rows := [][]string{{"Group", g.ID}}
		if g.Description != "" {
			rows = append(rows, []string{"Description", g.Description})
		}
		rows = append(rows, []string{"Created", fmt.Sprintf("%s  (%s ago)", g.CreatedAt.In(s.Now().Location()).Format(time.DateTime), s.since(g.CreatedAt))},
			[]string{"Tasks", counts(g.Counts)})
		for _, p := range g.Progress {
			rows = append(rows, []string{"Progress", groupProgressWords(p)})
		}
		once(rows)
		s.printTable(rows)
		return nil
	})
}

func groupProgressWords(p client.GroupProgress) string {
	words := p.Message
	if words == "" {
		words = p.Code
	}
	words += fmt.Sprintf(": %d of %d", p.Done, p.Total)
	if p.Suffix != "" {
		words += " " + p.Suffix
	}
	return words
}

// GroupCancelCmd stops all members of groups.
type GroupCancelCmd struct {
	ID []string `arg:"" help:"Ids of the groups."`
	Connection
}

// Help is the longer explanation.
func (*GroupCancelCmd) Help() string {
	return `Members that never started are canceled at once. Those that run are asked to stop and are "canceling" until they have. Members that have ended stay as they are, and tasks that join later are not affected.

    sluice group cancel 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run cancels one after the other; a failure does not spare the others.
func (c *GroupCancelCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return each(ctx, s, c.Addr, c.ID, func(id string) (canceledGroupView, string, error) {
			canceled, canceling, err := s.CancelGroup(ctx, id)
			return canceledGroupView{ID: id, Canceled: canceled, Canceling: canceling},
				fmt.Sprintf("%s %d canceled, %d canceling", id, canceled, canceling), err
		})
	})
}
