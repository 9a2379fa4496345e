package executor

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

func TestOnlyAProvenPredecessorIsReplaced(t *testing.T) {
	const name = "mine"
	life := uuid.Must(uuid.NewV7()).String()
	rewrite := func(change func(*lifeRecord)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var record lifeRecord
			if err := json.Unmarshal(text, &record); err != nil {
				t.Fatal(err)
			}
			change(&record)
			if text, err = json.Marshal(record); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, c := range map[string]struct {
		change func(t *testing.T, path string)
		proven bool
		root   bool // only root can
	}{
		"here":                      {func(*testing.T, string) {}, true, false},
		"another boot":              {rewrite(func(r *lifeRecord) { r.Boot = uuid.NewString() }), false, false},
		"another pid namespace":     {rewrite(func(r *lifeRecord) { r.PIDs = "pid:[1]" }), false, false},
		"no pid namespace":          {rewrite(func(r *lifeRecord) { r.PIDs = "" }), false, false},
		"no life":                   {rewrite(func(r *lifeRecord) { r.Incarnation = "" }), false, false},
		"a mark that names others":  {rewrite(func(r *lifeRecord) { r.Mark = "" }), false, false},
		"half of a record":          {func(t *testing.T, path string) { t.Helper(); cut(t, path) }, false, false},
		"a record others can write": {func(t *testing.T, path string) { t.Helper(); must(t, os.Chmod(path, 0o666)) }, false, false},
		"another user's record":     {func(t *testing.T, path string) { t.Helper(); must(t, os.Chown(path, 65534, 65534)) }, false, true},
		"a fifo, which nobody writes to": {func(t *testing.T, path string) {
			t.Helper()
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o600))
		}, false, false},
		"a link": {func(t *testing.T, path string) {
			t.Helper()
			must(t, os.Rename(path, path+"2"))
			must(t, os.Symlink(filepath.Base(path)+"2", path))
		}, false, false},
	} {
		t.Run(what, func(t *testing.T) {
			if c.root && os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			dir := t.TempDir()
			before, _ := opened(t, dir, name)
			before.remember(life)
			left := exec.Command("sleep", "1000")
			left.Env = append(os.Environ(), before.tree)
			must(t, left.Start())
			waited := make(chan struct{})
			go func() {
				defer close(waited)
				_ = left.Wait()
			}()
			defer func() {
				_ = left.Process.Kill()
				<-waited
			}()
			must(t, before.letGo()) // as the kernel does
			c.change(t, filepath.Join(before.path, lifeName))
			after, err := takeHome(dir, name, newMark(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer after.close()
			alive := len(procs.Marked(before.tree)) > 0
			if proven := after.predecessor == life; proven != c.proven || alive == c.proven {
				t.Errorf("predecessor %q, of which something is left: %v", after.predecessor, alive)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, text[:len(text)/2], 0o600))
}

func TestTheLastLifeIsRemembered(t *testing.T) {
	dir := t.TempDir()
	h, _ := opened(t, dir, "mine")
	lives := []string{uuid.NewString(), uuid.NewString()}
	for _, life := range lives {
		h.remember(life)
	}
	must(t, h.letGo())
	again, err := takeHome(dir, "mine", newMark(), slog.New(slog.DiscardHandler))
	must(t, err)
	if again.predecessor != lives[1] {
		t.Errorf("predecessor %q of %q", again.predecessor, lives)
	}
	again.close()
	if last := open(t, dir, "mine"); last.predecessor != "" {
		t.Errorf("predecessor %q after an end in good order", last.predecessor)
	}
}

func TestTheFilesOfALivingExecutorDoNotGrowOld(t *testing.T) {
	h := open(t, t.TempDir(), "mine")
	h.remember(uuid.NewString())
	old := time.Now().AddDate(0, 0, -30) // /tmp is cleaned after ten days
	for _, name := range []string{markName, lifeName} {
		must(t, h.root.Chtimes(name, old, old))
	}
	h.refresh()
	for _, name := range []string{markName, lifeName} {
		info, err := h.root.Stat(name)
		must(t, err)
		if !info.ModTime().After(old.AddDate(0, 0, 1)) {
			t.Errorf("%s is of %s", name, info.ModTime())
		}
	}
}

func TestAnExecutorWithoutAGuardDoesNotBegin(t *testing.T) {
	for what, c := range map[string]struct {
		command, says string
	}{
		"it can't be started":     {"/nonexistent", "no such file"},
		"it is another program":   {"/bin/false", "exit status 1"},
		"it is silent":            {"/bin/cat", "i/o timeout"},
		"it is done before it is": {"/bin/true", "it ended"},
	} {
		t.Run(what, func(t *testing.T) {
			service, err := New(Config{WorkDir: t.TempDir(), StartTimeout: 100 * time.Millisecond}, Peers{}, worker.NewMux(), slog.New(slog.DiscardHandler))
			must(t, err)
			command := service.sentry.command
			service.sentry.command = func(env []string) (*exec.Cmd, *os.File, error) {
				cmd, ours, err := command(env)
				cmd.Path = c.command
				if strings.HasSuffix(c.command, "cat") {
					read, write, err := os.Pipe()
					must(t, err)
					t.Cleanup(func() { _ = errors.Join(read.Close(), write.Close()) })
					cmd.Stdin = read
				}
				return cmd, ours, err
			}
			if err := service.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "start the executor's guard: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error: %v", err)
			}
		})
	}
}
