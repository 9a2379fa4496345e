package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
)

// system is one running Sluice, as a story sees it: t is the story's.
type system struct {
	t    *testing.T
	dir  string // a folder for this system alone, which its tasks can reach
	work string // where tasks get their working directories
	// rest is the URL of the REST face without a slash at the end, grpc the address for clients.
	rest, grpc string
	*client.Client

	processes map[string]*process
}

// under is the system for another test. When that fails, it prints what the system wrote meanwhile.
func (s *system) under(t *testing.T) *system {
	t.Helper()
	type output struct{ stdout, stderr int }
	before := map[*process]output{}
	for _, p := range s.processes {
		before[p] = output{len(p.stdout()), len(p.stderr())}
	}
	t.Cleanup(func() {
		for name, p := range s.processes {
			if p.ended() && !p.expected.Load() {
				t.Errorf("%s ended by itself: %v", name, p.cmd.ProcessState)
			}
			if strings.Contains(p.stderr()[before[p].stderr:], "DATA RACE") {
				t.Errorf("there is a data race in %s", name)
			}
		}
		if !t.Failed() {
			return
		}
		for name, p := range s.processes {
			t.Logf("%s:\n%s%s", name, p.stdout()[before[p].stdout:], p.stderr()[before[p].stderr:])
		}
	})
	mine := *s
	mine.t = t
	return &mine
}

// connect makes the client of a system whose addresses are known, until a test ends.
func (s *system) connect(until *testing.T, rest, grpc string) {
	s.t.Helper()
	c, err := client.Dial(grpc)
	if err != nil {
		s.t.Fatal(err)
	}
	until.Cleanup(func() { _ = c.Close() }) // it only fails when closed twice
	s.rest, s.grpc, s.Client = rest, grpc, c
}

// file is a path in the system's folder that no other test has.
func (s *system) file(name string) string {
	return filepath.Join(s.dir, fresh(name))
}

// soon bounds a call that must not hang.
func (s *system) soon() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// dispatch hands in a task through gRPC.
func (s *system) dispatch(spec client.Spec) client.Task {
	s.t.Helper()
	made, err := s.Dispatch(s.soon(), spec)
	if err != nil {
		s.t.Fatalf("dispatch %s: %v", spec.Name, err)
	}
	return made
}

// end waits until tasks are final and returns them in the order of ids.
func (s *system) end(ids ...string) []client.Task {
	s.t.Helper()
	ended, err := s.Wait(s.soon(), ids...)
	if err == nil {
		return ended
	}
	for _, one := range ended {
		if why, _ := s.Explain(context.Background(), one.ID); !one.Final() {
			s.t.Errorf("task %s (seq %d, claim %d) is still %s on %q: %s", one.ID, one.Seq, one.Claim, one.State, one.Executor, why.Summary)
		}
	}
	s.t.Fatalf("wait for tasks: %v", err)
	return nil
}

// run hands in a task and returns it when it is final.
func (s *system) run(spec client.Spec) client.Task {
	s.t.Helper()
	return s.end(s.dispatch(spec).ID)[0]
}

// get returns a task as it is now.
func (s *system) get(id string) client.Task {
	s.t.Helper()
	now, err := s.Get(s.soon(), id)
	if err != nil {
		s.t.Fatalf("get task %s: %v", id, err)
	}
	return now
}

// typed is what the command line answered.
type typed struct {
	code           int
	stdout, stderr string
}

// cli runs the command line. It knows the system's address from the environment.
func (s *system) cli(args ...string) typed {
	s.t.Helper()
	return s.cliWith("", args...)
}

func (s *system) cliWith(stdin string, args ...string) typed {
	s.t.Helper()
	cmd := exec.CommandContext(s.soon(), program(s.t), args...)
	cmd.Env = cleanEnv(map[string]string{"SLUICE_ADDR": s.grpc})
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("run sluice %s: %v", strings.Join(args, " "), err)
	}
	return typed{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// cliJSON runs the command line, which must exit with code, and reads its JSON into v.
func (s *system) cliJSON(code int, v any, args ...string) {
	s.t.Helper()
	got := s.cli(append(args, "--output", "json")...)
	if got.code != code {
		s.t.Fatalf("sluice %s: exit code %d, want %d; it wrote %s%s", strings.Join(args, " "), got.code, code, got.stdout, got.stderr)
	}
	if err := json.Unmarshal([]byte(got.stdout), v); err != nil {
		s.t.Fatalf("sluice %s: %v in %s", strings.Join(args, " "), err, got.stdout)
	}
}

// answer is what the REST face answered.
type answer struct {
	code int
	body string
}

func (a answer) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in the answer %d %s", err, a.code, a.body)
	}
}

// The login of all tests: that which dev makes by itself.
const username, password = "admin", "password"

// addUser gives a Sluice of several processes the login that dev makes by itself.
func (s *system) addUser(t *testing.T) {
	t.Helper()
	if _, err := s.CreateUser(s.soon(), username, password); err != nil && !errs.Is(err, errs.UserExists) {
		t.Fatalf("make a user: %v", err)
	}
}

// call asks the REST face, as the administrator; path is below /pulp/api/v3/ or a whole href. A body that is not text is sent as JSON.
func (s *system) call(method, path string, body any) answer {
	s.t.Helper()
	text, isText := body.(string)
	if !isText && body != nil {
		made, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		text = string(made)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/pulp/api/v3/" + path
	}
	request, err := http.NewRequestWithContext(s.soon(), method, s.rest+path, strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	request.SetBasicAuth(username, password)
	request.Header.Set("Content-Type", "application/json")
	request.Close = true // no connection, and no goroutine of it, stays
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{code: response.StatusCode, body: string(read)}
}

// href is the path of a task in the REST face.
func href(id string) string { return "/pulp/api/v3/tasks/" + id + "/" }

// taskJSON is a task as the command line prints it.
type taskJSON struct {
	ID                 string          `json:"id"`
	Seq                int64           `json:"seq"`
	Name               string          `json:"name"`
	State              string          `json:"state"`
	ExclusiveResources []string        `json:"exclusive_resources"`
	SharedResources    []string        `json:"shared_resources"`
	CreatedAt          *time.Time      `json:"created_at"`
	UpdatedAt          *time.Time      `json:"updated_at"`
	UnblockedAt        *time.Time      `json:"unblocked_at"`
	StartedAt          *time.Time      `json:"started_at"`
	FinishedAt         *time.Time      `json:"finished_at"`
	Executor           *string         `json:"executor"`
	Result             json.RawMessage `json:"result"`
	Error              *errorJSON      `json:"error"`
}

// taskREST is a task as the REST face shows it.
type taskREST struct {
	Href        string          `json:"pulp_href"`
	Name        string          `json:"name"`
	State       string          `json:"state"`
	Created     *time.Time      `json:"pulp_created"`
	Updated     *time.Time      `json:"pulp_last_updated"`
	UnblockedAt *time.Time      `json:"unblocked_at"`
	StartedAt   *time.Time      `json:"started_at"`
	FinishedAt  *time.Time      `json:"finished_at"`
	Worker      *string         `json:"worker"`
	Reserved    []string        `json:"reserved_resources_record"`
	Result      json.RawMessage `json:"result"`
	Error       *errorJSON      `json:"error"`
}

type errorJSON struct {
	Description string `json:"description"`
	Reason      string `json:"reason"`
}

// read gets a task through the REST face.
func (s *system) read(id string) taskREST {
	s.t.Helper()
	got := s.call(http.MethodGet, href(id), nil)
	if got.code != http.StatusOK {
		s.t.Fatalf("read task %s: %d %s", id, got.code, got.body)
	}
	var made taskREST
	got.decode(s.t, &made)
	return made
}
