package cli

import (
	"bytes"
	"context"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// topic is something that top asks about.
type topic int

const (
	aboutStatus topic = iota
	aboutLoad
	aboutMinute
	aboutCrew
	aboutWaiting
	aboutResources
	// topics are asked about all the time; what follows only while it is shown.
	topics
	aboutSubject
	aboutCancel
)

// Limits of what is shown.
const (
	topTasks     = 200
	topResources = 100
	// topPatience is how long an answer may take.
	topPatience = 10 * time.Second
)

// every is how long after an answer the next one is asked for.
func (t topic) every() time.Duration {
	switch t {
	case aboutStatus, aboutMinute:
		return 5 * time.Second
	case aboutWaiting:
		return 2 * time.Second
	default:
		return time.Second
	}
}

// pause is how long not to ask after an answer that took so long. Of several answers the database has to count all tasks that are not
// final: whoever looks at a system that is in trouble must not be the load that it breaks under.
func (t topic) pause(took time.Duration) time.Duration { return max(t.every(), 10*took) }

// subject is what the user looks at more closely: a task, or a resource with its queue. At most one of them is set.
type subject struct{ task, resource string }

// topAnswer is an answer to a question, or what became of it.
type topAnswer struct {
	about   topic
	subject subject
	round   int
	value   any
	err     error
	took    time.Duration
}

// topCrew are the executors with what they run.
type topCrew struct {
	workers []client.Worker
	running []client.Task
}

// topQueues are the resources with the longest queues.
type topQueues struct {
	resources []client.Resource
	total     int64
}

// topQueue is one resource.
type topQueue struct {
	resource client.Resource
	uses     []client.ResourceUse
}

// topQuestions asks.
type topQuestions struct {
	ctx context.Context
	*session
}

// ask is the command that asks.
func (q *topQuestions) ask(t topic, s subject, round int) tea.Cmd {
	return func() tea.Msg {
		answer := q.about(t, s)
		answer.round = round
		return answer
	}
}

// about asks, and waits for the answer.
func (q *topQuestions) about(t topic, s subject) topAnswer {
	ctx, cancel := context.WithTimeout(q.ctx, topPatience)
	defer cancel()
	answer := topAnswer{about: t, subject: s}
	began := time.Now()
	answer.value, answer.err = q.answer(ctx, t, s)
	answer.took = time.Since(began)
	return answer
}

func (q *topQuestions) answer(ctx context.Context, t topic, s subject) (any, error) {
	switch t {
	case aboutStatus:
		return q.Status(ctx)
	case aboutLoad:
		return q.Load(ctx)
	case aboutMinute:
		return q.Stats(ctx, client.StatsQuery{Since: time.Minute})
	case aboutCrew:
		return q.crew(ctx)
	case aboutWaiting:
		return q.list(ctx, client.Filter{States: []task.State{task.Waiting}, Limit: topTasks})
	case aboutResources:
		resources, total, err := q.Resources(ctx, topResources)
		return topQueues{resources, total}, err
	case aboutCancel:
		return q.Cancel(ctx, s.task)
	default:
		if s.resource != "" {
			r, uses, err := q.Resource(ctx, s.resource, topResources)
			return topQueue{r, uses}, err
		}
		return q.explained(ctx, s.task)
	}
}

// crew asks for the executors and then for the tasks that they run: these are found by their ids, however many others wait.
func (q *topQuestions) crew(ctx context.Context) (topCrew, error) {
	workers, err := q.Workers(ctx, false)
	if err != nil {
		return topCrew{}, err
	}
	var ids []string
	for _, w := range workers {
		ids = append(ids, w.Running...)
	}
	if len(ids) == 0 {
		return topCrew{workers: workers}, nil
	}
	slices.Sort(ids) // which begin with the time of their dispatch
	running, err := q.list(ctx, client.Filter{IDs: ids[:min(len(ids), topTasks)], Limit: topTasks, Reports: true})
	// Some may have ended meanwhile.
	running = slices.DeleteFunc(running, func(t client.Task) bool { return t.State != task.Running && t.State != task.Canceling })
	return topCrew{workers, running}, err
}

func (q *topQuestions) list(ctx context.Context, filter client.Filter) (tasks []client.Task, err error) {
	for t, err := range q.List(ctx, filter) {
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// explained is what `task explain` prints.
func (q *topQuestions) explained(ctx context.Context, id string) (string, error) {
	var text bytes.Buffer
	env := *q.Environment
	env.Stdout = &text
	err := (&session{Client: q.Client, Environment: &env}).explainTask(ctx, id)
	return text.String(), err
}
