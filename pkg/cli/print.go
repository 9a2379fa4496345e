package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// printTable aligns columns, two spaces apart. The last one is not padded.
func (s *session) printTable(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			row[i] = strings.ReplaceAll(printable(cell), "\n", " ")
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		s.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// note says something beside the result.
func (e *Environment) note(format string, args ...any) { fmt.Fprintf(e.Stderr, format+"\n", args...) }

// printable escapes control characters except line ends and tabs: a task's error must not be able to move the cursor or
// rename the window of whoever looks at it.
func printable(text string) string {
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var made strings.Builder
	for _, r := range text {
		if hidden(r) {
			fmt.Fprintf(&made, "\\u%04x", r)
		} else {
			made.WriteRune(r)
		}
	}
	return made.String()
}

func hidden(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }

// shorten cuts text to width characters.
func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-3)]) + "..."
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// pretty lays JSON out for reading; nothing at all is null.
func pretty(raw json.RawMessage) string {
	var made bytes.Buffer
	if len(raw) == 0 {
		return "null"
	}
	if err := json.Indent(&made, raw, "", "  "); err != nil {
		return printable(string(raw))
	}
	return printable(made.String())
}

// moment is a time for people, in their zone, to the millisecond.
func (e *Environment) moment(t time.Time) string {
	return t.In(e.Now().Location()).Format("2006-01-02 15:04:05.000")
}

// clock is a time of day.
func (e *Environment) clock(t time.Time) string {
	return t.In(e.Now().Location()).Format("15:04:05.000")
}

// since is how long ago something was.
func (e *Environment) since(t time.Time) string { return span(e.Now().Sub(t).Truncate(time.Second)) }

// waited is the time until the task was started, or until it ended without ever starting.
func (e *Environment) waited(t client.Task) string {
	switch {
	case t.StartedAt != nil:
		return span(t.StartedAt.Sub(t.CreatedAt))
	case t.FinishedAt != nil:
		return span(t.FinishedAt.Sub(t.CreatedAt))
	default:
		return span(e.Now().Sub(t.CreatedAt))
	}
}

func (e *Environment) ran(t client.Task) string {
	switch {
	case t.StartedAt == nil:
		return "-"
	case t.FinishedAt != nil:
		return span(t.FinishedAt.Sub(*t.StartedAt))
	default:
		return span(e.Now().Sub(*t.StartedAt))
	}
}

// remark is what is worth knowing about a task beside its state, in one line.
func (e *Environment) remark(t client.Task) string {
	why, _, _ := strings.Cut(t.Error.String(), "\n")
	switch {
	case why != "":
		return printable(why)
	case t.RetryAt != nil:
		return fmt.Sprintf("attempt %d of %d failed, next at %s", t.Attempt, t.MaxAttempts(), e.clock(*t.RetryAt))
	case t.State == task.Completed && t.StartedAt != nil:
		return "after " + e.ran(t)
	case t.Executor != "":
		return "on " + printable(t.Executor)
	default:
		return ""
	}
}

// span is a time in at most two units, without blanks so that columns stay columns. The clocks of two machines can make it
// negative; then it is none at all.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d == 0:
		return "0s"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute && d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}
