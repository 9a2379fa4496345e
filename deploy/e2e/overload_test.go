package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// maxRSS is what no service may take, in bytes, whatever is handed in. The guide for operators promises it.
const maxRSS = 512 << 20

// flood is what many clients hand in without a pause, each call once.
type flood struct {
	mu       sync.Mutex
	accepted []string
	refused  int
	other    map[string]int // errors that are no refusals
}

// pour hands tasks in from many connections at once until enough are accepted, alone and in batches.
func (s *system) pour(correlation string, enough int) *flood {
	s.t.Helper()
	const connections, callers = 8, 40
	f := &flood{other: map[string]int{}}
	var all sync.WaitGroup
	var accepted atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	s.t.Cleanup(cancel)
	for range connections {
		c, err := client.Dial(s.grpc, client.Attempts(1))
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = c.Close() }) // it only fails when closed twice
		for i := range callers {
			all.Go(func() {
				for accepted.Load() < int64(enough) && ctx.Err() == nil {
					specs := make([]client.Spec, 1+i%2*9)
					for n := range specs {
						specs[n] = client.Spec{Name: "test.noop", CorrelationID: correlation}
					}
					made, err := c.DispatchBatch(ctx, specs)
					f.note(made, err)
					accepted.Add(int64(len(made)))
				}
			})
		}
	}
	all.Wait()
	return f
}

func (f *flood) note(made []client.Task, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		for _, one := range made {
			f.accepted = append(f.accepted, one.ID)
		}
	case errs.Is(err, errs.Overloaded):
		f.refused++
	default:
		f.other[err.Error()]++
	}
}

// TestMoreIsHandedInThanCanRun has ten times as many tasks handed in as can be run meanwhile. What is accepted runs, what is refused
// was never stored, nobody is declared missing for want of a beat, and memory stays where it is promised to.
func TestMoreIsHandedInThanCanRun(t *testing.T) {
	t.Parallel()
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	v.ttl = 10 * time.Second
	s := v.start(t).under(t)
	v.narrow(t, "300")

	correlation := fresh("flood")
	stop := make(chan struct{})
	peaks := s.watchMemory(stop)
	began := s.finished()
	f := s.pour(correlation, 6000)
	ran := s.finished() - began
	t.Logf("%d tasks were accepted and %d ran meanwhile; %d calls were refused", len(f.accepted), ran, f.refused)
	if len(f.other) > 0 {
		t.Errorf("errors that are no refusals: %v", f.other)
	}
	if f.refused == 0 {
		t.Error("nothing was refused: this proves nothing")
	}
	stored := map[string]bool{}
	for one, err := range s.List(s.soon(), client.Filter{CorrelationID: correlation}) {
		if err != nil {
			t.Fatal(err)
		}
		stored[one.ID] = true
	}
	for _, id := range f.accepted {
		if !stored[id] {
			t.Errorf("task %s was accepted and is not stored", id)
		}
	}
	if len(stored) != len(f.accepted) {
		t.Errorf("%d tasks are stored, %d were accepted", len(stored), len(f.accepted))
	}
	for one := range slices.Chunk(f.accepted, 1000) {
		for _, ended := range s.endSlowly(one...) {
			if ended.State != task.Completed || ended.Attempt != 1 {
				t.Errorf("task %s is %s in attempt %d: %v", ended.ID, ended.State, ended.Attempt, ended.Error)
			}
		}
	}
	close(stop)
	for name, peak := range <-peaks {
		t.Logf("%s had %d MiB at most", name, peak>>20)
		if peak > maxRSS {
			t.Errorf("%s took %d MiB", name, peak>>20)
		}
	}
	var workers []struct {
		Name    string
		Missing bool
	}
	s.cliJSON(0, &workers, "worker", "list", "--gone")
	if len(workers) != 1 || workers[0].Missing {
		t.Errorf("the executors are %+v", workers)
	}
}

// endSlowly is end for many tasks, which may take as long as they take as long as some of them end.
func (s *system) endSlowly(ids ...string) []client.Task {
	s.t.Helper()
	for last := int64(-1); ; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		ended, err := s.Wait(ctx, ids...)
		cancel()
		if err == nil {
			return ended
		}
		now := s.finished()
		if now == last {
			s.t.Fatalf("wait for tasks: %v, and none ends any more", err)
		}
		last = now
	}
}

// finished is how many tasks have completed.
func (s *system) finished() (n int64) {
	s.t.Helper()
	for _, err := range s.List(s.soon(), client.Filter{States: []task.State{task.Completed}}) {
		if err != nil {
			s.t.Fatal(err)
		}
		n++
	}
	return n
}

// watchMemory looks at what the processes have in memory until stop is closed, and then tells the most of each.
func (s *system) watchMemory(stop chan struct{}) <-chan map[string]int64 {
	told := make(chan map[string]int64, 1)
	go func() {
		peaks := map[string]int64{}
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			for name, p := range s.processes {
				peaks[name] = max(peaks[name], residentBytes(p.cmd.Process.Pid))
			}
			select {
			case <-ticker.C:
			case <-stop:
				told <- peaks
				return
			}
		}
	}()
	return told
}

// residentBytes is what a process has in memory, 0 if it is gone.
func residentBytes(pid int) int64 {
	statm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// narrow starts the dispatcher again, with room for so many tasks on their way to the database.
func (v *services) narrow(t *testing.T, tasks string) {
	t.Helper()
	v.system.processes["dispatcher"].kill()
	v.launch(t, "dispatcher", "dispatcher", map[string]string{"max-pending-tasks": tasks, "log-level": "warn"}).ready(t, "sluice dispatcher is ready")
}

// TestWhoHandsInTooMuchIsToldSo has a database that does not get on, and a dispatcher with little room.
func TestWhoHandsInTooMuchIsToldSo(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	v := newServices(t, direct).migrate(t)
	proxy := faults.Start(t, direct)
	v.reaching = map[string]string{"dispatcher": proxy.URL()}
	s := v.start(t).under(t)
	v.narrow(t, "1")
	// From here on the gateway knows who asks: the longer a commit is held, the longer those who are refused are told to wait.
	s.call(http.MethodGet, "tasks/?limit=1", nil)
	held := proxy.Arm(faults.Rule{Fault: faults.HoldCommit, Match: inserts})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := s.Dispatch(s.soon(), client.Spec{Name: "test.noop"}); err != nil {
			t.Errorf("the one that is held: %v", err)
		}
	})
	held.Wait(t, 1)
	if got, err := s.once(t).Dispatch(s.soon(), client.Spec{Name: "test.refused"}); !errs.Is(err, errs.Overloaded) {
		t.Errorf("a dispatch returned %v, %v", got.ID, err)
	}
	request, err := http.NewRequestWithContext(s.soon(), http.MethodPost, s.rest+"/pulp/api/v3/tasks/", strings.NewReader(`{"name":"test.refused"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(username, password)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var words struct{ Detail string }
	if err := json.Unmarshal(body, &words); err != nil || !strings.Contains(words.Detail, "wait to be stored") {
		t.Errorf("REST says %s", body)
	}
	if after, err := strconv.Atoi(response.Header.Get("Retry-After")); response.StatusCode != http.StatusTooManyRequests || err != nil || after < 1 {
		t.Errorf("REST answers %d with Retry-After %q", response.StatusCode, response.Header.Get("Retry-After"))
	}
	if got := s.cli("dispatch", "test.refused"); got.code != 1 || !strings.Contains(got.stderr, "the server has too much to do") {
		t.Errorf("the command line says %d %s%s", got.code, got.stdout, got.stderr)
	}
	// Who hands in with patience is refused, comes again, and is told nothing of it.
	all.Go(func() {
		if _, err := s.Dispatch(s.soon(), client.Spec{Name: "test.noop"}); err != nil {
			t.Errorf("the one that comes again: %v", err)
		}
	})
	held.Release()
	all.Wait()
	if n := len(s.all("test.refused")); n != 0 {
		t.Errorf("%d tasks that were refused are stored", n)
	}
	if n := len(s.all("test.noop")); n != 2 {
		t.Errorf("%d tasks are stored, want the two that were accepted", n)
	}
}
