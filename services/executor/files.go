package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/client"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// fetchFile brings a temporary file into a directory, which must exist, and returns its path: <dir>/<id>/<name>, mode 0600. One
// that is there already, or is brought by another call at the same time, is not brought twice. What is half done or damaged is
// never there.
func fetchFile(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, dir, id string) (string, error) {
	path, err := fetchInto(ctx, dispatcher, dir, id)
	if err != nil {
		return "", fmt.Errorf("get file %s: %w", id, err)
	}
	return path, nil
}

func fetchInto(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, dir, id string) (string, error) {
	if known, err := uuid.Parse(id); err != nil || known.String() != id {
		return "", errors.New("its id must be a UUID in lower case")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	if name, there := fetchedName(root, id); there {
		return filepath.Join(dir, id, name), nil
	}
	// Nobody knows this name: what has the other one is whole.
	making := "." + id + "-" + strings.ToLower(rand.Text()[:10])
	if err := root.Mkdir(making, 0o700); err != nil {
		return "", fmt.Errorf("make a directory for it: %w", err)
	}
	name, err := receiveInto(ctx, dispatcher, root, making, id)
	if err == nil {
		err = root.Rename(making, id)
	}
	if err == nil {
		return filepath.Join(dir, id, name), nil
	}
	_ = root.RemoveAll(making) // the whole directory is removed with the task
	if name, there := fetchedName(root, id); there && ctx.Err() == nil {
		return filepath.Join(dir, id, name), nil // another call was faster
	}
	return "", err
}

// fetchedName finds a file that was brought before.
func fetchedName(root *os.Root, id string) (name string, there bool) {
	entries, err := fs.ReadDir(root.FS(), id)
	if err != nil || len(entries) != 1 || !entries[0].Type().IsRegular() {
		return "", false
	}
	return entries[0].Name(), true
}

// receiveInto writes a file into a directory below root and returns its name.
func receiveInto(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, root *os.Root, dir, id string) (string, error) {
	var content *os.File
	file, err := client.ReceiveFile(ctx, dispatcher, id, func(f client.File) (io.Writer, error) {
		if f.Name == "" || f.Name == "." || f.Name == ".." || strings.Contains(f.Name, "/") {
			return nil, fmt.Errorf("its name is not that of a file: %q", f.Name)
		}
		var err error
		content, err = root.OpenFile(filepath.Join(dir, f.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return content, err
	})
	if content != nil {
		err = errors.Join(err, content.Close())
	}
	return file.Name, err
}

// keepFile stores a file as a temporary file and returns its id. It must be a regular one and lie below root, the working
// directory of its task, wherever a symbolic link may point; a path that is not absolute begins there.
func keepFile(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, root, path string) (string, error) {
	content, err := openKept(root, path)
	if err != nil {
		return "", fmt.Errorf("keep file %q: %w", path, err)
	}
	defer func() { _ = content.Close() }() // it was only read
	file, err := client.SendFile(ctx, dispatcher, filepath.Base(path), content)
	if err != nil {
		return "", fmt.Errorf("keep file %q: %w", path, err)
	}
	return file.ID, nil
}

func openKept(root, path string) (*os.File, error) {
	name, err := pathBelow(root, path)
	if err != nil {
		return nil, err
	}
	if !utf8.ValidString(filepath.Base(path)) {
		return nil, errors.New("its name is not valid UTF-8")
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open the working directory: %w", err)
	}
	defer func() { _ = dir.Close() }()
	// Before it is opened: to open a device can do something.
	info, err := dir.Stat(name)
	if err != nil {
		return nil, err
	}
	if err := checkRegular(info); err != nil {
		return nil, err
	}
	// It may have become a fifo meanwhile, whose opening would wait for a writer.
	content, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = content.Stat(); err == nil {
		err = checkRegular(info)
	}
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return content, nil
}

// pathBelow makes of a path one that begins at root.
func pathBelow(root, path string) (string, error) {
	if path == "" {
		return "", errors.New("it has no name")
	}
	if !filepath.IsAbs(path) {
		return localPath(path)
	}
	if name, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(name) {
		return name, nil
	}
	// A process is told the real path of its working directory.
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	name, err := filepath.Rel(resolved, path)
	if err != nil {
		return "", err
	}
	return localPath(name)
}

func localPath(path string) (string, error) {
	if !filepath.IsLocal(path) {
		return "", errors.New("it must lie in the working directory of the task")
	}
	return filepath.Clean(path), nil
}

func checkRegular(info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return errors.New("it is a directory; only regular files can be kept")
	default:
		return fmt.Errorf("it is no regular file (mode %s)", mode)
	}
}
