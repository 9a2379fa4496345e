package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// top is what `sluice top` shows, and what its keys change.
type top struct {
	ask   *topQuestions // nil in tests of what is shown
	addr  string
	now   func() time.Time
	paint palette

	width, height int
	// once: nobody can press a key.
	once bool

	// What was answered last; nil or empty before. errs are those of the last answers.
	status  *client.Status
	load    *client.Load
	minute  *client.Stats
	crew    topCrew
	waiting []client.Task
	queues  topQueues
	errs    map[topic]error
	// asking is what is asked, or will be. paused keeps what is shown as it is.
	asking map[topic]bool
	paused bool

	focus  pane
	orders [panes]int
	cursor [panes]string // what is selected, by its key
	first  [panes]int    // the first row that is shown
	filter string
	typing bool // the filter

	// subject is what is looked at closely, with what is shown of it: a text, or a queue of which one is selected.
	subject subject
	text    []string
	scroll  int
	queue   topQueue
	use     string
	// returns is where the user came from. round counts what was looked at: what an earlier round asked for comes too late.
	returns []subject
	round   int

	help bool
	// canceling is the task that is canceled if the user says so, note what there is to say.
	canceling *topRow
	note      string
}

// pane is one of the lists.
type pane int

const (
	paneRunning pane = iota
	paneWaiting
	paneResources
	paneWorkers
	panes
)

func newTop(ask *topQuestions, addr string, now func() time.Time, paint palette) *top {
	return &top{ask: ask, addr: addr, now: now, paint: paint, width: 80, height: 24, errs: map[topic]error{}, asking: map[topic]bool{}}
}

// topDue says that it is time to ask again.
type topDue struct {
	about topic
	round int
}

// Init asks all questions for the first time.
func (m *top) Init() tea.Cmd { return m.askAll() }

func (m *top) askAll() tea.Cmd {
	var all []tea.Cmd
	for t := range topics {
		all = append(all, m.question(t))
	}
	if m.subject != (subject{}) {
		all = append(all, m.question(aboutSubject))
	}
	return tea.Batch(all...)
}

// question asks about something, unless that is being done.
func (m *top) question(t topic) tea.Cmd {
	if m.asking[t] || m.ask == nil {
		return nil
	}
	m.asking[t] = true
	return m.ask.ask(t, m.subject, m.roundOf(t))
}

func (m *top) roundOf(t topic) int {
	if t == aboutSubject {
		return m.round
	}
	return 0
}

// Update takes in what happened.
func (m *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case topAnswer:
		return m, m.answered(msg)
	case topDue:
		if msg.round != m.roundOf(msg.about) {
			return m, nil
		}
		m.asking[msg.about] = false
		if m.paused {
			return m, nil
		}
		return m, m.question(msg.about)
	case tea.PasteMsg:
		if m.typing {
			m.filter += printable(strings.TrimSpace(msg.Content))
		}
	case tea.KeyPressMsg:
		return m, m.pressed(msg)
	}
	return m, nil
}

// answered takes in an answer and has the next one asked for.
func (m *top) answered(a topAnswer) tea.Cmd {
	if a.about == aboutCancel {
		m.canceled(a)
		return nil
	}
	if a.round != m.roundOf(a.about) {
		return nil // the user looks at something else now
	}
	if !m.paused || a.about == aboutSubject && m.text == nil && m.queue.resource.Name == "" {
		m.take(a)
	}
	return tea.Tick(a.about.pause(a.took), func(time.Time) tea.Msg { return topDue{a.about, a.round} })
}

// take takes in an answer. What is shown stays when there is none.
func (m *top) take(a topAnswer) {
	m.errs[a.about] = a.err
	if a.err != nil {
		return
	}
	switch value := a.value.(type) {
	case client.Status:
		m.status = &value
	case client.Load:
		m.load = &value
	case client.Stats:
		m.minute = &value
	case topCrew:
		m.crew = value
	case topQueues:
		m.queues = value
	case topQueue:
		m.queue = value
	case []client.Task:
		m.waiting = value
	case string:
		m.text = strings.Split(strings.TrimRight(value, "\n"), "\n")
	}
}

func (m *top) canceled(a topAnswer) {
	if a.err != nil {
		m.note = m.words(a.err)
		return
	}
	t, _ := a.value.(client.Task)
	m.note = fmt.Sprintf("%s is %s", t.ID, t.State)
}

func (m *top) words(err error) string {
	return printable(strings.Join(explain(&callError{addr: m.addr, err: err}).lines, "; "))
}

// trouble is the first thing that is wrong with what is shown.
func (m *top) trouble() string {
	for _, t := range append([]topic{aboutSubject}, everything()...) {
		if err := m.errs[t]; err != nil && (t != aboutSubject || m.subject != (subject{})) {
			return m.words(err)
		}
	}
	return ""
}

func everything() (all []topic) {
	for t := range topics {
		all = append(all, t)
	}
	return all
}

// pressed does what a key is for.
func (m *top) pressed(key tea.KeyPressMsg) tea.Cmd {
	name := key.String()
	if name == "ctrl+c" {
		return tea.Quit
	}
	m.note = ""
	switch {
	case m.canceling != nil:
		return m.decide(name)
	case m.typing:
		m.typed(key)
		return nil
	case m.help:
		m.help = false
		if name == "q" {
			return tea.Quit
		}
		return nil
	}
	switch name {
	case "q":
		return tea.Quit
	case "?", "h":
		m.help = true
	case "p", "space":
		m.paused = !m.paused
		if !m.paused {
			return m.askAll()
		}
	case "esc", "backspace", "left":
		return m.back()
	case "/":
		m.typing = m.subject == (subject{})
	case "e":
		if row := m.selected(); row != nil && row.task != "" {
			return m.lookAt(subject{task: row.task})
		}
	case "enter", "right":
		return m.enter()
	case "c":
		if row := m.selected(); row != nil && row.task != "" {
			m.canceling = row
		}
	default:
		m.moved(name)
	}
	return nil
}

// decide cancels, or not.
func (m *top) decide(name string) tea.Cmd {
	row := m.canceling
	m.canceling = nil
	if name != "y" {
		m.note = "not canceled"
		return nil
	}
	m.note = "canceling " + row.task
	if m.ask == nil {
		return nil
	}
	return m.ask.ask(aboutCancel, subject{task: row.task}, 0)
}

// typed changes the filter.
func (m *top) typed(key tea.KeyPressMsg) {
	switch key.String() {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		if runes := []rune(m.filter); len(runes) > 0 {
			m.filter = string(runes[:len(runes)-1])
		}
	case "ctrl+u":
		m.filter = ""
	default:
		m.filter += key.Text
	}
}

// moved goes somewhere else.
func (m *top) moved(name string) {
	switch name {
	case "tab":
		m.turn((m.focus + 1) % panes)
	case "shift+tab":
		m.turn((m.focus + panes - 1) % panes)
	case "1", "2", "3", "4":
		m.turn(pane(name[0] - '1'))
	case "s":
		if m.subject == (subject{}) {
			m.orders[m.focus] = (m.orders[m.focus] + 1) % len(orders[m.focus])
			m.note = "sorted by " + orders[m.focus][m.orders[m.focus]]
		}
	case "up", "k":
		m.step(-1)
	case "down", "j":
		m.step(1)
	case "pgup":
		m.step(-10)
	case "pgdown":
		m.step(10)
	case "home", "g":
		m.step(-1 << 20)
	case "end", "G":
		m.step(1 << 20)
	}
}

func (m *top) turn(to pane) {
	if m.subject == (subject{}) {
		m.focus = to
	}
}

// step moves the selection, or the text.
func (m *top) step(by int) {
	if m.subject.task != "" {
		m.scroll = max(0, min(m.scroll+by, len(m.text)-1))
		return
	}
	rows := m.here()
	if len(rows) == 0 {
		return
	}
	at := min(max(m.place(rows)+by, 0), len(rows)-1)
	if m.subject.resource != "" {
		m.use = rows[at].key
	} else {
		m.cursor[m.focus] = rows[at].key
	}
}

// here are the rows that the selection moves in.
func (m *top) here() []topRow {
	if m.subject.resource != "" {
		return m.useRows()
	}
	return m.rows(m.focus)
}

// place is where the selection is. What was selected and is gone is followed by nothing: the first one is.
func (m *top) place(rows []topRow) int {
	key := m.cursor[m.focus]
	if m.subject.resource != "" {
		key = m.use
	}
	return max(0, slices.IndexFunc(rows, func(r topRow) bool { return r.key == key }))
}

// selected is the row that a key is about; nil if there is none.
func (m *top) selected() *topRow {
	if m.subject.task != "" {
		return &topRow{key: m.subject.task, task: m.subject.task}
	}
	rows := m.here()
	if len(rows) == 0 {
		return nil
	}
	return &rows[m.place(rows)]
}

// enter looks at what is selected.
func (m *top) enter() tea.Cmd {
	row := m.selected()
	switch {
	case row == nil || m.subject.task != "":
		return nil
	case row.task != "":
		return m.lookAt(subject{task: row.task})
	case m.focus == paneResources:
		return m.lookAt(subject{resource: row.key})
	default: // what an executor runs
		m.filter, m.focus = row.cells[0], paneRunning
		return nil
	}
}

func (m *top) lookAt(s subject) tea.Cmd {
	if s == m.subject {
		return nil
	}
	if m.subject != (subject{}) {
		m.returns = append(m.returns, m.subject)
	}
	return m.show(s)
}

func (m *top) show(s subject) tea.Cmd {
	m.subject, m.text, m.scroll, m.queue = s, nil, 0, topQueue{}
	m.errs[aboutSubject], m.asking[aboutSubject] = nil, false
	m.round++
	if s == (subject{}) {
		return nil
	}
	return m.question(aboutSubject)
}

// back leaves what is looked at, or the filter.
func (m *top) back() tea.Cmd {
	switch {
	case len(m.returns) > 0:
		last := m.returns[len(m.returns)-1]
		m.returns = m.returns[:len(m.returns)-1]
		return m.show(last)
	case m.subject != (subject{}):
		return m.show(subject{})
	default:
		m.filter = ""
	}
	return nil
}

// topRow is one line of a list.
type topRow struct {
	// key is by what it is known, task the task that it is about, "" if it is not about one.
	key, task string
	cells     []string
	// found is what the filter looks in, beside the cells.
	found string
	// bad rows are worth a look.
	bad bool
}

// orders are the names of the orders of each list, the usual one first.
var orders = [panes][]string{
	paneRunning:   {"time running", "name", "worker"},
	paneWaiting:   {"age, the newest first", "name"},
	paneResources: {"length of the queue", "time held", "name"},
	paneWorkers:   {"name", "tasks"},
}

// rows are those of a list that the filter lets through, in its order.
func (m *top) rows(p pane) []topRow {
	var rows []topRow
	switch p {
	case paneRunning:
		rows = m.runningRows()
	case paneWaiting:
		rows = m.waitingRows()
	case paneResources:
		rows = m.resourceRows()
	default:
		rows = m.workerRows()
	}
	if m.filter == "" {
		return rows
	}
	return slices.DeleteFunc(rows, func(r topRow) bool {
		return !strings.Contains(strings.ToLower(strings.Join(r.cells, " ")+" "+r.found), strings.ToLower(m.filter))
	})
}

func (m *top) runningRows() []topRow {
	tasks := slices.Clone(m.crew.running)
	slices.SortStableFunc(tasks, func(a, b client.Task) int {
		first := 0
		switch m.orders[paneRunning] {
		case 1:
			first = strings.Compare(a.Name, b.Name)
		case 2:
			first = strings.Compare(a.Executor, b.Executor)
		}
		return cmp.Or(first, timeOf(a.StartedAt).Compare(timeOf(b.StartedAt)), cmp.Compare(a.Seq, b.Seq))
	})
	return views(tasks, func(t client.Task) topRow {
		row := m.taskRow(t)
		row.cells = append(row.cells, printable(t.Executor), m.ago(timeOf(t.StartedAt)), progressOf(t))
		row.bad = t.State == task.Canceling
		return row
	})
}

func (m *top) waitingRows() []topRow {
	tasks := slices.Clone(m.waiting)
	if m.orders[paneWaiting] == 1 {
		slices.SortStableFunc(tasks, func(a, b client.Task) int { return strings.Compare(a.Name, b.Name) })
	}
	return views(tasks, func(t client.Task) topRow {
		row := m.taskRow(t)
		lacks := "resources"
		switch {
		case t.RetryAt != nil:
			lacks = fmt.Sprintf("attempt %d of %d", t.Attempt+1, t.MaxAttempts())
		case t.UnblockedAt != nil:
			lacks = "a worker"
		}
		row.cells = append(row.cells, m.ago(t.CreatedAt), lacks)
		return row
	})
}

func (m *top) taskRow(t client.Task) topRow {
	found := append([]string{t.ID, t.CorrelationID}, t.Exclusive...)
	return topRow{key: t.ID, task: t.ID, cells: []string{m.short(t.ID), printable(t.Name)}, found: strings.Join(append(found, t.Shared...), " ")}
}

// progressOf is what a task told of its work last, in few words.
func progressOf(t client.Task) string {
	if t.State == task.Canceling {
		return "canceling"
	}
	var shown *client.Progress
	for i, p := range t.Progress {
		if shown == nil || !p.State.Final() {
			shown = &t.Progress[i]
		}
	}
	if shown == nil {
		return ""
	}
	words := cmp.Or(shown.Message, shown.Code)
	switch {
	case shown.Total != nil && *shown.Total > 0:
		words = fmt.Sprintf("%3d%% %s", 100*min(shown.Done, *shown.Total) / *shown.Total, words)
	case shown.Done > 0:
		words = fmt.Sprintf("%d %s", shown.Done, words)
	}
	return inLine(words)
}

func (m *top) resourceRows() []topRow {
	resources := slices.Clone(m.queues.resources)
	switch m.orders[paneResources] {
	case 1:
		slices.SortStableFunc(resources, func(a, b client.Resource) int { return timeOf(a.HeldSince).Compare(timeOf(b.HeldSince)) })
	case 2:
		slices.SortStableFunc(resources, func(a, b client.Resource) int { return strings.Compare(a.Name, b.Name) })
	}
	return views(resources, func(r client.Resource) topRow {
		return topRow{key: r.Name, cells: []string{
			inLine(r.Name), held(r), fmt.Sprint(r.Holders), m.ago(timeOf(r.HeldSince)), fmt.Sprint(r.Waiting), m.ago(timeOf(r.WaitingSince)),
		}}
	})
}

func (m *top) useRows() []topRow {
	return views(m.queue.uses, func(u client.ResourceUse) topRow {
		return topRow{key: u.TaskID, task: u.TaskID, cells: []string{
			m.short(u.TaskID), inLine(u.Name), mode(u.Exclusive), map[bool]string{true: "holds", false: "waits"}[u.Granted], m.ago(u.Since),
		}}
	})
}

func (m *top) workerRows() []topRow {
	workers := slices.Clone(m.crew.workers)
	if m.orders[paneWorkers] == 1 {
		slices.SortStableFunc(workers, func(a, b client.Worker) int { return len(b.Running) - len(a.Running) })
	}
	return views(workers, func(w client.Worker) topRow {
		return topRow{
			key: w.Incarnation, cells: []string{inLine(w.Name), workerState(w), fmt.Sprint(len(w.Running)), m.ago(w.RegisteredAt), m.ago(w.LastBeatAt), inLine(pairs(w.Versions))},
			bad: workerState(w) != "online",
		}
	})
}

// short is an id that fits: the end of it is what differs, for all of them begin with the time.
func (m *top) short(id string) string {
	if m.width >= 120 || len(id) < 12 {
		return id
	}
	return "…" + id[len(id)-12:]
}

func (m *top) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(m.now().Sub(t).Truncate(time.Second))
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func inLine(text string) string { return strings.ReplaceAll(printable(text), "\n", " ") }
