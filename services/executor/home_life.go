package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/worker/procs"
)

// lifeRecord is what a directory remembers of the executor that works in it, for whoever finds it when that is dead: which of its
// lives it was, and how its processes can be found, by those who can see them.
type lifeRecord struct {
	Incarnation string `json:"incarnation"`
	// Mark is the part of the mark that is different for each executor.
	Mark string `json:"mark"`
	// Boot and PIDs are the boot and the pid namespace that the executor's processes live in.
	Boot string `json:"boot"`
	PIDs string `json:"pids"`
}

// whole reports whether the record names a life and a mark, and no other processes than a mark can.
func (r lifeRecord) whole() bool {
	return uuid.Validate(r.Mark) == nil && uuid.Validate(r.Incarnation) == nil
}

const (
	// lifeName is the file that holds the record.
	lifeName = ".life"
	// endFor is how long killed processes of a dead executor are waited for.
	endFor = 2 * time.Second
)

// whereabouts says in which boot and in which pid namespace this process lives.
func whereabouts() (boot, pids string, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", err
	}
	pids, err = os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(text)), pids, err
}

// remember notes which life the executor leads.
func (h *home) remember(incarnation string) {
	record := lifeRecord{Incarnation: incarnation, Mark: strings.TrimPrefix(h.tree, executorEnv+"=")}
	var err error
	if record.Boot, record.PIDs, err = whereabouts(); err == nil {
		err = h.write(record)
	}
	if err != nil {
		// What was there of an earlier life is over, and says nothing of this one.
		_ = h.root.Remove(lifeName)
		h.log.Warn("could not note the life of the executor; if it is killed, its tasks may fail only when its lease has run out", slog.Any("error", err))
	}
}

// refresh makes the files look used that others know the directory by: who cleans a temporary directory removes what is old. Without the
// file that is locked, a record that was written since would pass for that of a dead executor.
func (h *home) refresh() {
	now := time.Now()
	for _, name := range []string{markName, lifeName} {
		if err := h.root.Chtimes(name, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("could not keep a file of the executor's directory from looking old", slog.String("file", name), slog.Any("error", err))
		}
	}
}

// write replaces the record in one step. It must outlive the process, not the machine: a record of another boot says nothing.
func (h *home) write(record lifeRecord) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	const fresh = lifeName + ".new"
	if err := h.root.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return h.root.Rename(fresh, lifeName)
}

// buried reads the record of a directory whose executor is dead, as the lock that we have shows, ends what is left of its
// processes, and returns the life of which nothing is left then: "" if there is no record, or the processes would not be here.
//
// A record is believed if it is our own user's. Root must not kill what others name.
func buried(dir *os.Root) (incarnation string, err error) {
	info, err := dir.Lstat(lifeName)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the record of a life: %w", err)
	}
	if !info.Mode().IsRegular() || !owned(info) || info.Mode().Perm()&0o022 != 0 {
		return "", nil
	}
	text, err := dir.ReadFile(lifeName)
	if err != nil {
		return "", fmt.Errorf("read the record of a life: %w", err)
	}
	var record lifeRecord
	if err := json.Unmarshal(text, &record); err != nil {
		return "", fmt.Errorf("read the record of a life: %w", err)
	}
	boot, pids, err := whereabouts()
	if err != nil {
		return "", fmt.Errorf("find out where this process lives: %w", err)
	}
	if !record.whole() || record.Boot != boot || record.PIDs != pids {
		return "", nil
	}
	if _, err := procs.EndMarked(executorEnv+"="+record.Mark, endFor, func() bool { return true }); err != nil {
		return "", err
	}
	return record.Incarnation, nil
}
