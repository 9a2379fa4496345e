package embedded

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// users returns the processes that work in the cluster, and whether some process we may not look at does.
//
// Every PostgreSQL process has the data directory as its working directory; a zombie has none, which is the point.
// Root in a container usually lacks the capability to see the working directory of another user's process; the count
// of processes attached to the server's shared memory is public.
func users(data string, old pidFile) (pids []int, attached bool) {
	home, err := os.Stat(data)
	if err != nil {
		return nil, false
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil, false
	}
	for _, link := range links {
		info, err := os.Stat(link)
		if err != nil || !os.SameFile(home, info) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil && isPostgres(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, len(pids) == 0 && hasAttached(old)
}

// isPostgres keeps a shell that stands in the data directory from being waited for, and worse, killed.
func isPostgres(pid int) bool {
	comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return err == nil && strings.HasPrefix(string(comm), "postgres")
}

// hasAttached looks at the table of System V segments: key, id, mode, size, creator, last user, number attached, ….
func hasAttached(old pidFile) bool {
	if old.shmID == "" {
		return false
	}
	file, err := os.Open("/proc/sysvipc/shm")
	if err != nil {
		return false
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		f := strings.Fields(lines.Text())
		// Ids are reused after a reboot; the key derives from the data directory and guards against that.
		if len(f) > 6 && f[0] == old.shmKey && f[1] == old.shmID && f[6] != "0" {
			return true
		}
	}
	return false
}
