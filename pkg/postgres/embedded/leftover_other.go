//go:build unix && !linux

package embedded

import (
	"os/exec"
	"strconv"
	"strings"
)

// users returns the postmaster named in postmaster.pid if it still runs. Process ids are reused, so its command line
// must name the data directory. Backends that outlived a killed postmaster are not seen here; PostgreSQL itself finds
// them by their shared memory and refuses to start.
func users(data string, old pidFile) (pids []int, attached bool) {
	if old.pid == 0 {
		return nil, false
	}
	out, err := exec.Command("ps", "-p", strconv.Itoa(old.pid), "-o", "command=").Output()
	if err != nil || !strings.Contains(string(out), "-D "+data) {
		return nil, false
	}
	return []int{old.pid}, false
}
