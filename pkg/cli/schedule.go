package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// ScheduleCmd looks after schedules.
type ScheduleCmd struct {
	Create ScheduleCreateCmd `cmd:"" help:"Have a task dispatched again and again, or once, at a time of its own."`
	List   ScheduleListCmd   `cmd:"" help:"List schedules, by name."`
	Show   ScheduleShowCmd   `cmd:"" help:"Show one schedule with its task."`
	Delete ScheduleDeleteCmd `cmd:"" help:"Delete schedules."`
}

// scheduleView is a schedule in a list.
type scheduleView struct {
	ID              string   `json:"id"`
	Name            string   `json:"name"`
	TaskName        string   `json:"task_name"`
	IntervalSeconds *float64 `json:"interval_seconds"`
	NextDispatch    *stamp   `json:"next_dispatch"`
	LastTaskID      *string  `json:"last_task_id"`
	CreatedAt       stamp    `json:"created_at"`
	UpdatedAt       stamp    `json:"updated_at"`
}

// shownScheduleView is what `schedule show` and `schedule create` print.
type shownScheduleView struct {
	scheduleView
	Task scheduledTaskView `json:"task"`
}

type scheduledTaskView struct {
	Name               string            `json:"name"`
	Args               json.RawMessage   `json:"args"`
	Kwargs             json.RawMessage   `json:"kwargs"`
	ExclusiveResources []string          `json:"exclusive_resources"`
	SharedResources    []string          `json:"shared_resources"`
	Versions           map[string]string `json:"versions"`
	CorrelationID      *string           `json:"correlation_id"`
	TimeoutSeconds     *float64          `json:"timeout_seconds"`
	Retry              *retryView        `json:"retry"`
	ProfileOptions     []string          `json:"profile_options"`
}

func viewSchedule(s client.Schedule) scheduleView {
	view := scheduleView{
		ID: s.ID, Name: s.Name, TaskName: s.Task.Name, NextDispatch: stampOf(s.Next), LastTaskID: text(s.LastTaskID),
		CreatedAt: stamp(s.CreatedAt), UpdatedAt: stamp(s.UpdatedAt),
	}
	if s.Interval > 0 {
		every := s.Interval.Seconds()
		view.IntervalSeconds = &every
	}
	return view
}

func viewScheduleWithTask(s client.Schedule) shownScheduleView {
	// A task's view knows how these are shown.
	t := viewTask(client.Task{
		Name: s.Task.Name, Exclusive: s.Task.Exclusive, Shared: s.Task.Shared, Versions: s.Task.Versions, CorrelationID: s.Task.CorrelationID,
		Timeout: s.Task.Timeout, Retry: s.Task.Retry, ProfileOptions: s.Task.ProfileOptions,
	})
	args, _ := s.Task.Args.(json.RawMessage)
	kwargs, _ := s.Task.Kwargs.(json.RawMessage)
	return shownScheduleView{scheduleView: viewSchedule(s), Task: scheduledTaskView{
		Name: t.Name, Args: args, Kwargs: kwargs, ExclusiveResources: t.ExclusiveResources, SharedResources: t.SharedResources,
		Versions: t.Versions, CorrelationID: t.CorrelationID, TimeoutSeconds: t.TimeoutSeconds, Retry: t.Retry, ProfileOptions: t.ProfileOptions,
	}}
}

// ScheduleCreateCmd makes a schedule.
type ScheduleCreateCmd struct {
	Name string `arg:"" help:"What to call the schedule; unique."`
	Task string `arg:"" help:"What to run, for example command.run."`

	Every *time.Duration `placeholder:"DURATION" env:"-" help:"The time from one dispatch to the next, at least 1s, for example 15m or 24h. Default: it is dispatched once."`
	At    string         `placeholder:"TIME|DURATION" env:"-" help:"When it is dispatched first: a time such as 2026-03-01T00:00:00Z, or in how long, such as 90s. Default: at once."`

	Args            string         `placeholder:"JSON" help:"Positional arguments, a JSON array. @FILE reads a file, @- standard input."`
	Kwargs          string         `placeholder:"JSON" help:"Named arguments, a JSON object. @FILE reads a file, @- standard input."`
	Exclusive       []string       `sep:"none" placeholder:"RESOURCE" help:"A resource that the task changes. Give the flag again for another."`
	Shared          []string       `sep:"none" placeholder:"RESOURCE" help:"A resource that the task reads. Give the flag again for another."`
	Need            []string       `sep:"none" placeholder:"COMPONENT=VERSION" help:"Run only where the component has at least this version. Give the flag again for another."`
	CorrelationID   string         `placeholder:"TEXT" help:"The same for all tasks of the schedule. Default: each has its own."`
	Timeout         *time.Duration `placeholder:"DURATION" env:"-" help:"Let the task fail when one attempt takes longer, for example 90s or 5m."`
	Retry           *int32         `placeholder:"N" help:"When it fails, start it again, up to N times in all."`
	RetryBackoff    *time.Duration `placeholder:"DURATION" help:"With --retry: pause before the second attempt (1s), doubled before each one after it."`
	RetryMaxBackoff *time.Duration `placeholder:"DURATION" help:"With --retry: the longest pause (1m)."`
	RetryOn         []string       `sep:"none" placeholder:"CODE" help:"With --retry: only failures with this code, for example TIMEOUT. Give the flag again for another."`
	Profile         []string       `sep:"none" placeholder:"NAME" help:"Diagnostics to be made while it runs, as the task knows them. Give the flag again for another."`

	Connection
}

// Help is the longer explanation.
func (*ScheduleCreateCmd) Help() string {
	return `Prints the id of the schedule. The task is dispatched once for each time that it is due, by whichever scheduler leads. When the task of the time before has not ended by then, it waits for that; times that pass meanwhile are left out.

    sluice schedule create tidy command.run --kwargs '{"argv": ["/opt/tidy"]}' --every 1h
    sluice schedule create purge sluice.purge_tasks --kwargs '{"states": ["completed", "failed"]}' --every 24h --at 2026-03-01T02:00:00Z`
}

// Run makes the schedule.
func (c *ScheduleCreateCmd) Run(ctx context.Context, env *Environment) error {
	asked, err := c.schedule(env)
	if err != nil {
		return err
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		made, err := s.CreateSchedule(ctx, asked)
		switch {
		case cutOff(ctx, err):
			return refuse("interrupted; whether the schedule was made is not known, `sluice schedule list` shows it if it was")
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewScheduleWithTask(made))
		}
		s.printf("%s\n", made.ID)
		return nil
	})
}

func (c *ScheduleCreateCmd) schedule(env *Environment) (client.Schedule, error) {
	dispatch := DispatchCmd{
		Name: c.Task, Args: c.Args, Kwargs: c.Kwargs, Exclusive: c.Exclusive, Shared: c.Shared, Need: c.Need, CorrelationID: c.CorrelationID,
		Timeout: c.Timeout, Retry: c.Retry, RetryBackoff: c.RetryBackoff, RetryMaxBackoff: c.RetryMaxBackoff, RetryOn: c.RetryOn, Profile: c.Profile,
	}
	made := client.Schedule{Name: c.Name}
	var err error
	if made.Task, err = dispatch.spec(env); err != nil {
		return made, err
	}
	if c.Every != nil {
		if made.Interval = *c.Every; made.Interval <= 0 {
			return made, usage("--every: must be more than 0s, is %s", made.Interval)
		}
	}
	made.Next, err = first(env.Now(), c.At)
	return made, err
}

// first reads when a schedule is due first; nil is at once.
func first(now time.Time, at string) (*time.Time, error) {
	if at == "" {
		return nil, nil //nolint:nilnil // at once
	}
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		in, err := time.ParseDuration(at)
		if err != nil || in < 0 {
			return nil, usage("--at: must be a time such as 2026-03-01T00:00:00Z, or a duration such as 90s, is %q", at)
		}
		when = now.Add(in)
	}
	return &when, nil
}

// ScheduleListCmd lists schedules.
type ScheduleListCmd struct{ Connection }

// Help is the longer explanation.
func (*ScheduleListCmd) Help() string {
	return `Times are local. With --output json: an array of schedules, without the arguments of their tasks.

    sluice schedule list`
}

// Run prints the list.
func (c *ScheduleListCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		all, err := s.Schedules(ctx)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(all, viewSchedule))
		case len(all) == 0:
			s.note("there are no schedules")
			return nil
		}
		rows := [][]string{{"ID", "NAME", "TASK", "EVERY", "NEXT"}}
		for _, one := range all {
			rows = append(rows, []string{one.ID, one.Name, one.Task.Name, everyWords(one), s.nextWords(one)})
		}
		s.printTable(rows)
		return nil
	})
}

func everyWords(s client.Schedule) string {
	if s.Interval == 0 {
		return "once"
	}
	words := s.Interval.String()
	if strings.HasSuffix(words, "m0s") {
		words = strings.TrimSuffix(words, "0s")
	}
	if strings.HasSuffix(words, "h0m") {
		words = strings.TrimSuffix(words, "0m")
	}
	return words
}

func (e *Environment) nextWords(s client.Schedule) string {
	switch {
	case s.Next == nil:
		return "never"
	case !s.Next.After(e.Now()):
		return "now" // or when its last task has ended
	default:
		return s.Next.In(e.Now().Location()).Format(time.DateTime)
	}
}

// ScheduleShowCmd shows one schedule.
type ScheduleShowCmd struct {
	ID string `arg:"" help:"Id of the schedule."`
	Connection
}

// Help is the longer explanation.
func (*ScheduleShowCmd) Help() string {
	return `Times are local. With --output json: one schedule with its task.

    sluice schedule show 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run prints the schedule.
func (c *ScheduleShowCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		one, err := s.Schedule(ctx, c.ID)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewScheduleWithTask(one))
		}
		s.printSchedule(one)
		return nil
	})
}

func (s *session) printSchedule(one client.Schedule) {
	rows := [][]string{{"Schedule", one.ID}, {"Name", one.Name}, {"Every", everyWords(one)}, {"Next", s.nextWords(one)}}
	add := func(label string, values ...string) {
		for _, value := range values {
			if value != "" {
				rows = append(rows, []string{label, value})
			}
		}
	}
	add("Last task", one.LastTaskID)
	created := one.CreatedAt.In(s.Now().Location()).Format(time.DateTime)
	add("Created", fmt.Sprintf("%s  (%s ago)", created, s.since(one.CreatedAt)))
	t := one.Task
	add("Task", t.Name)
	add("Exclusive", t.Exclusive...)
	add("Shared", t.Shared...)
	for _, component := range slices.Sorted(maps.Keys(t.Versions)) {
		add("Needs", component+" "+t.Versions[component]+" or newer")
	}
	if t.Timeout > 0 {
		add("Timeout", t.Timeout.String())
	}
	if t.Retry != nil {
		add("Retry", fmt.Sprintf("%d attempts, %s", t.Retry.MaxAttempts, retryWords(t.Retry)))
	}
	add("Diagnostics", t.ProfileOptions...)
	add("Correlation", t.CorrelationID)
	once(rows)
	s.printTable(rows)
	for _, part := range []struct {
		heading string
		value   any
	}{{"Args", t.Args}, {"Kwargs", t.Kwargs}} {
		if text, _ := part.value.(json.RawMessage); len(text) > 2 { // neither [] nor {}
			s.printf("\n%s\n%s\n", part.heading, indent(pretty(text)))
		}
	}
}

// ScheduleDeleteCmd removes schedules.
type ScheduleDeleteCmd struct {
	ID []string `arg:"" help:"Ids of the schedules."`
	Connection
}

// Help is the longer explanation.
func (*ScheduleDeleteCmd) Help() string {
	return `Nothing more is dispatched for them. Tasks that were dispatched stay, and go on.

    sluice schedule delete 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run deletes one after the other; a failure does not spare the others.
func (c *ScheduleDeleteCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return deleteEach(ctx, s, c.Addr, c.ID, s.DeleteSchedule)
	})
}
