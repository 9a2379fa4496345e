package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/languages"
)

// TestAConnectedWorkerThatIsStoppedLosesItsTasksAndComesBack stops one in another language, which nobody but itself can keep from going
// on when it wakes.
func TestAConnectedWorkerThatIsStoppedLosesItsTasksAndComesBack(t *testing.T) {
	t.Parallel()
	patiently(t)
	python := languages.Python(t)
	script, err := filepath.Abs("testdata/noting.py")
	if err != nil {
		t.Fatal(err)
	}
	st := newStand(t, 3*time.Second).under(t)
	addr := freeAddrs(t, 1)[0]
	st.launch(t, "host", map[string]string{"grpc-addr": addr}).ready(t, "sluice executor is ready")
	guest := launch(t, st.dir, command{name: "noting", path: python.Path, args: []string{script, python.Example, addr}, env: python.Env})
	t.Cleanup(guest.kill)
	ready := func(times int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the worker is ready for the %d. time", times), func() error {
			if said := guest.stdout(); strings.Count(said, "is ready") < times {
				return errors.New(said + guest.stderr())
			}
			return nil
		})
	}
	ready(1)

	l := st.load()
	l.goesOn()
	notes := func(lines int) client.Task {
		t.Helper()
		resource := fresh("noting")
		l.mu.Lock()
		l.apart = append(l.apart, resource)
		l.mu.Unlock()
		made, err := l.dispatch(st.Client, client.Spec{Name: "e2e.note", Args: []any{l.path, lines}, Exclusive: []string{resource}})
		if err != nil {
			t.Fatal(err)
		}
		l.wrote(made[0].ID, "alive", 1)
		return made[0]
	}
	one := notes(1 << 20)
	held := l.befalls("host/noting", task.ReasonWorkerMissing)
	wake := guest.stops(t)
	stopped := time.Now()
	lost := st.end(one.ID)[0]
	t.Logf("MEASURED connected worker stopped (SIGSTOP), lease %s: its task failed after %s: %v", st.ttl, lost.FinishedAt.Sub(stopped).Round(time.Millisecond), lost.Error)
	held.reason = lost.Error.Reason
	if lost.State != task.Failed {
		t.Errorf("its task is %s", lost.State)
	}
	lives := "alive " + one.ID
	before := strings.Count(l.read(), lives)
	woken := time.Now()
	wake()
	ready(2)
	t.Logf("MEASURED connected worker stopped (SIGSTOP): it was welcomed again %s after it was woken; the task that it had had wrote %d lines more",
		time.Since(woken).Round(time.Millisecond), strings.Count(l.read(), lives)-before)
	held.past()
	again := notes(2)
	if now := strings.Count(l.read(), lives) - before; now > 1 {
		t.Errorf("the lost task went on for %d lines", now)
	}
	if ended := st.end(again.ID)[0]; ended.State != task.Completed {
		t.Errorf("the task after it is %s: %v", ended.State, ended.Error)
	}
	if now := st.get(one.ID); now.State != lost.State || !now.FinishedAt.Equal(*lost.FinishedAt) {
		t.Errorf("the task is %s since %v, it was %s since %v", now.State, now.FinishedAt, lost.State, lost.FinishedAt)
	}
	l.goesOn()
	l.settle(st.system)
}
