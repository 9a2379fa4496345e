package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

const (
	// maxStream is how much of each stream a result keeps, in bytes of text; maxEncoded how much of it as JSON, where a
	// control character takes six bytes: both streams must fit into one result.
	maxStream  = 256 << 10
	maxEncoded = (limits.MaxJSON - 1<<10) / 2
	// maxExcerpt is how much of standard error a description quotes.
	maxExcerpt = 2 << 10
	// longest is more than anyone waits, and far from where time.Duration overflows.
	longest = 365 * 24 * time.Hour
	// afterExit is how long the output is read on when the command has ended but something it started keeps it open.
	afterExit = time.Second
)

// command is what command.run takes.
type command struct {
	Argv    []string          `json:"argv"`
	Env     map[string]string `json:"env,omitempty"`
	Stdin   string            `json:"stdin,omitempty"`
	Timeout *float64          `json:"timeout,omitempty"`
}

// commandResult is what it returns when the command exits with 0.
type commandResult struct {
	ExitCode int    `json:"exit_code"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
}

// commands runs what is allowed.
type commands struct{ allowed []string }

func (c commands) run(ctx context.Context, in command) (*commandResult, error) {
	timeout, err := in.check()
	if err != nil {
		return nil, err
	}
	path, err := c.find(in.Argv[0])
	if err != nil {
		return nil, err
	}
	dir, err := worker.WorkingDir(ctx)
	if err != nil {
		return nil, err
	}
	stdout, stderr := &ending{also: os.Stdout}, &ending{also: os.Stderr}
	cmd := exec.Command(path)
	cmd.Args = in.Argv
	cmd.Dir = dir
	cmd.Env = in.environ(worker.Current(ctx), dir)
	cmd.Stdin = strings.NewReader(in.Stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = afterExit
	if err := cmd.Start(); err != nil {
		return nil, worker.Safef("could not start %q: %w", in.Argv[0], reason(err))
	}
	timedOut, err := wait(ctx, cmd, timeout)
	excerpt := stderr.excerpt()
	switch {
	case timedOut:
		return nil, worker.Safef("the command ran for longer than its timeout of %s and was killed%s", timeout, excerpt)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("the command was stopped: %w", context.Cause(ctx))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, explain(err, excerpt)
	}
	return &commandResult{ExitCode: 0, Stdout: stdout.text(), Stderr: stderr.text()}, nil
}

// check says what of the arguments no command can be run with.
func (in command) check() (timeout time.Duration, err error) {
	if len(in.Argv) == 0 || in.Argv[0] == "" {
		return 0, wrong(`command.run() argument "argv" must name a program`)
	}
	for i, arg := range in.Argv {
		if strings.ContainsRune(arg, 0) {
			return 0, wrong(`command.run() argument "argv"[%d] must not contain a NUL character`, i)
		}
	}
	for name, value := range in.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return 0, wrong(`command.run() argument "env" has an impossible entry %q`, name)
		}
	}
	if in.Timeout == nil {
		return 0, nil
	}
	if *in.Timeout <= 0 || *in.Timeout > longest.Seconds() {
		return 0, wrong(`command.run() argument "timeout" must be more than 0 and at most %.0f seconds, is %g`, longest.Seconds(), *in.Timeout)
	}
	return time.Duration(*in.Timeout * float64(time.Second)), nil
}

// wrong is an argument that no attempt could run a command with.
func wrong(format string, args ...any) error { return worker.Permanent(worker.Safef(format, args...)) }

// environ is the worker's environment without what concerns only the worker, with the task's ids and what the task asked for.
func (in command) environ(current worker.Task, dir string) []string {
	env := append(os.Environ(),
		"PWD="+dir,
		"SLUICE_TASK_ID="+current.ID,
		fmt.Sprintf("SLUICE_TASK_CLAIM=%d", current.Claim),
		"SLUICE_TASK_CORRELATION_ID="+current.CorrelationID,
	)
	env = slices.DeleteFunc(env, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		// The headers are where the collector's token is: the worker sends its spans with it, and the command need not know it.
		return strings.HasPrefix(name, "SLUICE_CHILD_") || strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && strings.HasSuffix(name, "HEADERS")
	})
	for name, value := range in.Env {
		env = append(env, name+"="+value) // of two entries the last one counts
	}
	return env
}

// find decides whether a program may be run, and where it is. The PATH is the worker's: a task can't bring its own.
func (c commands) find(name string) (string, error) {
	path, missing := exec.LookPath(name)
	if !slices.ContainsFunc(c.allowed, func(allowed string) bool {
		return allowed == "*" || allowed == name || filepath.IsAbs(allowed) && missing == nil && allowed == path
	}) {
		return "", worker.Safef("the command %q is not on this executor's list of allowed commands", name)
	}
	if missing != nil {
		return "", worker.Safef("could not find the command %q: %w", name, reason(missing))
	}
	return path, nil
}

// reason drops the parts of an error that repeat what the text around it says.
func reason(err error) error {
	var lookup *exec.Error
	if errors.As(err, &lookup) {
		err = lookup.Err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err
}

// wait waits for a command. When the task is to stop, the command has been sent SIGTERM along with us and may take its
// time, until the executor's patience ends; when the command's own time is up, it is killed here.
func wait(ctx context.Context, cmd *exec.Cmd, timeout time.Duration) (timedOut bool, err error) {
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	stop := ctx.Done()
	for {
		select {
		case err := <-exited:
			return timedOut, err
		case <-expired:
			timedOut = true
			_ = cmd.Process.Kill() // what it started dies when the handler has returned
		case <-stop:
			stop = nil
			_ = cmd.Process.Signal(syscall.SIGTERM) // again: the context may have ended for another reason
		}
	}
}

// explain says how a command ended that did not end well.
func explain(err error, excerpt string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("could not wait for the command: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return worker.Safef("the command was killed by signal %d%s", status.Signal(), excerpt)
	}
	return worker.Safef("the command exited with code %d%s", exit.ExitCode(), excerpt)
}

// ending keeps the end of a stream and passes all of it on. Its methods are safe for concurrent use: a stream that
// something keeps open may still be written when the result is made.
type ending struct {
	also io.Writer

	mu   sync.Mutex
	tail []byte
}

// Write never fails: a command must not be stopped by a log that can't be written.
func (e *ending) Write(p []byte) (int, error) {
	_, _ = e.also.Write(p)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tail = append(e.tail, p...)
	if len(e.tail) > 2*maxStream {
		e.tail = append(e.tail[:0], e.tail[len(e.tail)-maxStream:]...)
	}
	return len(p), nil
}

func (e *ending) last(limit, encoded int) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return lastPart(string(bytes.ToValidUTF8(e.tail, []byte("\uFFFD"))), limit, encoded)
}

func (e *ending) text() string { return e.last(maxStream, maxEncoded) }

// excerpt is the end of the stream as the end of a sentence.
func (e *ending) excerpt() string {
	text := strings.TrimSpace(e.last(maxExcerpt, maxEncoded))
	if text == "" {
		return ""
	}
	return ": " + text
}

// lastPart is the longest end of text that has at most limit bytes, and at most encoded bytes when it is written as JSON.
func lastPart(text string, limit, encoded int) string {
	size, at := 0, len(text)
	for at > 0 && len(text)-at < limit {
		r, width := utf8.DecodeLastRuneInString(text[:at])
		size += jsonSize(r, width)
		if size > encoded || len(text)-at+width > limit {
			break
		}
		at -= width
	}
	return text[at:]
}

// jsonSize is how many bytes encoding/json takes for a character, at most.
func jsonSize(r rune, width int) int {
	switch {
	case r == '"' || r == '\\' || r == '\n' || r == '\r' || r == '\t':
		return 2
	case r < 0x20 || r == 0x7f || r == '<' || r == '>' || r == '&' || r == '\u2028' || r == '\u2029':
		return 6
	default:
		return width
	}
}
