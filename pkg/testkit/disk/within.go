package disk

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// variable names the disk's folder to the process that has it.
const variable = "SLUICE_TEST_DISK"

// mount mounts the disk and becomes what the test wants to run. In a user namespace whoever mounts must be root there; the second
// unshare makes it whoever it was.
const mount = `mount -t tmpfs -o size="$1",nr_inodes=4096,mode=0777 sluice-test "$2" || exit
shift 2
exec "$@"`

// Within runs the test that calls it once more, in a process that has a disk of its own of so many bytes, with room for some
// 4000 files. There it returns the disk and true; everywhere else, after that process has ended, false, and the test must return
// at once.
//
//	d, here := disk.Within(t, 64<<20)
//	if !here {
//		return
//	}
func Within(t *testing.T, bytes int64) (d *Disk, here bool) {
	t.Helper()
	if dir := os.Getenv(variable); dir != "" {
		return &Disk{t: t, Dir: dir}, true
	}
	if strings.Contains(t.Name(), "/") {
		t.Fatal("disk: only a whole test can be run by itself")
	}
	dir, err := os.MkdirTemp("", "sluice-disk-")
	if err != nil {
		t.Fatalf("disk: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // others must get through to what is mounted here
		t.Fatalf("disk: %v", err)
	}
	if said, err := run(with(dir, bytes, "true")); err != nil {
		t.Skipf("needs a file system of its own to fill up, and may not mount one: %v: %s", err, said)
	}
	again := []string{os.Args[0], "-test.run=^" + t.Name() + "$", "-test.v"}
	if deadline, limited := t.Deadline(); limited {
		again = append(again, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := with(dir, bytes, again...)
	cmd.Env = append(os.Environ(), variable+"="+dir)
	said, err := run(cmd)
	t.Logf("with a disk of its own:\n%s", said)
	if err != nil {
		t.Fatalf("with a disk of its own: %v", err)
	}
	if strings.Contains(said, "--- SKIP: "+t.Name()) {
		t.Skip("it was skipped")
	}
	return nil, false
}

// with is a command in a mount namespace of its own, in which dir is a disk.
func with(dir string, size int64, command ...string) *exec.Cmd {
	args := []string{"--mount"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
		command = append([]string{
			"unshare", "--user", fmt.Sprintf("--map-user=%d", os.Geteuid()), fmt.Sprintf("--map-group=%d", os.Getegid()), "--",
		}, command...)
	}
	args = append(args, "--", "sh", "-c", mount, "sh", strconv.FormatInt(size, 10), dir)
	return exec.Command("unshare", append(args, command...)...)
}

// run returns what a command wrote. It is one process throughout, which the kernel ends with this one.
func run(cmd *exec.Cmd) (string, error) {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = withUs()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // its end is that of the thread which starts it
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	err := <-done
	return said.String(), err
}
