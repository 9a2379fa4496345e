package languages

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tail is how much of a program's complaint goes into an error: the end of it, which has the reason.
const tail = 1500

// run runs a program in dir, with env added to the environment, and returns what it wrote to its standard output.
func (m machine) run(ctx context.Context, dir string, env map[string]string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = m.environ(env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// npm starts node; without a group of its own a canceled fetch would go on in the child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stdout.String() + stderr.String())
		said = strings.ToValidUTF8(said[max(0, len(said)-tail):], "")
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}

// environ is the environment without what would lead an interpreter astray, such as the modules of an active virtualenv.
func (m machine) environ(env map[string]string) []string {
	all := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := env[name]
		return replaced || name == "PYTHONPATH" || name == "PYTHONHOME" || name == "NODE_OPTIONS" || name == "NODE_PATH"
	})
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// lookIn finds all programs of a name in a PATH-like list. exec.LookPath knows only our own PATH and the first.
func lookIn(list, name string) []string {
	var found []string
	for _, dir := range filepath.SplitList(list) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			found = append(found, file)
		}
	}
	return found
}

// first is the first program of a name in a PATH-like list.
func first(list, name string) (string, error) {
	if found := lookIn(list, name); len(found) > 0 {
		return filepath.Abs(found[0])
	}
	return "", fmt.Errorf("%s is not installed", name)
}
