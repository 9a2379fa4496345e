package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluice-tasks/sluice/pkg/worker"
)

// making holds the arguments of archive.make: by name {"path": "/tmp/src.tar.gz", "dir": "/usr/src"}, or by position.
type making struct {
	// Path of the archive, which must not exist.
	Path string `json:"path"`
	// Dir is what goes into it.
	Dir string `json:"dir"`
}

// made is its result.
type made struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"` // of the files, not of the archive
}

// pack makes an archive of the regular files in a directory.
func pack(ctx context.Context, in making) (*made, error) {
	// Tasks run in directories of their own, where a relative path means something else.
	if !filepath.IsAbs(in.Path) || !filepath.IsAbs(in.Dir) {
		return nil, worker.Permanent(worker.Safef("path and dir must be absolute"))
	}
	names, err := filesIn(in.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Whoever handed the task in may read this, and a retry can be asked for by its code.
		return nil, worker.Coded("NOT_THERE", worker.Safef("there is no directory %s", in.Dir))
	case err != nil:
		// This was written by the operating system. Who may not see it gets a reference to the executor's log instead.
		return nil, fmt.Errorf("look into %s: %w", in.Dir, err)
	}
	part, err := worker.NewProgress(ctx, worker.Part{Code: "archive.make", Message: "Packing", Total: int64(len(names)), Suffix: "files"})
	if err != nil {
		return nil, err
	}

	file, err := os.OpenFile(in.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // as readable as other files
	if errors.Is(err, fs.ErrExist) {
		return nil, worker.Permanent(worker.Safef("%s is there already", in.Path))
	}
	if err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	// From here on it is the executor's to delete, if the task comes to nothing: canceled, failed, killed.
	if err := worker.Creating(ctx, in.Path); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(in.Path))
	}
	result, err := zip(ctx, file, in.Dir, names, part)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("write the archive: %w", err)
	}
	part.Done()
	return result, worker.Created(ctx, in.Path)
}

// remove undoes pack: it deletes an archive that was not completed. That it is not there is no mistake.
func remove(_ context.Context, path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func filesIn(dir string) (names []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

func zip(ctx context.Context, to io.Writer, dir string, names []string, part *worker.Progress) (*made, error) {
	// If the task has a trace, this is to be seen in it.
	ctx, span := worker.Tracer(ctx).Start(ctx, "zip")
	defer span.End()
	zipped := gzip.NewWriter(to)
	archive := tar.NewWriter(zipped)
	result := &made{}
	for _, name := range names {
		// Canceled, or out of time. A handler that does not look is killed when the grace is over.
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		size, err := add(archive, dir, name)
		if err != nil {
			return nil, err
		}
		worker.Logger(ctx).InfoContext(ctx, "packed", "name", name, "bytes", size)
		result.Files, result.Bytes = result.Files+1, result.Bytes+size
		part.Add(1) // as often as you like: it is sent a few times a second
	}
	return result, errors.Join(archive.Close(), zipped.Close())
}

func add(to *tar.Writer, dir, name string) (size int64, err error) {
	file, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	header, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return 0, err
	}
	header.Name = name
	if err := to.WriteHeader(header); err != nil {
		return 0, err
	}
	return io.Copy(to, file)
}

// listing holds no arguments: archive.list reads the first file that it was given.
type listing struct{}

// list says what is in an archive. It is declared fit to share the executor's process, which saves it one of its own.
func list(ctx context.Context, _ listing) ([]string, error) {
	given := worker.Current(ctx).FileIDs
	if len(given) != 1 {
		return nil, worker.Permanent(worker.Safef("needs one file, an archive: it was given %d", len(given)))
	}
	path, err := worker.FetchFile(ctx, given[0])
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the archive: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	zipped, err := gzip.NewReader(file)
	if err != nil {
		return nil, worker.Permanent(worker.Safef("the file is no archive: %w", err))
	}
	archive := tar.NewReader(zipped)
	names := []string{}
	for ctx.Err() == nil {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return nil, worker.Permanent(worker.Safef("the archive is damaged: %w", err))
		}
		names = append(names, header.Name)
	}
	return nil, context.Cause(ctx)
}
