package embedded_test

import (
	"io"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestEverythingAlsoWorksAsAnOrdinaryUser runs the tests of this package again as nobody.
func TestEverythingAlsoWorksAsAnOrdinaryUser(t *testing.T) {
	asRoot(t)
	if testing.Short() {
		t.Skip("takes as long as all the others")
	}
	binaries(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	dir := pgtest.Dir(t)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	// go test builds into a folder that only root may enter.
	binary := filepath.Join(dir, "tests")
	copyFile(t, os.Args[0], binary)
	cmd := osexec.Command(binary, "-test.v", "-test.short")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestRowsSurviveStopAndStart") {
		t.Errorf("as nobody nothing was tested:\n%s", out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
