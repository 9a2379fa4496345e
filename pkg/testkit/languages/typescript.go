package languages

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// typescript returns Node.js with the compiled example. The source tree is left as it is: the example is compiled in a copy, so
// that a tree that belongs to somebody else will do.
func (m machine) typescript(ctx context.Context) (Program, error) {
	folder := filepath.Join("deploy", "examples", "typescript")
	sources, err := m.sources(folder)
	if err != nil {
		return Program{}, err
	}
	program := Program{Env: map[string]string{}}
	err = m.withNode(ctx, func(e engine) error {
		modules, err := m.modules(ctx, e, sources, folder)
		if err != nil {
			return err
		}
		built, err := m.keep("typescript-"+sources.key(modules), func(dir string) error {
			if err := sources.write(dir); err != nil {
				return err
			}
			example := filepath.Join(dir, folder)
			if err := os.Symlink(filepath.Join(modules, "node_modules"), filepath.Join(example, "node_modules")); err != nil {
				return err
			}
			if err := m.runNpm(ctx, e, example, "run", "build"); err != nil {
				return fmt.Errorf("%w: %w", errBroken, err)
			}
			return nil
		})
		program.Path, program.Example = e.node, filepath.Join(built, folder, "dist")
		return err
	})
	return program, err
}

// modules returns the folder that holds the example's node_modules.
func (m machine) modules(ctx context.Context, e engine, sources tree, folder string) (string, error) {
	locked := tree{}
	for _, name := range []string{"package.json", "package-lock.json"} {
		locked[name] = sources[filepath.Join(folder, name)]
	}
	return m.keep("modules-"+locked.key(), func(dir string) error {
		if err := locked.write(dir); err != nil {
			return err
		}
		return m.runNpm(ctx, e, dir, "ci", "--ignore-scripts") // foreign code has no business running here
	})
}

// tree is files: paths below some root, and what is in them.
type tree map[string]string

// sources are the files from which the example is compiled: its own, and the protos.
func (m machine) sources(folder string) (tree, error) {
	t := tree{}
	for _, pattern := range []string{filepath.Join(folder, "*.ts"), filepath.Join(folder, "*.json"), "proto/sluice/*/v1/*.proto"} {
		files, err := filepath.Glob(filepath.Join(m.root, pattern))
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("there is no %s in %s", pattern, m.root)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(m.root, file)
			if err != nil {
				return nil, err
			}
			t[name] = string(text)
		}
	}
	return t, nil
}

// key names the content.
func (t tree) key(more ...string) string {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		more = append(more, name, t[name])
	}
	return key(more...)
}

func (t tree) write(dir string) error {
	for name, text := range t {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
