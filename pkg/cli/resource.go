package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// ResourceCmd looks at resources.
type ResourceCmd struct {
	List ResourceListCmd `cmd:"" help:"List the resources that are held or waited for."`
	Show ResourceShowCmd `cmd:"" help:"Show who holds a resource and who waits for it."`
}

// ResourceListCmd lists resources.
type ResourceListCmd struct {
	Limit int32 `default:"100" placeholder:"N" help:"At most this many, 1 to 1,000 (${default})."`
	Connection
}

// Help is the longer explanation.
func (*ResourceListCmd) Help() string {
	return `Those with the most waiting tasks come first. FOR is how long the oldest holder has had it, FIRST FOR how long the next one in the queue has waited. With --output json: an array of resources.

    sluice resource list --limit 10`
}

// Run prints the list.
func (c *ResourceListCmd) Run(ctx context.Context, env *Environment) error {
	if c.Limit < 1 {
		return usage("--limit: must be at least 1, is %d", c.Limit)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		resources, total, err := s.Resources(ctx, c.Limit)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(resources, viewResource))
		case len(resources) == 0:
			s.note("no resource is held or waited for")
			return nil
		}
		rows := [][]string{{"HELD", "HOLDERS", "FOR", "WAITING", "FIRST FOR", "RESOURCE"}}
		for _, r := range resources {
			rows = append(rows, []string{
				held(r), strconv.FormatInt(r.Holders, 10), s.sinceOrNot(r.HeldSince), strconv.FormatInt(r.Waiting, 10), s.sinceOrNot(r.WaitingSince), r.Name,
			})
		}
		s.printTable(rows)
		if more := total - int64(len(resources)); more > 0 {
			s.note("and %d more", more)
		}
		return nil
	})
}

// sinceOrNot is how long ago something was that may not have been.
func (e *Environment) sinceOrNot(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return e.since(*t)
}

func held(r client.Resource) string {
	if r.Holders == 0 {
		return "-"
	}
	return mode(r.Exclusive)
}

// ResourceShowCmd shows one resource.
type ResourceShowCmd struct {
	Name  string `arg:"" help:"Name of the resource."`
	Limit int32  `default:"100" placeholder:"N" help:"Show at most this many tasks, 1 to 1,000 (${default})."`
	Connection
}

// Help is the longer explanation.
func (*ResourceShowCmd) Help() string {
	return `Lists the tasks that hold the resource, then those that wait for it, in the order in which they will get it. With --output json: the resource with its queue.

    sluice resource show reports/2026`
}

// Run prints the resource.
func (c *ResourceShowCmd) Run(ctx context.Context, env *Environment) error {
	if c.Limit < 1 {
		return usage("--limit: must be at least 1, is %d", c.Limit)
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		r, queue, err := s.Resource(ctx, c.Name, c.Limit)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(shownResourceView{resourceView: viewResource(r), Queue: views(queue, viewUse)})
		}
		s.printf("%s: %s, %s\n\n", printable(r.Name),
			plural(r.Holders, "task holds it", "tasks hold it"), plural(r.Waiting, "waits", "wait"))
		rows := [][]string{{"TASK", "NAME", "MODE", "", "FOR", "STATE"}}
		for _, u := range queue {
			rows = append(rows, []string{u.TaskID, u.Name, mode(u.Exclusive), has(u), s.since(u.Since), where(u)})
		}
		s.printTable(rows)
		if more := r.Holders + r.Waiting - int64(len(queue)); more > 0 {
			s.note("and %d more", more)
		}
		return nil
	})
}
