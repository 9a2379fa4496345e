package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/disk"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestNothingIsLostWhenTheDiskOfPostgreSQLIsFull fills it up while tasks flow. At first tables can't grow, and what would need
// room is refused; later the log of changes can't, and the server gives up. When there is room again, all goes on.
func TestNothingIsLostWhenTheDiskOfPostgreSQLIsFull(t *testing.T) {
	patiently(t)
	t.Parallel()
	d, here := disk.Within(t, 192<<20)
	if !here {
		return
	}
	dir := filepath.Join(d.Dir, "db")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// What it recycles must not be room that it finds when there is none.
	db := pgtest.Own(t, pgtest.Options{Dir: dir, Settings: map[string]string{
		"max_wal_size": "32MB", "min_wal_size": "32MB", "wal_init_zero": "on", "shared_buffers": "16MB",
	}})
	s := newServices(t, db.URL()).migrate(t).start(t).under(t)
	l := s.load()
	l.goesOn()
	g := s.gate()
	running := s.dispatch(g.task(nil, nil))
	g.reached()

	d.Fill()
	full := time.Now()
	s.refusesWhatNeedsRoom(t)
	t.Logf("the first refusal came %s after the disk was full", time.Since(full).Round(time.Millisecond))
	g.open() // it ends where nothing may be written any more

	ends := db.Done()
	admin := db.Admin()
	eventually(t, "the server gives up", func() error {
		d.Fill() // whatever it could spare
		_, err := admin.Exec(s.soon(), `select pg_logical_emit_message(false, 'filler', repeat('x', 4000000))`)
		select {
		case <-ends:
			return nil
		default:
			return errors.Join(errors.New("it lives"), err)
		}
	})
	if err := db.TryStart(); err == nil {
		t.Log("it could start on a full disk")
	}

	d.Free()
	db.Start()
	l.recovers(t, "there is room again, and the server was started")
	l.goesOn()
	l.settle(s)
	if one := s.end(running.ID)[0]; one.State != task.Completed {
		t.Errorf("the task that ran is %s: %v", one.State, one.Error)
	}
}

// refusesWhatNeedsRoom dispatches tasks that take some until one is refused, and looks at how.
func (s *system) refusesWhatNeedsRoom(t *testing.T) {
	t.Helper()
	ballast := map[string]string{"ballast": strings.Repeat("0123456789", 20_000)}
	var refused error
	once := s.once(t)
	eventually(t, "a dispatch is refused", func() error {
		_, refused = once.Dispatch(s.soon(), client.Spec{Name: "test.noop", Kwargs: ballast})
		if refused == nil {
			return errors.New("it was accepted")
		}
		return nil
	})
	var e *errs.Error
	if !errors.As(errs.From(refused), &e) || e.Code != codes.Unavailable || e.Reason != errs.DatabaseAway || e.RetryAfter == 0 {
		t.Errorf("a dispatch was refused with %#v", refused)
	}
	for _, theirs := range []string{"SQLSTATE", "extend", "No space left", "base/", "PANIC"} {
		if strings.Contains(refused.Error(), theirs) {
			t.Errorf("a client was told %q", refused)
		}
	}
	t.Logf("a client was told %q", refused)
}

// TestAFullDiskOfAnExecutorHarmsOnlyTheTasksThatNeedIt fills up the disk with the working directories: in one way so that nothing
// can be written, in the other so that no directory can be made.
func TestAFullDiskOfAnExecutorHarmsOnlyTheTasksThatNeedIt(t *testing.T) {
	t.Parallel()
	d, here := disk.Within(t, 16<<20)
	if !here {
		return
	}
	v := newServices(t, pgtest.EmptyURL(t)).migrate(t)
	work := map[string]string{"work-dir": filepath.Join(d.Dir, "work")}
	s := v.start(t, "dispatcher", "scheduler", "status", "heartbeat", "gateway")
	v.launch(t, "executor", "executor", work).ready(t, "sluice executor is ready")
	writes := shell("head -c 100000 /dev/zero > big")
	for _, c := range []struct {
		says       string
		fill, free func()
	}{
		{"nothing can be written", d.Fill, d.Free},
		{"no directory can be made", d.FillNames, d.FreeNames},
	} {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			before := registered(t, v.database)
			c.fill()
			one := s.run(writes)
			if one.State != task.Failed || one.Error == nil {
				t.Errorf("a task that writes is %s: %v", one.State, one.Error)
			}
			t.Logf("a task that writes has failed: %v", one.Error)
			for range 3 {
				if one := s.run(client.Spec{Name: "test.noop"}); one.State != task.Completed {
					t.Errorf("a task that needs no room is %s: %v", one.State, one.Error)
				}
			}
			c.free()
			if one := s.run(writes); one.State != task.Completed {
				t.Errorf("when there is room again, a task that writes is %s: %v", one.State, one.Error)
			}
			if after := registered(t, v.database); len(after) != len(before) {
				t.Errorf("those who registered were %v and are %v", before, after)
			}
		})
	}
	t.Run("an executor that starts on it", func(t *testing.T) {
		s := s.under(t)
		d.Fill()
		d.FillNames()
		p := v.launch(t, "second", "executor", map[string]string{"work-dir": filepath.Join(d.Dir, "other"), "name": "second"})
		p.expected.Store(true)
		code := p.wait(t)
		if said := p.stderr(); code == 0 || !strings.Contains(said, "no space left on device") || strings.Contains(said, "panic") {
			t.Errorf("it ended with code %d and wrote\n%s", code, said)
		}
		t.Logf("it wrote\n%s", p.stderr())
		d.Free()
		d.FreeNames()
		if one := s.run(writes); one.State != task.Completed {
			t.Errorf("a task of the first is %s: %v", one.State, one.Error)
		}
	})
}
