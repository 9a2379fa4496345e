package languages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// oldest is the first Python that the packages of the example run on. Others need a newer one: then pip says so, and the next is
// tried.
var oldest = [2]int{3, 9}

// inspectTimeout is for a program that says its version.
const inspectTimeout = 20 * time.Second

// interpreter is a Python that runs here.
type interpreter struct {
	path  string
	env   map[string]string // what it needs in its environment
	wheel string            // path of a pip to run when it has none of its own; may be empty

	Executable string // path of the program itself: the other may be a script that picks one
	Version    [2]int
	Tag        string // names those interpreters that the same packages fit
	Bundled    string // path of the pip that comes with it; may be empty
}

// inspection makes Python tell what it is. It has to run on versions that are too old, too.
const inspection = `
import glob, json, os, sys, sysconfig
try:
    import ensurepip
    bundled = glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl"))
except ImportError:
    bundled = []
print(json.dumps({
    "Executable": sys.executable,
    "Version": sys.version_info[:2],
    "Tag": "%s %s" % (sysconfig.get_config_var("SOABI"), sysconfig.get_platform()),
    "Bundled": "".join(bundled[:1]),
}))
`

// python returns an interpreter that imports the pinned packages.
func (m machine) python(ctx context.Context) (Program, error) {
	example := filepath.Join(m.root, "deploy", "examples", "python")
	in, packages, err := m.packages(ctx, filepath.Join(example, "requirements.txt"), "import grpc, grpc_tools.protoc")
	return Program{Path: in.Executable, Env: in.importing(packages), Example: example}, err
}

// packages returns an interpreter, and the folder from which it imports the packages that a file pins. The check is a program
// that imports what matters of them.
func (m machine) packages(ctx context.Context, file, check string) (found interpreter, folder string, err error) {
	requirements, err := os.ReadFile(file)
	if err != nil {
		return interpreter{}, "", err
	}
	err = m.withPython(ctx, func(in interpreter) error {
		found = in
		folder, err = m.keep("python-"+key(string(requirements), in.Tag), func(dir string) error {
			if err := m.pip(ctx, in, dir, "--requirement", file); err != nil {
				return err
			}
			_, err := m.run(ctx, dir, in.importing(dir), in.Executable, "-c", check)
			return err
		})
		return err
	})
	return found, folder, err
}

// importing is the environment in which it imports from a folder. It writes nothing beside the sources that it runs.
func (in interpreter) importing(dir string) map[string]string {
	env := map[string]string{"PYTHONPATH": dir, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
	for name, value := range in.env {
		env[name] = value
	}
	return env
}

// withPython calls use with one interpreter after the other, until it is content: first those that are installed, then one
// that is fetched.
func (m machine) withPython(ctx context.Context, use func(interpreter) error) error {
	var errs []error
	tried := map[string]bool{} // by executable: most have more than one name
	for _, name := range []string{"python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9"} {
		for _, path := range debian.Programs(m.path, name) {
			in, err := m.inspect(ctx, interpreter{path: path})
			if err == nil && tried[in.Executable] {
				continue
			}
			tried[in.Executable] = true
			if err == nil {
				err = use(in)
			}
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("python3 is not installed"))
	}
	in, err := m.debianPython(ctx)
	if err == nil {
		err = use(in)
	}
	if err == nil {
		return nil
	}
	return errors.Join(append(errs, fmt.Errorf("fetch Python: %w", err))...)
}

// inspect runs an interpreter to see that it does, and what it is.
func (m machine) inspect(ctx context.Context, in interpreter) (interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	said, err := m.run(ctx, "", in.env, in.path, "-c", inspection)
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal([]byte(said), &in); err != nil {
		return in, fmt.Errorf("%s does not tell what it is: %w", in.path, err)
	}
	if v := in.Version; v[0] < oldest[0] || v[0] == oldest[0] && v[1] < oldest[1] {
		return in, fmt.Errorf("%s is Python %d.%d, older than %d.%d", in.path, v[0], v[1], oldest[0], oldest[1])
	}
	return in, nil
}

// pip installs packages into a folder. What the user has set up, such as another index, applies.
func (m machine) pip(ctx context.Context, in interpreter, dir string, packages ...string) error {
	start, err := m.startPip(ctx, in)
	if err != nil {
		return err
	}
	env := map[string]string{"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"} // neither goes together with a folder of our own
	for name, value := range in.env {
		env[name] = value
	}
	args := append(start, "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2",
		"--target", dir, "--only-binary", ":all:") // nobody has a compiler for certain
	_, err = m.run(ctx, dir, env, in.Executable, append(args, packages...)...)
	return err
}

// startPip is how the interpreter starts pip. Debian has it in a package of its own; its wheel runs as it is.
func (m machine) startPip(ctx context.Context, in interpreter) ([]string, error) {
	_, missing := m.run(ctx, "", in.env, in.Executable, "-m", "pip", "--version")
	if missing == nil {
		return []string{"-m", "pip"}, nil
	}
	for _, wheel := range []string{in.wheel, in.Bundled, pipWheel(m.debianRoot)} {
		if wheel != "" {
			return []string{filepath.Join(wheel, "pip")}, nil
		}
	}
	wheel, err := m.debianPip(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s has no pip: %w", in.path, errors.Join(missing, err))
	}
	return []string{filepath.Join(wheel, "pip")}, nil
}
