package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// DispatchCmd hands in one task.
type DispatchCmd struct {
	Name string `arg:"" help:"What to run, for example command.run."`

	Args          string        `placeholder:"JSON" help:"Positional arguments, a JSON array. @FILE reads a file, @- standard input."`
	Kwargs        string        `placeholder:"JSON" help:"Named arguments, a JSON object. @FILE reads a file, @- standard input."`
	Exclusive     []string      `sep:"none" placeholder:"RESOURCE" help:"A resource that the task changes: nobody else holds it meanwhile. Give the flag again for another."`
	Shared        []string      `sep:"none" placeholder:"RESOURCE" help:"A resource that the task reads: others may read it too. Give the flag again for another."`
	Immediate     bool          `help:"Run it before this command returns, if nothing older conflicts."`
	NoDefer       bool          `help:"Do not wait: if it can't run at once, cancel it. Needs --immediate."`
	Group         string        `placeholder:"ID" help:"Join this task group."`
	Need          []string      `sep:"none" placeholder:"COMPONENT=VERSION" help:"Run only where the component has at least this version. Give the flag again for another."`
	CorrelationID string        `placeholder:"TEXT" help:"Ties the tasks and log lines of one request together."`
	RequestID     string        `placeholder:"TEXT" env:"-" help:"Makes it safe to run this command again: as long as the first task with this text is kept, nothing more is dispatched, and that task is the answer."`
	Wait          bool          `short:"w" help:"Wait until the task has ended and print its result."`
	WaitTimeout   time.Duration `placeholder:"DURATION" help:"With --wait: stop waiting after this long, for example 90s or 5m. The task goes on."`

	// Not in the environment: what limits the time of "task wait" there must not limit that of tasks.
	Timeout         *time.Duration `placeholder:"DURATION" env:"-" help:"Let the task fail when one attempt takes longer, for example 90s or 5m."`
	Retry           *int32         `placeholder:"N" help:"When it fails, start it again, up to N times in all."`
	RetryBackoff    *time.Duration `placeholder:"DURATION" help:"With --retry: pause before the second attempt (1s), doubled before each one after it."`
	RetryMaxBackoff *time.Duration `placeholder:"DURATION" help:"With --retry: the longest pause (1m)."`
	RetryOn         []string       `sep:"none" placeholder:"CODE" help:"With --retry: only failures with this code, for example TIMEOUT. Give the flag again for another."`
	Profile         []string       `sep:"none" placeholder:"NAME" help:"Diagnostics to be made while it runs, as the task knows them. Give the flag again for another."`
	FileID          []string       `name:"file-id" sep:"none" placeholder:"ID" help:"A temporary file that the task is to have. Give the flag again for another."`

	Connection
}

// Help is the longer explanation.
func (*DispatchCmd) Help() string {
	return `Prints the id of the task. With --wait, prints the result (JSON) when the task has completed; when it failed or was canceled, says why and exits with 1.

Resource names are text of your own choice, 1 to 1,024 bytes, taken as they are. A task waits for every task that was dispatched before it and that names a resource of it, unless both only share it.

    sluice dispatch command.run --kwargs '{"argv": ["ls", "-l", "/"]}' --wait
    sluice dispatch command.run --kwargs @job.json --exclusive reports/2026 --shared settings
    sluice dispatch command.run --kwargs @job.json --timeout 10m --retry 3 --retry-backoff 30s
    sluice dispatch command.run --kwargs @job.json --request-id nightly-2026-03-01`
}

// Run hands the task in.
func (c *DispatchCmd) Run(ctx context.Context, env *Environment) error {
	spec, err := c.spec(env)
	if err != nil {
		return err
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		line := s.progress()
		defer line.stop()
		line.say("dispatching " + c.Name)
		t, err := s.Dispatch(ctx, spec)
		if cutOff(ctx, err) {
			if c.RequestID != "" {
				return refuse("interrupted; whether the task was dispatched is not known, the same command with the same --request-id dispatches it once")
			}
			return refuse("interrupted; whether the task was dispatched is not known, `sluice task list` shows it if it was")
		}
		if err != nil {
			return err
		}
		if c.Wait && !t.Final() {
			if t, err = c.wait(ctx, s, line, t); err != nil {
				return err
			}
		}
		line.stop()
		return c.print(s, t)
	})
}

// wait returns the task when it is final. Whatever ends the wait before, the person learns which task it was.
func (c *DispatchCmd) wait(ctx context.Context, s *session, line *progress, t client.Task) (client.Task, error) {
	waiting, cancel := within(ctx, c.WaitTimeout)
	defer cancel()
	ended, err := s.Follow(waiting, line.interval(), func(now []client.Task) { line.say(oneLine(now[0])) }, t.ID)
	if err == nil {
		return ended[0], nil
	}
	line.stop()
	if len(ended) > 0 {
		t = ended[0]
	}
	if s.json {
		if err := s.printJSON(viewTask(t)); err != nil {
			return t, err
		}
	}
	switch {
	case ctx.Err() != nil:
		return t, refuse("interrupted; task %s is %s and goes on: `sluice task wait %s` waits for it", t.ID, t.State, t.ID)
	case expired(waiting, err):
		return t, refuse("task %s is still %s after %s: `sluice task wait %s` goes on waiting for it", t.ID, t.State, c.WaitTimeout, t.ID)
	}
	s.report(refuse("task %s was dispatched, but its end is not known", t.ID))
	return t, err
}

func (c *DispatchCmd) print(s *session, t client.Task) error {
	switch {
	case s.json:
		if err := s.printJSON(viewTask(t)); err != nil {
			return err
		}
	case !c.Wait:
		s.printf("%s\n", t.ID)
	case t.Err() == nil:
		s.printf("%s\n", pretty(t.Result))
	}
	if err := t.Err(); err != nil {
		return refuse("%s", err)
	}
	return nil
}

func (c *DispatchCmd) spec(env *Environment) (client.Spec, error) {
	spec := client.Spec{
		Name:          c.Name,
		Exclusive:     c.Exclusive,
		Shared:        c.Shared,
		Immediate:     c.Immediate,
		NoDefer:       c.NoDefer,
		GroupID:       c.Group,
		CorrelationID: c.CorrelationID,
		RequestID:     c.RequestID,

		ProfileOptions: c.Profile,
		Files:          c.FileID,
	}
	switch {
	case c.NoDefer && !c.Immediate:
		return spec, usage("--no-defer: needs --immediate, because a task that neither runs at once nor waits can never run")
	case c.WaitTimeout != 0 && !c.Wait:
		return spec, usage("--wait-timeout: needs --wait")
	case c.WaitTimeout < 0:
		return spec, usage("--wait-timeout: must not be negative, is %s", c.WaitTimeout)
	case c.Timeout != nil && *c.Timeout <= 0:
		return spec, usage("--timeout: must be more than 0s, is %s", *c.Timeout)
	case c.Args == "@-" && c.Kwargs == "@-":
		return spec, usage("--kwargs: --args already reads standard input")
	}
	if c.Timeout != nil {
		spec.Timeout = *c.Timeout
	}
	var err error
	if spec.Retry, err = c.retry(); err != nil {
		return spec, err
	}
	args, err := jsonFlag(env, "args", c.Args, '[', "an array")
	if err != nil {
		return spec, err
	}
	kwargs, err := jsonFlag(env, "kwargs", c.Kwargs, '{', "an object")
	if err != nil {
		return spec, err
	}
	if args != nil {
		spec.Args = args
	}
	if kwargs != nil {
		spec.Kwargs = kwargs
	}
	spec.Versions, err = versions("--need", c.Need)
	return spec, err
}

// retry is nil unless failures are retried.
func (c *DispatchCmd) retry() (*client.Retry, error) {
	if c.Retry == nil {
		switch {
		case c.RetryBackoff != nil:
			return nil, usage("--retry-backoff: needs --retry")
		case c.RetryMaxBackoff != nil:
			return nil, usage("--retry-max-backoff: needs --retry")
		case len(c.RetryOn) > 0:
			return nil, usage("--retry-on: needs --retry")
		}
		return nil, nil //nolint:nilnil // none was asked for
	}
	policy := &client.Retry{MaxAttempts: int(*c.Retry), On: c.RetryOn}
	for _, pause := range []struct {
		flag  string
		given *time.Duration
		into  *time.Duration
	}{{"--retry-backoff", c.RetryBackoff, &policy.Backoff}, {"--retry-max-backoff", c.RetryMaxBackoff, &policy.MaxBackoff}} {
		switch {
		case pause.given == nil:
		case *pause.given < 0:
			return nil, usage("%s: must not be negative, is %s", pause.flag, *pause.given)
		case *pause.given == 0:
			*pause.into = -1 // in a Retry, 0 asks for the default
		default:
			*pause.into = *pause.given
		}
	}
	return policy, nil
}

// jsonFlag reads what a flag gives or points to. nil means that it was not given.
func jsonFlag(env *Environment, name, value string, open byte, kind string) (json.RawMessage, error) {
	text, err := content(env, name, value)
	if err != nil || text == nil {
		return nil, err
	}
	var parsed json.RawMessage
	if err := json.Unmarshal(text, &parsed); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, usage("--%s: is not JSON: %s, at byte %d of %s", name, syntax, syntax.Offset, shorten(string(text), 60))
		}
		return nil, usage("--%s: is not JSON: %s", name, err)
	}
	if parsed = bytes.TrimSpace(parsed); parsed[0] != open {
		return nil, usage("--%s: must be JSON for %s, is %s", name, kind, shorten(string(parsed), 60))
	}
	return parsed, nil
}

func content(env *Environment, name, value string) ([]byte, error) {
	var source io.Reader
	switch path, points := strings.CutPrefix(value, "@"); {
	case value == "":
		return nil, nil
	case !points:
		return []byte(value), nil
	case path == "-":
		source = env.Stdin
	default:
		file, err := os.Open(path)
		if err != nil {
			return nil, usage("--%s: %s", name, err)
		}
		defer func() { _ = file.Close() }() // it was only read
		source = file
	}
	// One byte more than allowed is enough for the server to say that it is too much.
	text, err := io.ReadAll(io.LimitReader(source, limits.MaxJSON+1))
	switch {
	case err != nil:
		return nil, usage("--%s: read %s: %s", name, value, err)
	case len(text) > limits.MaxJSON:
		return nil, usage("--%s: must be at most %d bytes, %s has more", name, limits.MaxJSON, value)
	}
	return text, nil
}

func versions(flag string, needs []string) (map[string]string, error) {
	made := make(map[string]string, len(needs))
	for i, need := range needs {
		component, version, found := strings.Cut(need, "=")
		switch {
		case !found || component == "" || version == "":
			return nil, usage("%s[%d]: must have the form COMPONENT=VERSION, is %q", flag, i, need)
		case made[component] != "":
			return nil, usage("%s[%d]: names %s again", flag, i, component)
		}
		made[component] = version
	}
	return made, nil
}

// within bounds ctx by limit; 0 means no bound.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// cutOff reports whether a call ended before its answer came, for a reason on our side or because it took too long.
func cutOff(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || status.Code(err) == codes.DeadlineExceeded)
}

// expired reports whether err is the end of ctx's own time. gRPC can notice it a moment before the context does; the
// server's limits on a call end in the same way, but earlier.
func expired(ctx context.Context, err error) bool {
	until, has := ctx.Deadline()
	late := errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
	return has && late && time.Until(until) < time.Second
}

// oneLine is what the progress line says about one task.
func oneLine(t client.Task) string {
	line := fmt.Sprintf("%s %s: %s", t.Name, t.ID, t.State)
	if t.Executor != "" {
		line += " on " + t.Executor
	}
	return line
}
