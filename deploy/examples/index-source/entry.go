package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// entry is what the index has about one directory, without those below it.
type entry struct {
	Dir   string `json:"dir"` // from the root of the tree, with slashes
	Files int    `json:"files"`
	Bytes int    `json:"bytes"`
	Lines int    `json:"lines"`
	// SHA256 is the hash, in hexadecimal, of one line "<hash of the file>  <name>" for each file by name, as sha256sum prints.
	SHA256 string `json:"sha256"`
}

// standardLibrary asks the Go command, since a program does not know where it was built.
func standardLibrary() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("run go env GOROOT (or choose --source): %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "src"), nil
}

// packageDirs lists the directories of a tree that hold Go files, in order, from the root of the tree and with slashes.
// As for the Go command, what lies in testdata is no package and what lies in vendor belongs to others; cmd, beside the
// standard library, is not part of it.
func packageDirs(root string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "vendor" || path == filepath.Join(root, "cmd")):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		dirs = append(dirs, filepath.ToSlash(dir))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk %s: %w", root, err)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// describe reads the files of one directory.
func describe(path string) (entry, error) {
	var e entry
	files, err := os.ReadDir(path) // by name
	if err != nil {
		return e, fmt.Errorf("list %s: %w", path, err)
	}
	all := sha256.New()
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(path, file.Name()))
		if err != nil {
			return e, fmt.Errorf("read a file of %s: %w", path, err)
		}
		e.Files++
		e.Bytes += len(content)
		e.Lines += bytes.Count(content, []byte("\n"))
		sum := sha256.Sum256(content)
		fmt.Fprintf(all, "%x  %s\n", sum, file.Name())
	}
	e.SHA256 = hex.EncodeToString(all.Sum(nil))
	return e, nil
}

// hash is the work of one task: what is in dir goes into the file at path. It is done again from the start if need be, so an
// old result goes first: if this task fails, there must not be one that looks as if it had not.
func hash(dir, path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove the old entry: %w", err)
	}
	e, err := describe(dir)
	if err != nil {
		return err
	}
	if err := writeJSON(path, e); err != nil {
		return err
	}
	fmt.Printf("%d files, %d bytes, %d lines in %s\n", e.Files, e.Bytes, e.Lines, dir)
	return nil
}

// job is what the publishing task reads from standard input.
type job struct {
	Source string   `json:"source"`
	Dirs   []string `json:"dirs"`
	// Entries is the folder with the results of the hashing tasks.
	Entries string `json:"entries"`
}

// report is the index.
type report struct {
	Source string  `json:"source"`
	Total  entry   `json:"total"`
	Dirs   []entry `json:"dirs"`
}

// publish is the work of the last task: it merges what the others have written.
func publish(from io.Reader, path string) error {
	var j job
	if err := json.NewDecoder(from).Decode(&j); err != nil {
		return fmt.Errorf("read the job from standard input: %w", err)
	}
	made, err := merge(j.Source, j.Dirs, func(dir string) (entry, error) {
		var e entry
		text, err := os.ReadFile(entryPath(j.Entries, dir))
		if err != nil {
			return e, fmt.Errorf("read an entry: %w", err)
		}
		return e, json.Unmarshal(text, &e)
	})
	if err != nil {
		return err
	}
	if err := writeJSON(path, made); err != nil {
		return err
	}
	fmt.Printf("%d directories, %d files, %d bytes, %d lines\n", len(made.Dirs), made.Total.Files, made.Total.Bytes, made.Total.Lines)
	return nil
}

// merge makes the index of what get returns for each directory.
func merge(source string, dirs []string, get func(dir string) (entry, error)) (report, error) {
	made := report{Source: source, Dirs: []entry{}}
	all := sha256.New()
	for _, dir := range dirs {
		e, err := get(dir)
		if err != nil {
			return made, err
		}
		e.Dir = dir
		made.Dirs = append(made.Dirs, e)
		made.Total.Files += e.Files
		made.Total.Bytes += e.Bytes
		made.Total.Lines += e.Lines
		fmt.Fprintf(all, "%s  %s\n", e.SHA256, dir)
	}
	made.Total.Dir, made.Total.SHA256 = ".", hex.EncodeToString(all.Sum(nil))
	return made, nil
}

// entryPath is where the result for a directory is: one flat file, whatever the directory is called.
func entryPath(entries, dir string) string {
	return filepath.Join(entries, strings.NewReplacer("%", "%25", "/", "%2F").Replace(dir)+".json")
}

// writeJSON replaces a file in one step, so that nobody ever reads half of it.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
