package languages

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// debianPython returns Debian's Python and pip, unpacked into the cache.
func (m machine) debianPython(ctx context.Context) (interpreter, error) {
	works := func(root string) error {
		_, err := m.inspect(ctx, unpacked(root))
		return err
	}
	home, err := m.fetching().Fetch("debian-python", works, func(a *debian.Archive) error {
		if err := a.Unpack(ctx, "python3", "python3-minimal"); err != nil {
			return err
		}
		return unpackPip(ctx, a)
	})
	if err != nil {
		return interpreter{}, err
	}
	return m.inspect(ctx, unpacked(home))
}

// unpacked is the interpreter below the folder into which its packages were unpacked.
func unpacked(root string) interpreter {
	in := interpreter{path: filepath.Join(root, "usr/bin/python3"), wheel: pipWheel(root), env: map[string]string{}}
	if libraries := debian.LibraryPath(root); libraries != "" {
		in.env["LD_LIBRARY_PATH"] = libraries
	}
	return in
}

// debianPip returns the path of a pip to run for a Python that has none.
func (m machine) debianPip(ctx context.Context) (string, error) {
	home, err := m.fetching().Fetch("debian-pip", nil, func(a *debian.Archive) error { return unpackPip(ctx, a) })
	return pipWheel(home), err
}

func pipWheel(root string) string {
	wheels, _ := filepath.Glob(filepath.Join(root, "usr/share/python-wheels/pip-*.whl")) // the pattern is well-formed
	if len(wheels) == 0 {
		return ""
	}
	return wheels[0]
}

// unpackPip has the package under its two names: it was another one before Debian 12.
func unpackPip(ctx context.Context, a *debian.Archive) error {
	var errs []error
	for _, name := range []string{"python3-pip-whl", "python-pip-whl"} {
		if err := a.UnpackAlone(ctx, name); err != nil {
			errs = append(errs, err)
		} else if pipWheel(a.Root) != "" {
			return nil
		}
	}
	return errors.Join(append(errs, errors.New("the archive has no pip to be run without installing it"))...)
}
