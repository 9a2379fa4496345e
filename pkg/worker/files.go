package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"unicode/utf8"
)

// KeepFile stores the file at path as a temporary file, which outlives the task, and returns its UUID: tasks can be given it
// through Spec.FileIDs. A path that is not absolute is one in the working directory, and all must lead below that, in at most
// 4,096 bytes without control characters. The content is copied: what happens to the file afterwards does not matter. Without a
// task that is given it, the temporary file is removed after a while.
func KeepFile(ctx context.Context, path string) (id string, err error) {
	s, inside := scopeOf(ctx)
	if !inside || s.calls == nil {
		return "", fmt.Errorf("keep the file %q: %w", path, errOutside)
	}
	if path == "" || !utf8.ValidString(path) {
		return "", fmt.Errorf("keep the file %q: %w", path, errors.New("its path must be UTF-8, and not empty"))
	}
	whole := filepath.Clean(path)
	if !filepath.IsAbs(whole) {
		dir, err := WorkingDir(ctx)
		if err != nil {
			return "", fmt.Errorf("keep the file %q: %w", path, err)
		}
		whole = filepath.Join(dir, whole)
	}
	id, err = s.calls.KeepFile(ctx, whole)
	if err != nil {
		return "", fmt.Errorf("keep the file %q: %w", path, err)
	}
	return id, nil
}

// FetchFile brings the temporary file with this UUID and returns the path of its content. It vanishes with the task. Those that
// the task was given are in Task.FileIDs.
func FetchFile(ctx context.Context, id string) (path string, err error) {
	s, inside := scopeOf(ctx)
	if !inside || s.calls == nil {
		return "", fmt.Errorf("fetch the file %s: %w", id, errOutside)
	}
	path, err = s.calls.FetchFile(ctx, id)
	if err != nil {
		return "", fmt.Errorf("fetch the file %s: %w", id, err)
	}
	return path, nil
}
