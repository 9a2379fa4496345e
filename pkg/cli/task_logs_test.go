package cli

import (
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// A log is followed from the first attempt, which is there when it begins, through a second one to the end.
func TestALogIsFollowedThroughAllAttempts(t *testing.T) {
	for form, want := range map[string]outcome{
		"text": {stdout: "one\ntwo\nagain \x1b[1m\n", stderr: "attempt 2:\n"},
		"json": {stdout: `{"id":"` + clienttest.ID(1) + `","text":"one\n","skipped":false,"attempt":1,"state":"running"}
{"id":"` + clienttest.ID(1) + `","text":"two\n","skipped":false,"attempt":1,"state":"running"}
{"id":"` + clienttest.ID(1) + `","text":"","skipped":false,"attempt":2,"state":"running"}
{"id":"` + clienttest.ID(1) + `","text":"again \u001b[1m\n","skipped":false,"attempt":2,"state":"completed"}
`},
	} {
		t.Run(form, func(t *testing.T) {
			server := clienttest.New(t)
			id := server.Put(&taskv1.Task{Name: "x"}).GetId()
			server.Change(id, clienttest.Run)
			server.Print(id, "one\n")
			// What happens when something was printed, that nothing comes together which is expected one by one.
			stdout := &steps{do: map[string]func(){
				"one": func() { server.Print(id, "two\n") },
				"two": func() {
					server.Change(id, func(t *taskv1.Task) { t.Attempt = 2 })
					if form == "text" {
						server.End(id, "again \x1b[1m\n")
					}
				},
				`"attempt":2`: func() { server.End(id, "again \x1b[1m\n") },
			}}
			var stderr strings.Builder
			code := Main(t.Context(), []string{"task", "logs", "-f", id, "--output", form, "--addr", server.Addr},
				Environment{Stdout: stdout, Stderr: &stderr, LookupEnv: lookup(nil), Now: now})
			check(t, want, outcome{code: code, stdout: stdout.text.String(), stderr: stderr.String()})
		})
	}
}

// steps does something, once, when a text was written.
type steps struct {
	text strings.Builder
	do   map[string]func()
}

// Write does what is to be done.
func (s *steps) Write(p []byte) (int, error) {
	s.text.Write(p)
	for word, do := range s.do {
		if strings.Contains(s.text.String(), word) {
			delete(s.do, word)
			do()
		}
	}
	return len(p), nil
}

func TestWhatIsLeftOutOfALogIsSaid(t *testing.T) {
	server := clienttest.New(t)
	server.Skips = true
	server.Log = &statusv1.GetTaskLogResponse{}
	id := server.Put(&taskv1.Task{Name: "x"}).GetId()
	server.Change(id, clienttest.Run)
	server.End(id, "the end\n")
	check(t, outcome{stdout: "the end\n", stderr: "something was left out here\n"}, ask(t, server, "task", "logs", "--follow", id))
	if got := ask(t, server, "task", "logs", "--follow", clienttest.ID(7)); got.code != exitNo || got.stdout != "" {
		t.Errorf("of no task: %+v", got)
	}
}
