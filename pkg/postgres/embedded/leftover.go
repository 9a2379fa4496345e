package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// How long what a killed predecessor left running may take, from the start of the wait. It has usually been told to
// stop by the kernel already and is gone within 0.3 s; a busy backend whose postmaster was killed too takes longer.
const (
	leftoverPoll = 20 * time.Millisecond
	askToStop    = 1 * time.Second
	tellToStop   = 5 * time.Second
	killLeftover = 10 * time.Second
	giveUp       = 20 * time.Second
)

// clearLeftovers waits until no process works in the cluster any more and removes the files that would keep a new
// server from starting. It is called under the lock of the folder, so whatever is still there belongs to nobody.
//
// Where nobody reaps orphans (process 1 of many containers does not) the old postmaster stays as a zombie: its id looks
// alive, and PostgreSQL then refuses both postmaster.pid and the lock of the socket.
func clearLeftovers(ctx context.Context, p paths, log *slog.Logger) error {
	old, _ := readPidFile(p.data)
	for _, dir := range []string{p.data, p.newData} {
		if err := waitUnused(ctx, dir, old, log); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.newData); err != nil {
		return fmt.Errorf("remove half-made cluster: %w", err)
	}
	if err := os.Remove(filepath.Join(p.data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale postmaster.pid: %w", err)
	}
	if err := os.RemoveAll(p.run); err != nil {
		return fmt.Errorf("remove stale sockets: %w", err)
	}
	if isShortDir(old.socketDir) {
		removeShortDir(old.socketDir)
	}
	return nil
}

func waitUnused(ctx context.Context, data string, old pidFile, log *slog.Logger) error {
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ticker := time.NewTicker(leftoverPoll)
	defer ticker.Stop()
	began := time.Now()
	steps := []struct {
		after  time.Duration
		signal syscall.Signal
	}{{askToStop, syscall.SIGINT}, {tellToStop, syscall.SIGQUIT}, {killLeftover, syscall.SIGKILL}}
	for {
		pids, attached := users(data, old)
		if len(pids) == 0 && !attached {
			return nil
		}
		waited := time.Since(began)
		if len(steps) > 0 && waited > steps[0].after {
			log.WarnContext(ctx, "stop a postgres that a killed process left behind", "dir", data, "pids", pids,
				"signal", steps[0].signal.String())
			for _, pid := range pids {
				_ = syscall.Kill(pid, steps[0].signal) // gone meanwhile is what we want
			}
			steps = steps[1:]
		}
		if waited > giveUp {
			return fmt.Errorf("a PostgreSQL that we did not start is running in %s (processes %v)", data, pids)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for a PostgreSQL still running in %s (processes %v): %w", data, pids, ctx.Err())
		}
	}
}

const shortPrefix = "sluice-pg-"

// isShortDir recognises a socket folder that we made in the temp directory. The path comes from a file that the server's
// user can write, so only the names that PostgreSQL itself makes are ever removed from it.
func isShortDir(dir string) bool {
	if dir == "" || !strings.HasPrefix(filepath.Base(dir), shortPrefix) {
		return false
	}
	info, err := os.Lstat(dir)
	return err == nil && info.IsDir()
}

func removeShortDir(dir string) {
	sockets, err := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*"))
	if err != nil {
		return
	}
	for _, socket := range sockets {
		_ = os.Remove(socket)
	}
	_ = os.Remove(dir) // left over in the temp directory is harmless
}
