package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tail is how many bytes of a program's complaint go into an error: the end of it, which has the reason.
const tail = 1500

// Run runs a program in dir, with env as its whole environment, and returns what it wrote to its standard output.
func Run(ctx context.Context, dir string, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// apt and npm start others; without a group of its own a canceled fetch would go on in them.
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

// Programs finds all programs of a name in a PATH-like list. exec.LookPath knows only our own PATH, and the first.
func Programs(list, name string) []string {
	var found []string
	for _, dir := range filepath.SplitList(list) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			found = append(found, file)
		}
	}
	return found
}

// Program is the absolute path of the first program of a name in a PATH-like list.
func Program(list, name string) (string, error) {
	if found := Programs(list, name); len(found) > 0 {
		return filepath.Abs(found[0])
	}
	return "", fmt.Errorf("%s is not installed", name)
}
