package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// The exit codes that there are. Scripts rely on them.
const (
	exitOK    = 0
	exitNo    = 1 // the task failed or was canceled, or the server could not or would not
	exitUsage = 2 // the command line was wrong
)

// failure is an end with an exit code and what is to be said about it.
type failure struct {
	code  int
	lines []string
}

func (f *failure) Error() string { return strings.Join(f.lines, "; ") }

// usage says that the command line was wrong.
func usage(format string, args ...any) error {
	return &failure{code: exitUsage, lines: []string{fmt.Sprintf(format, args...)}}
}

// refuse ends with exit code 1.
func refuse(format string, args ...any) error {
	return &failure{code: exitNo, lines: []string{fmt.Sprintf(format, args...)}}
}

// callError is an error of a call to the server at addr.
type callError struct {
	addr string
	err  error
}

func (e *callError) Error() string { return e.addr + ": " + e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// report says what went wrong, if anything did, and returns the exit code.
func (e *Environment) report(err error) int {
	if err == nil {
		return exitOK
	}
	f := explain(err)
	for _, line := range f.lines {
		fmt.Fprintln(e.Stderr, "sluice: "+printable(line))
	}
	return f.code
}

// explain puts an error into words for the person at the terminal.
func explain(err error) *failure {
	var (
		own    *failure
		call   *callError
		server *errs.Error
	)
	if errors.As(err, &own) {
		return own
	}
	addr := "the server"
	if errors.As(err, &call) {
		addr, err = call.addr, call.err
	}
	if errors.As(errs.From(err), &server) {
		return explainServer(server)
	}
	no := func(format string, args ...any) *failure {
		return &failure{code: exitNo, lines: []string{fmt.Sprintf(format, args...)}}
	}
	if call == nil {
		return no("%s", err)
	}
	said := status.Convert(err).Message()
	//nolint:exhaustive // the server's own errors were dealt with above; these are the ones that gRPC makes
	switch status.Code(err) {
	case codes.Unavailable:
		// What gRPC reports when a web server answers, for example our own gateway.
		if strings.Contains(said, "HTTP/1.1 header") {
			return no("%s answers, but does not speak gRPC; is it the REST address? Give the gRPC address with --addr", addr)
		}
		return no("no Sluice answers at %s; start one with `sluice dev` or give --addr", addr)
	case codes.DeadlineExceeded:
		return no("%s did not answer in time; `sluice status` says how it is doing", addr)
	case codes.Canceled:
		return no("interrupted")
	case codes.Unimplemented:
		return no("what answers at %s does not know this command; is it a Sluice of another version?", addr)
	}
	if errors.Is(err, context.Canceled) {
		return no("interrupted")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return no("%s did not answer in time; `sluice status` says how it is doing", addr)
	}
	return no("%s", said)
}

func explainServer(err *errs.Error) *failure {
	if len(err.Violations) > 0 {
		lines := make([]string, len(err.Violations))
		for i, v := range err.Violations {
			lines[i] = flagOf(v.Field) + ": " + inFlags(v.Rule)
		}
		// Versions come out of a map: without an order the same mistake would read differently each time.
		slices.Sort(lines)
		return &failure{code: exitUsage, lines: lines}
	}
	//nolint:exhaustive // the others say all there is to say
	switch err.Reason {
	case errs.Overloaded:
		line := "the server has too much to do: " + err.Message
		if after := err.RetryAfter.Round(100 * time.Millisecond); after > 0 {
			line += ", in " + after.String() + " or so"
		}
		return &failure{code: exitNo, lines: []string{line}}
	case errs.RequestIDReused:
		return &failure{code: exitUsage, lines: []string{fieldsInFlags(err.Message)}}
	}
	if err.Reason == errs.Internal {
		return &failure{code: exitNo, lines: []string{"the server ran into an " + err.Message + "; its log has the cause under this ref"}}
	}
	return &failure{code: exitNo, lines: []string{err.Message}}
}

// flags maps the fields of requests to the names that the command line has for them.
var flags = []struct{ field, flag string }{
	{"task.name", "name"},
	{"task.args_json", "args"},
	{"task.kwargs_json", "kwargs"},
	{"task.exclusive_resources", "exclusive"},
	{"task.shared_resources", "shared"},
	{"task.deferred", "no-defer"},
	{"task.immediate", "immediate"},
	{"task.versions", "need"},
	{"task.group_id", "group"},
	{"task.correlation_id", "correlation-id"},
	{"task.request_id", "request-id"},
	{"task.timeout", "timeout"},
	{"task.retry", "retry"},
	{"task.retry.max_attempts", "retry"},
	{"task.retry.backoff", "retry-backoff"},
	{"task.retry.max_backoff", "retry-max-backoff"},
	{"task.retry.on", "retry-on"},
	{"task.profile_options", "profile"},
	{"task.file_ids", "file-id"},
	{"username", "name"},
	{"schedule.name", "name"},
	{"schedule.task.name", "task"},
	{"schedule.dispatch_interval", "every"},
	{"schedule.next_dispatch", "at"},
	{"schedule_id", "id"},
	{"task_ids", "id"},
	{"task_id", "id"},
	{"file_id", "id"},
	{"states", "state"},
	{"correlation_id", "correlation-id"},
	{"group_id", "group"},
	{"parent_id", "parent"},
	{"resources", "resource"},
	{"page_size", "limit"},
	{"finished_before", "finished-before"},
}

// flagOf translates a field's path, keeping what picks one element: "task.exclusive_resources[1]" becomes "exclusive[1]".
func flagOf(field string) string {
	path, element, indexed := strings.Cut(field, "[")
	if indexed {
		element = "[" + element
	}
	for _, f := range flags {
		if f.field == path {
			return f.flag + element
		}
	}
	if task, scheduled := strings.CutPrefix(field, "schedule."); scheduled {
		return flagOf(task) // a schedule's task has the flags of any other
	}
	return field
}

// fieldsInFlags does the same to the fields that a sentence mentions.
func fieldsInFlags(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if flag := flagOf(strings.TrimRight(word, ":,")); flag != strings.TrimRight(word, ":,") {
			words[i] = strings.Replace(word, strings.TrimRight(word, ":,"), "--"+flag, 1)
		}
	}
	return strings.Join(words, " ")
}

// inFlags does the same to the names that a rule mentions.
func inFlags(rule string) string {
	return strings.NewReplacer("shared_resources", "--shared", "exclusive_resources", "--exclusive").Replace(rule)
}

// badUsage words what the parser found wrong.
func badUsage(err error, variables *variables) error {
	said := err.Error()
	for flag, name := range variables.used {
		if strings.HasPrefix(said, flag+" ") || strings.HasPrefix(said, flag+":") || strings.HasPrefix(said, flag+"=") {
			said += " (from " + name + " in the environment)"
		}
	}
	node := reached(err)
	if word, found := strings.CutPrefix(said, "unexpected argument "); found && node != nil && !node.Leaf() {
		word, rest, _ := strings.Cut(word, ",")
		path := strings.TrimSpace(node.Path() + " " + word)
		said = fmt.Sprintf("there is no command %q", path)
		if rest != "" {
			said += "," + rest
		}
	}
	path := "sluice"
	if node != nil {
		path = node.FullPath()
	}
	return &failure{code: exitUsage, lines: []string{said, "`" + path + " --help` says what it takes"}}
}

// reached is the last command that the parser understood, or the root.
func reached(err error) *kong.Node {
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context == nil {
		return nil
	}
	if node := parse.Context.Selected(); node != nil {
		return node
	}
	return parse.Context.Model.Node
}
