package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// looked is a server with something to look at.
func looked(t *testing.T) *clienttest.Server {
	t.Helper()
	server := busy(t)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now().Add(-d)) }
	server.Tell(runningID, &statusv1.TaskReport{Progress: []*taskv1.Progress{
		{Code: "a", Message: "Listing", State: taskv1.State_STATE_COMPLETED, Done: 5},
		{Code: "b", Message: "Downloading \x1b]0;evil\x07", State: taskv1.State_STATE_RUNNING, Total: proto.Int64(50), Done: 12},
	}})
	server.Load = &schedulerv1.GetLoadResponse{
		Blocked: 8, Ready: 3, Resting: 1, Given: 1, Runnable: 4, Slots: 8, FreeSlots: 7, Executors: 2,
		LongestBlocked: durationpb.New(80 * time.Second), LongestReady: durationpb.New(3 * time.Second),
	}
	server.Stats = &statusv1.GetStatsResponse{
		From: ago(90 * time.Second),
		Total: &statusv1.NameStats{
			Finished: 200, Completed: 180, Failed: 3,
			Unblock: &statusv1.Percentiles{Count: 200, P50: 0.0012, P95: 0.8, P99: 2, Max: 61},
			Start:   &statusv1.Percentiles{Count: 200, P50: 0.0004, P95: 0.003, P99: 0.01, Max: 0.5},
		},
	}
	server.Resources = &schedulerv1.ListResourcesResponse{Total: 1234, Resources: []*schedulerv1.Resource{
		{Name: "reports/2026", Exclusive: true, Holders: 1, Waiting: 100, HeldSince: ago(87 * time.Second), WaitingSince: ago(86 * time.Second)},
		{Name: "settings", Holders: 17, Waiting: 2, HeldSince: ago(5 * time.Minute), WaitingSince: ago(time.Second)},
		{Name: "index \x1b[31m", Holders: 1, HeldSince: ago(time.Hour)},
	}}
	server.Resource = &schedulerv1.GetResourceResponse{
		Resource: server.Resources.GetResources()[0],
		Queue: []*schedulerv1.ResourceUse{
			{TaskId: runningID, Name: "test.sleep", Exclusive: true, Granted: true, CreatedAt: ago(88 * time.Second), Since: ago(87 * time.Second)},
			{TaskId: waitingID, Name: "test.noop", CreatedAt: ago(86 * time.Second), Since: ago(86 * time.Second)},
		},
	}
	return server
}

func TestTopOnce(t *testing.T) {
	server := looked(t)
	variables := map[string]string{"SLUICE_ADDR": server.Addr}
	for width, name := range map[string]string{"": "top", "140": "top-wide", "56": "top-narrow"} {
		variables["COLUMNS"] = width
		got := sluice(t, variables, "top", "--once")
		got.stdout = strings.ReplaceAll(got.stdout, server.Addr, "127.0.0.1:24820")
		golden(t, "text/"+name, got.String())
	}
	// Where there is no terminal, there is only one screen.
	again := sluice(t, variables, "top")
	if again.code != exitOK || !strings.Contains(again.stdout, "RUNNING 1") {
		t.Errorf("without a terminal: %+v", again)
	}
}

func TestTopOfNothing(t *testing.T) {
	server := clienttest.New(t)
	server.System = &statusv1.GetSystemStatusResponse{Version: "v0.1.0"}
	server.Apps, server.Resources, server.Stats = &heartbeatv1.ListAppsResponse{}, &schedulerv1.ListResourcesResponse{}, &statusv1.GetStatsResponse{}
	got := ask(t, server, "top", "--once")
	got.stdout = strings.ReplaceAll(got.stdout, server.Addr, "127.0.0.1:24820")
	golden(t, "text/top-dead", got.String())
	server.Stop()
	if got := ask(t, server, "top", "--once"); got.code != exitNo || !strings.HasPrefix(got.stderr, "sluice: no Sluice answers at ") {
		t.Errorf("where nobody answers: %+v", got)
	}
}

// eyes looks at a top that asks a server, one step after the other.
type eyes struct {
	t *testing.T
	*top
}

func look(t *testing.T, server *clienttest.Server, width, height int) eyes {
	t.Helper()
	c, err := client.Dial(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	env := &Environment{Now: now, LookupEnv: lookup(nil)}
	e := eyes{t, newTop(&topQuestions{ctx: t.Context(), session: &session{Client: c, Environment: env}}, server.Addr, now, plain)}
	e.Update(tea.WindowSizeMsg{Width: width, Height: height})
	e.do(e.Init())
	return e
}

// do does what a command says, as far as it asks something; nobody waits for what is to be asked again.
func (e eyes) do(cmd tea.Cmd) {
	e.t.Helper()
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case tea.BatchMsg:
		for _, one := range msg {
			e.do(one)
		}
	case tea.QuitMsg:
		e.t.Error("it ended")
	default:
		e.Update(msg)
	}
}

// press presses keys: characters, or names in brackets.
func (e eyes) press(keys ...string) {
	e.t.Helper()
	for _, name := range keys {
		_, cmd := e.Update(keyOf(name))
		e.do(cmd)
	}
}

func keyOf(name string) tea.KeyPressMsg {
	special := map[string]rune{
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown, "backspace": tea.KeyBackspace,
		"end": tea.KeyEnd, "home": tea.KeyHome, "pgdown": tea.KeyPgDown,
	}
	if code, is := special[name]; is {
		return tea.KeyPressMsg{Code: code}
	}
	if name == "space" {
		return tea.KeyPressMsg{Code: ' ', Text: " "}
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

var blanks = regexp.MustCompile(" {2,}")

// shows fails unless all the words are to be seen.
func (e eyes) shows(words ...string) {
	e.t.Helper()
	for _, word := range words {
		// How far columns are apart depends on what else stands there.
		if !strings.Contains(blanks.ReplaceAllString(e.screen(), "  "), word) {
			e.t.Errorf("%q is not to be seen:\n%s", word, e.screen())
		}
	}
}

func (e eyes) hides(words ...string) {
	e.t.Helper()
	for _, word := range words {
		if strings.Contains(e.screen(), word) {
			e.t.Errorf("%q is to be seen:\n%s", word, e.screen())
		}
	}
}

func TestTopFitsEveryTerminal(t *testing.T) {
	server := looked(t)
	for range 50 {
		server.Put(&taskv1.Task{Name: strings.Repeat("näme ", 30)})
	}
	e := look(t, server, 80, 24)
	e.paint = colors
	sizes := [][2]int{{80, 24}, {200, 60}, {80, 10}, {40, 24}, {20, 8}, {10, 3}, {1, 1}}
	for _, keys := range [][]string{{}, {"2", "end"}, {"3"}, {"4"}, {"?"}, {"x", "3", "enter"}, {"esc", "1", "e"}, {"esc", "c"}, {"n", "/", "a"}} {
		e.press(keys...)
		for _, size := range sizes {
			e.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			lines := strings.Split(e.screen(), "\n")
			if len(lines) > size[1] || len(lines) < min(size[1], 2) {
				t.Errorf("%v: %d lines on a terminal of %v", keys, len(lines), size)
			}
			for _, line := range lines {
				if width := lipgloss.Width(line); width > size[0] && size[0] >= 20 {
					t.Errorf("%v: %d columns on a terminal of %v: %q", keys, width, size, line)
				}
			}
		}
		e.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	}
}

func TestNobodyWritesToTheTerminalOfWhoLooks(t *testing.T) {
	e := look(t, looked(t), 80, 40)
	for _, keys := range [][]string{{}, {"e"}, {"esc", "3", "enter"}} {
		e.press(keys...)
		if at := strings.IndexFunc(e.screen(), func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); at >= 0 {
			t.Errorf("%v: a control character in %q", keys, e.screen()[at:])
		}
	}
	e.hides("\x1b")
}

func TestTopSelectsFiltersAndSorts(t *testing.T) {
	server := looked(t)
	for _, name := range []string{"b.task", "a.task"} {
		server.Put(&taskv1.Task{Name: name, ExclusiveResources: []string{"of " + name}, CorrelationId: "id of " + name})
	}
	e := look(t, server, 80, 40)
	e.shows("RUNNING 1", "24% Downloading", "WAITING 3 of 12", "RESOURCES 3 of 1234", "WORKERS 4")
	e.press("2")
	e.shows(">…000000000007  a.task", " …000000000006  b.task")
	e.press("down")
	e.shows(" …000000000007  a.task", ">…000000000006  b.task")
	e.press("s")
	e.shows("sorted by name", ">…000000000006  b.task") // still the same
	if screen := e.screen(); strings.Index(screen, "a.task") > strings.Index(screen, "b.task") {
		t.Errorf("not sorted:\n%s", screen)
	}
	e.press("/", "O", "F", "space", "b", "x", "backspace")
	e.shows("/OF b_", "WAITING 1 of 12", ">…000000000006  b.task", "RUNNING 0")
	e.press("enter")
	e.shows(`only what has "OF b" in it`)
	e.press("esc")
	e.shows("WAITING 3", "a.task")
	e.press("/", "i", "d", "esc")
	e.shows("WAITING 3")
	e.press("4", "enter") // what a worker runs
	e.shows(`only what has "host-1" in it`)
	e.press("esc", "4", "s")
	e.shows("sorted by tasks")
	e.press("3", "s")
	if screen := e.screen(); !strings.Contains(screen, "sorted by time held") || strings.Index(screen, "index") > strings.Index(screen, "reports/2026") {
		t.Errorf("not sorted by time:\n%s", screen)
	}
}

func TestTopExplainsAndShowsQueues(t *testing.T) {
	server := looked(t)
	e := look(t, server, 80, 30)
	e.press("2", "e")
	summary := server.Explanation.GetSummary()[:20]
	e.shows("Task "+waitingID, summary, "wants exclusive a", "esc back")
	e.press("end", "down")
	e.press("home")
	e.shows(summary)
	e.press("esc")
	e.shows("WAITING 1")
	e.press("3", "enter")
	e.shows("reports/2026: 1 task holds it, 100 wait", "QUEUE 2", ">…000000000004  test.sleep  exclusive  holds  1m27s")
	e.press("down", "enter")
	e.shows("Task " + waitingID)
	e.press("esc")
	e.shows("QUEUE 2")
	e.press("esc")
	e.shows("RESOURCES 3")
	e.press("?")
	e.shows("any key goes back", "cancel the selected task")
	e.press("x")
	e.shows("RESOURCES 3")
}

func TestTopAsksBeforeItCancels(t *testing.T) {
	server := looked(t)
	e := look(t, server, 80, 24)
	state := func() taskv1.State {
		state := taskv1.State_STATE_UNSPECIFIED
		server.Change(waitingID, func(t *taskv1.Task) { state = t.GetState() })
		return state
	}
	for _, key := range []string{"n", "enter", "c", "q", "esc"} {
		e.press("2", "c")
		e.shows("Cancel task " + waitingID + "? y: yes, any other key: no")
		e.press(key)
		e.shows("not canceled")
	}
	if got := state(); got != taskv1.State_STATE_WAITING {
		t.Errorf("the task is %s", got)
	}
	e.press("c", "y")
	e.shows(waitingID + " is canceled")
	if got := state(); got != taskv1.State_STATE_CANCELED {
		t.Errorf("the task is %s", got)
	}
	server.Change(waitingID, clienttest.Complete("1"))
	e.press("c", "y")
	e.shows("is completed and can't be canceled")
	e.press("4", "c") // an executor is not a task
	e.hides("Cancel task")
}

func TestTopSaysWhatIsWrongAndKeepsWhatItHas(t *testing.T) {
	server := looked(t)
	e := look(t, server, 80, 24)
	server.Stop()
	e.do(e.ask.ask(aboutLoad, subject{}, 0))
	e.shows("no Sluice answers at", "8 blocked", "RUNNING 1")
	server.Start()
	e.do(e.ask.ask(aboutLoad, subject{}, 0))
	e.hides("no Sluice answers")
	server.System.DatabaseConnected = false
	e.do(e.ask.ask(aboutStatus, subject{}, 0))
	e.shows("the database does not answer")
}

func TestTopThatIsPausedStays(t *testing.T) {
	server := looked(t)
	e := look(t, server, 80, 24)
	e.press("p")
	e.shows("paused")
	server.Load.Blocked = 77
	e.do(e.ask.ask(aboutLoad, subject{}, 0)) // was on its way
	e.hides("77 blocked")
	if _, cmd := e.Update(topDue{about: aboutLoad}); cmd != nil {
		t.Error("it asks, though it is paused")
	}
	e.press("p") // asks for what is not being asked already
	e.shows("77 blocked")
	e.hides("paused")
}

// Of what the user does not look at any more, nothing is shown.
func TestTopIgnoresAnswersThatComeTooLate(t *testing.T) {
	e := eyes{t, newTop(nil, "addr", now, plain)}
	e.take(topAnswer{about: aboutWaiting, value: []client.Task{{ID: waitingID, Name: "x", State: task.Waiting}}})
	e.press("2", "e")
	late := topAnswer{about: aboutSubject, subject: e.subject, round: e.round, value: "the first"}
	e.press("esc", "e")
	if _, cmd := e.Update(late); cmd != nil {
		t.Error("it asks for more of it")
	}
	e.hides("the first")
	e.Update(topAnswer{about: aboutSubject, subject: e.subject, round: e.round, value: "the second\n"})
	e.shows("the second")
	e.press("esc")
	if _, cmd := e.Update(topDue{aboutSubject, 2}); cmd != nil {
		t.Error("it asks about nothing")
	}
	e.Update(topAnswer{about: aboutSubject, round: e.round, err: errors.New("gone")})
	e.hides("gone")
}

func TestTopAsksMoreRarelyWhenAnswersTakeLong(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{0: time.Second, 50 * time.Millisecond: time.Second, 3 * time.Second: 30 * time.Second} {
		if got := aboutCrew.pause(took); got != want {
			t.Errorf("after %s it waits %s, want %s", took, got, want)
		}
	}
	if got := aboutStatus.pause(0); got != 5*time.Second {
		t.Errorf("the status is asked for after %s", got)
	}
}

func TestLinesAreWrappedWhereTheyMust(t *testing.T) {
	for text, want := range map[string]string{
		"short":                     "short",
		"  one two three":           "  one two|  three",
		"onewordthatistoolong":      "onewordtha|tistoolong",
		"":                          "",
		"      x yyyyyyyyyyyyyyyyy": "      x|     yyyyy|     yyyyy|     yyyyy|     yy",
	} {
		if got := strings.Join(wrap(text, 10), "|"); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"abc": "abc", "abcd": "ab…", "日本": "日…", "": ""} {
		if got := fit(text, 3); got != want {
			t.Errorf("%q was cut to %q, want %q", text, got, want)
		}
	}
	if got := fmt.Sprint(clip([]string{"a", "b"}, 3, -1)); got != "[]" {
		t.Errorf("nothing is %s", got)
	}
}
