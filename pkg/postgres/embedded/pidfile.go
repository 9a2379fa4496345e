package embedded

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// pidFile is what a server tells about itself in postmaster.pid, one fact per line.
type pidFile struct {
	pid       int
	socketDir string
	shmKey    string // of the System V segment that every process of the server stays attached to
	shmID     string
	ready     bool
}

// readPidFile returns false when there is none, or one that is still being written.
func readPidFile(data string) (pidFile, bool) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, false
	}
	lines := strings.Split(string(text), "\n")
	line := func(n int) string { // counted from one, as in PostgreSQL's description of the file
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	pid, err := strconv.Atoi(line(1))
	if err != nil {
		return pidFile{}, false
	}
	p := pidFile{pid: pid, socketDir: line(5), ready: line(8) == "ready"}
	if shm := strings.Fields(line(7)); len(shm) == 2 {
		p.shmKey, p.shmID = shm[0], shm[1]
	}
	return p, true
}
