package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// TaskPurgeCmd removes old tasks.
type TaskPurgeCmd struct {
	FinishedBefore string   `required:"" placeholder:"AGE|TIME" help:"Only tasks that ended before this: an age such as 30d or 12h, or a time such as 2026-03-01T00:00:00Z."`
	State          []string `placeholder:"STATE" help:"Only tasks in this state: completed, failed, canceled or skipped. Give the flag again, or a comma, for another."`
	Yes            bool     `short:"y" env:"-" help:"Do not ask."`

	Connection
}

// Help is the longer explanation.
func (*TaskPurgeCmd) Help() string {
	return `Deletes tasks that have ended, with their logs and reports, the oldest first, and says how many. Tasks that have not ended stay, and so do those with child tasks that have not. Task groups that were made before that and have no members left go with them. It takes many small steps: when it is interrupted, what was deleted is gone, and the rest is not.

    sluice task purge --finished-before 30d
    sluice task purge --finished-before 2026-03-01T00:00:00Z --state completed,skipped --yes`
}

// Run purges.
func (c *TaskPurgeCmd) Run(ctx context.Context, env *Environment) error {
	before, err := moment(env.Now(), c.FinishedBefore)
	if err != nil {
		return err
	}
	filter := client.PurgeFilter{FinishedBefore: before}
	for _, word := range c.State {
		state := task.State(word)
		if !state.Final() {
			return usage("--state: must be one of completed, failed, canceled, skipped, is %q", word)
		}
		filter.States = append(filter.States, state)
	}
	if !c.Yes {
		if err := c.ask(env, before); err != nil {
			return err
		}
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		line := s.progress()
		defer line.stop()
		line.say("purging")
		gone, err := s.Purge(ctx, filter, func(now map[task.State]int64) { line.say("deleted " + counts(now)) })
		line.stop()
		if s.json {
			if printErr := s.printJSON(viewPurged(gone)); printErr != nil {
				return printErr
			}
		} else {
			s.printf("deleted: %s\n", counts(gone))
		}
		if cutOff(ctx, err) {
			return refuse("interrupted; what was deleted is gone, the rest is not")
		}
		return err
	})
}

// ask lets the person at the terminal say yes. Nobody is there to be asked when standard input is something else.
func (c *TaskPurgeCmd) ask(env *Environment, before time.Time) error {
	file, ok := env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return usage("--yes: is required where nobody can be asked")
	}
	what := "all tasks"
	if len(c.State) > 0 {
		what = "tasks that are " + strings.Join(c.State, " or ") + " and"
	}
	fmt.Fprintf(env.Stderr, "Delete %s that ended before %s? [y/N] ", what, before.In(env.Now().Location()).Format(time.RFC3339))
	answer, _ := bufio.NewReader(file).ReadString('\n') // its end is a no
	if word := strings.ToLower(strings.TrimSpace(answer)); word != "y" && word != "yes" {
		return refuse("nothing was deleted")
	}
	return nil
}

// moment reads an age, counted back from now, or a time.
func moment(now time.Time, text string) (time.Time, error) {
	wrong := usage("--finished-before: must be an age such as 30d or 12h, or a time such as 2026-03-01T00:00:00Z, is %q", text)
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	age, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		if n > maxDays {
			return now, wrong
		}
		age = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || age < 0 {
		return now, wrong
	}
	return now.Add(-age), nil
}

// maxDays is what a duration can hold, and then some less: a hundred years.
const maxDays = 36_500

// viewPurged is how many tasks were deleted, by state.
func viewPurged(gone map[task.State]int64) map[string]map[task.State]int64 {
	return map[string]map[task.State]int64{"deleted": gone}
}
