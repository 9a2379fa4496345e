package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"
)

// TopCmd shows how the whole is doing, all the time.
type TopCmd struct {
	Once bool   `env:"-" help:"Print one screen and end. Also what is done if the output is no terminal."`
	Addr string `default:"${addr}" placeholder:"HOST:PORT" group:"connection" help:"gRPC address of the Sluice to ask (${default})."`
}

// Help is the longer explanation.
func (*TopCmd) Help() string {
	return `Tasks by state, what ended within the last minute and how long it took, what runs and how far it is, what waits, the resources with their queues, and the executors. What is shown is asked for each second, and more rarely if the answers take long. Press ? for the keys. With NO_COLOR in the environment, it has no colours.

    sluice top
    sluice top --once`
}

// Run shows it until the user has seen enough.
func (c *TopCmd) Run(ctx context.Context, env *Environment) error {
	connection := Connection{Addr: c.Addr, Output: "text"}
	return connection.with(ctx, env, func(ctx context.Context, s *session) error {
		ask := &topQuestions{ctx: ctx, session: s}
		in, out := terminalOf(env.Stdin), terminalOf(env.Stdout)
		if c.Once || in == nil || out == nil {
			return topOnce(ask, c.Addr)
		}
		program := tea.NewProgram(newTop(ask, c.Addr, env.Now, colors),
			tea.WithContext(ctx), tea.WithoutSignalHandler(), tea.WithEnvironment(env.ofTerminal()), tea.WithInput(in), tea.WithOutput(out))
		_, err := program.Run()
		if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
			return nil //nolint:nilerr // a signal is as good as a key
		}
		if err != nil {
			return fmt.Errorf("draw on the terminal: %w", err)
		}
		return nil
	})
}

// topOnce prints what a terminal of 80 columns, or as many as COLUMNS says, would show. Nobody answering is an error here.
func topOnce(ask *topQuestions, addr string) error {
	width := 80
	if text, _ := ask.LookupEnv("COLUMNS"); text != "" {
		if n, err := strconv.Atoi(text); err == nil {
			width = max(n, 40)
		}
	}
	m := newTop(ask, addr, ask.Now, plain)
	m.width, m.height, m.once = width, onceHeight, true
	for t := range topics {
		answer := ask.about(t, subject{})
		if answer.err != nil && t == aboutStatus {
			return answer.err
		}
		m.take(answer)
	}
	ask.printf("%s\n", m.screen())
	return nil
}

// onceHeight is room for what is worth printing.
const onceHeight = 60

// terminalOf is the terminal behind what is read or written, nil if that is none.
func terminalOf(stream any) *os.File {
	if checked, is := stream.(*checkedWriter); is {
		stream = checked.Writer
	}
	file, is := stream.(*os.File)
	if !is || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return file
}

var _ io.Writer = (*checkedWriter)(nil)

// ofTerminal is what there is in the environment about the terminal.
func (e *Environment) ofTerminal() []string {
	var found []string
	for _, name := range []string{
		"TERM", "COLORTERM", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "TMUX", "SSH_TTY", "WT_SESSION",
	} {
		value, set := e.LookupEnv(name)
		switch {
		case !set:
		case name == "NO_COLOR" && value != "":
			found = append(found, "NO_COLOR=1") // whatever it says: the library only knows some words
		default:
			found = append(found, name+"="+value)
		}
	}
	return found
}
