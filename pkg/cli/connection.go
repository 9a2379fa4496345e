package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/client"
)

// Connection holds the flags of every command that asks a running Sluice.
type Connection struct {
	Addr   string `default:"${addr}" placeholder:"HOST:PORT" group:"connection" help:"gRPC address of the Sluice to ask (${default})."`
	Output string `short:"o" enum:"text,json" default:"text" placeholder:"text|json" group:"connection" help:"Print for people (text) or for programs (json)."`
}

// attempts is how often a dispatch is handed in at most: for about a second, for somebody may sit in front of it; for longer only
// when the server asks for that.
const attempts = 5

// session is one command's conversation with a server.
type session struct {
	*client.Client
	*Environment
	json bool
}

// with runs ask against the server. An interrupt cancels its context; a second one ends the process as usual.
func (c *Connection) with(ctx context.Context, env *Environment, ask func(context.Context, *session) error) error {
	if err := checkAddr(c.Addr); err != nil {
		return err
	}
	server, err := client.Dial(c.Addr, client.Attempts(attempts))
	if err != nil {
		return usage("--addr: %s", err)
	}
	defer func() { _ = server.Close() }() // what it could report, the call before it has
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := ask(ctx, &session{Client: server, Environment: env, json: c.Output == "json"}); err != nil {
		return &callError{addr: c.Addr, err: err}
	}
	return nil
}

// checkAddr catches a forgotten port, which gRPC would take for a name to look up.
func checkAddr(addr string) error {
	if strings.Contains(addr, "://") || strings.HasPrefix(addr, "unix:") {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return usage("--addr: must have the form host:port, is %q", addr)
	}
	return nil
}

// printJSON prints for programs: indented, one value. Text in it is left as it is, there is no web page around it.
func (s *session) printJSON(v any) error { return printJSON(s.Environment, v) }

func printJSON(env *Environment, v any) error {
	encoder := json.NewEncoder(env.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	return nil
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.Stdout, format, args...) }

// printLine prints one value on one line.
func printLine(env *Environment, v any) error {
	encoder := json.NewEncoder(env.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	return nil
}
