package cli

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// palette is how things look.
type palette struct{ title, label, head, good, bad, selected func(string) string }

func same(text string) string { return text }

// plain has no looks: for what is not a terminal.
var plain = palette{title: same, label: same, head: same, good: same, bad: same, selected: same}

// colors are those of the terminal's own scheme, which its user can read. Without colours there is still bold and reverse.
var colors = func() palette {
	style := func(s lipgloss.Style) func(string) string { return func(text string) string { return s.Render(text) } }
	return palette{
		title: style(lipgloss.NewStyle().Bold(true)), label: style(lipgloss.NewStyle().Foreground(lipgloss.Cyan)),
		head: style(lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Blue)), good: style(lipgloss.NewStyle().Foreground(lipgloss.Green)),
		bad: style(lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)), selected: style(lipgloss.NewStyle().Reverse(true)),
	}
}()

// View draws the screen.
func (m *top) View() tea.View {
	view := tea.NewView(m.screen())
	view.AltScreen = true
	view.WindowTitle = "sluice top"
	return view
}

// screen is all that is to be seen, at most as many lines as there are, each at most as wide as the terminal.
func (m *top) screen() string {
	lines := m.header()
	body := m.height - len(lines) - 2
	if body < 1 {
		return strings.Join(lines[:max(1, min(len(lines), m.height))], "\n")
	}
	switch {
	case m.help:
		for _, line := range clip(strings.Split(topHelp, "\n"), 0, body) {
			lines = append(lines, fit(line, m.width))
		}
	case m.subject.task != "":
		lines = append(lines, m.textLines(body)...)
	case m.subject.resource != "":
		lines = append(lines, m.queueLines(body)...)
	default:
		lines = append(lines, m.lists(body)...)
	}
	if m.once {
		return strings.Join(lines, "\n")
	}
	for len(lines) < m.height-2 {
		lines = append(lines, "")
	}
	return strings.Join(append(lines, m.message(), m.keys()), "\n")
}

const topHelp = `
  tab, 1 2 3 4    go to another list
  up, down        select (also j, k, page up, page down, home, end)
  enter           look closer: explain a task, show the queue of a resource,
                  show only what an executor runs
  e               explain the selected task: why it waits, or where it runs
  c               cancel the selected task, after a question
  s               sort the list by something else
  /               show only what has a text in it: an id, a name, a resource,
                  a correlation id; enter keeps it, esc drops it
  esc             go back
  p, space        stop asking, and go on
  q               quit`

func (m *top) keys() string {
	keys := "q quit  tab list  / filter  e explain  c cancel  s sort  p pause  ? help"
	switch {
	case m.help:
		keys = "any key goes back"
	case m.subject.task != "":
		keys = "q quit  esc back  up/down scroll  c cancel  p pause"
	case m.subject.resource != "":
		keys = "q quit  esc back  up/down select  e explain  c cancel  p pause"
	}
	return m.paint.label(fit(keys, m.width))
}

// message is what there is to say or to answer.
func (m *top) message() string {
	switch {
	case m.canceling != nil:
		return m.paint.bad(fit("Cancel task "+m.canceling.task+"? y: yes, any other key: no", m.width))
	case m.typing:
		return fit("/"+m.filter+"_", m.width)
	case m.note != "":
		return fit(m.note, m.width)
	case m.trouble() != "":
		return m.paint.bad(fit(m.trouble(), m.width))
	case m.filter != "":
		return fit(fmt.Sprintf("only what has %q in it; esc shows all", m.filter), m.width)
	default:
		return ""
	}
}

// header says how the whole is doing.
func (m *top) header() []string {
	first := "Sluice at " + m.addr
	if m.status != nil {
		first = "Sluice " + m.status.Version + " at " + m.addr
	}
	right := m.now().Format("15:04:05")
	if m.paused {
		right = "paused  " + right
	}
	width := m.width - lipgloss.Width(right) - 2
	lines := []string{m.paint.title(pad(fit(first, width), width)) + "  " + right}
	if m.status != nil && !m.status.DatabaseConnected {
		lines = append(lines, m.paint.bad(fit("the database does not answer", m.width)))
	} else if m.status != nil && !m.status.SchedulerLeads {
		lines = append(lines, m.paint.bad(fit("no scheduler leads; tasks are taken in, but none starts", m.width)))
	}
	lines = append(lines, m.labeled("Tasks", m.tasksWords()), m.labeled("Slots", m.slotsWords()))
	lines = append(lines, m.labeled("Ended", m.endedWords()), m.labeled("Times", m.timesWords()))
	return append(lines, "")
}

func (m *top) labeled(label, words string) string {
	return m.paint.label(pad(label, 7)) + fit(words, m.width-7)
}

func (m *top) tasksWords() string {
	switch {
	case m.load != nil:
		l := m.load
		words := fmt.Sprintf("%d waiting: %d blocked, %d ready", l.Blocked+l.Ready+l.Resting, l.Blocked, l.Ready)
		if l.Resting > 0 {
			words += fmt.Sprintf(", %d retrying", l.Resting)
		}
		return words + fmt.Sprintf("   %d running", l.Given)
	case m.status != nil:
		return fmt.Sprintf("%d waiting   %d running", m.status.Live[task.Waiting], m.status.Live[task.Running]+m.status.Live[task.Canceling])
	default:
		return "..."
	}
}

func (m *top) slotsWords() string {
	if m.load == nil {
		return "..."
	}
	words := fmt.Sprintf("%d of %d used   %d could run at once   %s", m.load.Slots-m.load.FreeSlots, m.load.Slots, m.load.Runnable,
		plural(m.load.Executors, "worker", "workers"))
	if longest := max(m.load.LongestBlocked, m.load.LongestReady); longest > 0 {
		words += "   longest wait " + span(longest.Truncate(time.Second))
	}
	return words
}

// endedWords are rates: a window of whole minutes is longer than the minute that was asked for.
func (m *top) endedWords() string {
	if m.minute == nil {
		return "..."
	}
	minutes := m.now().Sub(m.minute.From).Minutes()
	if minutes <= 0 {
		return "nothing yet"
	}
	rate := func(n int64) string {
		per := float64(n) / minutes
		if per < 10 && n > 0 {
			return fmt.Sprintf("%.1f", per)
		}
		return fmt.Sprintf("%.0f", per)
	}
	t := m.minute.Total
	return fmt.Sprintf("%s completed, %s failed, %s canceled a minute, of late", rate(t.Completed), rate(t.Failed), rate(t.Canceled))
}

func (m *top) timesWords() string {
	if m.minute == nil {
		return "..."
	}
	words := func(name string, p client.Percentiles) string {
		if p.Count == 0 {
			return name + " -"
		}
		return name + " " + span(p.P50) + "/" + span(p.P95)
	}
	t := m.minute.Total
	return strings.Join([]string{words("to unblock", t.Unblock), words("to start", t.Start), words("to run", t.Run)}, "   ") + "   (p50/p95)"
}

// topList is a list as it is drawn: the head has its name in the place of the first column's.
type topList struct {
	rows    []topRow
	head    []string
	flex    []int // columns that are cut if the terminal is narrow, the first ones first
	focused bool
	first   *int
	cursor  int
}

// lists draws all lists, the one that has the focus with most room.
func (m *top) lists(body int) []string {
	var all [panes]topList
	var want, got [panes]int
	for p := range panes {
		all[p] = m.list(p)
		want[p] = max(1, len(all[p].rows))
	}
	// The heads, and an empty line after each list if there is room for them.
	gap := 0
	if body >= 3*int(panes) {
		gap = 1
	}
	left := body - int(panes)*(1+gap) + gap
	for progress := true; left > 0 && progress; {
		progress = false
		for p := range panes {
			share := 1
			if p == m.focus && !m.once {
				share = 3
			}
			share = min(share, left, want[p]-got[p])
			got[p] += share
			left -= share
			progress = progress || share > 0
		}
	}
	var lines []string
	for p := range panes {
		if p > 0 && gap > 0 {
			lines = append(lines, "")
		}
		lines = append(lines, m.draw(all[p], got[p])...)
	}
	return clip(lines, 0, body)
}

// list prepares one.
func (m *top) list(p pane) topList {
	rows := m.rows(p)
	l := topList{rows: rows, focused: p == m.focus && !m.once, first: &m.first[p]}
	count := fmt.Sprint(len(rows))
	number := func(all int64) string {
		if all > int64(len(rows)) {
			return fmt.Sprintf("%s of %d", count, all)
		}
		return count
	}
	if l.focused {
		l.cursor = m.place(rows)
	}
	switch p {
	case paneRunning:
		all := int64(0)
		if m.load != nil {
			all = m.load.Given
		}
		l.head, l.flex = []string{"RUNNING " + number(all), "NAME", "WORKER", "FOR", "PROGRESS"}, []int{4, 1, 2}
	case paneWaiting:
		all := int64(0)
		if m.load != nil {
			all = m.load.Blocked + m.load.Ready + m.load.Resting
		}
		l.head, l.flex = []string{"WAITING " + number(all), "NAME", "AGE", "FOR"}, []int{1, 3}
	case paneResources:
		l.head = []string{"RESOURCES " + number(m.queues.total), "HELD", "BY", "FOR", "WAITING", "FOR"}
		l.flex = []int{0}
	default:
		l.head, l.flex = []string{"WORKERS " + count, "STATE", "TASKS", "UP", "BEAT", "VERSIONS"}, []int{5, 0}
	}
	return l
}

// queueLines draw a resource with its queue.
func (m *top) queueLines(body int) []string {
	rows := m.useRows()
	r := m.queue.resource
	title := inLine(m.subject.resource)
	if r.Name != "" {
		title += fmt.Sprintf(": %s, %s", plural(r.Holders, "task holds it", "tasks hold it"), plural(r.Waiting, "waits", "wait"))
	}
	first := 0
	l := topList{
		rows: rows, head: []string{fmt.Sprintf("QUEUE %d", len(rows)), "NAME", "MODE", "STATE", "FOR"}, flex: []int{1}, focused: true,
		cursor: m.place(rows), first: &first,
	}
	if l.cursor > body-4 {
		first = l.cursor - body + 4
	}
	return append([]string{m.paint.title(fit(title, m.width))}, m.draw(l, body-2)...)
}

// textLines draw an explanation.
func (m *top) textLines(body int) []string {
	lines := []string{m.paint.title(fit("Task "+m.subject.task, m.width))}
	if m.text == nil {
		return append(lines, "...")
	}
	var wrapped []string
	for _, line := range m.text {
		wrapped = append(wrapped, wrap(line, m.width)...)
	}
	m.scroll = max(0, min(m.scroll, len(wrapped)-(body-1)))
	return append(lines, clip(wrapped, m.scroll, body-1)...)
}

// draw draws a list with room for so many rows.
func (m *top) draw(l topList, room int) []string {
	if l.cursor < *l.first {
		*l.first = l.cursor
	}
	if l.cursor >= *l.first+room {
		*l.first = l.cursor - room + 1
	}
	*l.first = max(0, min(*l.first, len(l.rows)-room))
	shown := l.rows[*l.first:min(len(l.rows), *l.first+max(0, room))]
	widths := m.widths(l, shown)
	line := func(mark string, cells []string, look func(string) string) string {
		return look(fit(strings.TrimRight(mark+layOut(cells, widths), " "), m.width))
	}
	head := m.paint.head
	if l.focused {
		head = m.paint.selected
	}
	lines := []string{line(" ", l.head, head)}
	for i, row := range shown {
		switch {
		case l.focused && *l.first+i == l.cursor:
			lines = append(lines, line(">", row.cells, m.paint.selected))
		case row.bad:
			lines = append(lines, line(" ", row.cells, m.paint.bad))
		default:
			lines = append(lines, line(" ", row.cells, same))
		}
	}
	if len(l.rows) == 0 && room > 0 {
		lines = append(lines, " none")
	}
	return lines
}

// gapBetween is how far columns are apart.
const gapBetween = 2

// widths are those of the columns, together not wider than the terminal. One column is left for the mark.
func (m *top) widths(l topList, rows []topRow) []int {
	made := make([]int, len(l.head))
	all := 1 + gapBetween*(len(made)-1)
	for i, title := range l.head {
		made[i] = lipgloss.Width(title)
		for _, row := range rows {
			made[i] = max(made[i], lipgloss.Width(row.cells[i]))
		}
		all += made[i]
	}
	for _, least := range []int{12, 8, 4} {
		for _, i := range l.flex {
			less := min(max(0, made[i]-least), max(0, all-m.width))
			made[i] -= less
			all -= less
		}
	}
	return made
}

// layOut makes a line of cells, each as wide as its column.
func layOut(cells []string, widths []int) string {
	made := make([]string, len(cells))
	for i, cell := range cells {
		made[i] = pad(fit(cell, widths[i]), widths[i])
	}
	return strings.Join(made, strings.Repeat(" ", gapBetween))
}

// fit cuts a text to so many columns of a terminal.
func fit(text string, width int) string {
	if lipgloss.Width(text) <= width {
		return text
	}
	var made strings.Builder
	left := width - 1
	for _, r := range text {
		if left -= lipgloss.Width(string(r)); left < 0 {
			break
		}
		made.WriteRune(r)
	}
	if width < 1 {
		return ""
	}
	return made.String() + "…"
}

// pad fills a text up with blanks.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-lipgloss.Width(text)))
}

// wrap breaks a line where it must be broken, and goes on as far in as it began.
func wrap(line string, width int) []string {
	margin := min(len(line)-len(strings.TrimLeft(line, " ")), width/2)
	var made []string
	for lipgloss.Width(line) > width {
		cut, at := 0, 0
		for i, r := range line {
			if at += lipgloss.Width(string(r)); at > width {
				break
			}
			cut = i + len(string(r))
		}
		if blank := strings.LastIndexByte(line[:cut], ' '); blank > margin {
			cut = blank
		}
		if cut == 0 {
			break
		}
		made = append(made, strings.TrimRight(line[:cut], " "))
		line = strings.Repeat(" ", margin) + strings.TrimLeft(line[cut:], " ")
	}
	return append(made, line)
}

// clip is as many lines as there is room for, from one on.
func clip(lines []string, from, room int) []string {
	return lines[min(from, len(lines)):min(from+max(0, room), len(lines))]
}
