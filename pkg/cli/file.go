package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

// FileCmd looks after temporary files.
type FileCmd struct {
	Put    FilePutCmd    `cmd:"" help:"Store a file that tasks can be given."`
	Get    FileGetCmd    `cmd:"" help:"Fetch a temporary file."`
	Delete FileDeleteCmd `cmd:"" help:"Delete temporary files."`
}

// fileView is a temporary file.
type fileView struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func viewFile(f client.File) fileView { return fileView(f) }

// FilePutCmd stores a file.
type FilePutCmd struct {
	Path string `arg:"" help:"The file, or - for standard input."`
	Connection
}

// Help is the longer explanation.
func (*FilePutCmd) Help() string {
	return `Prints the id of the temporary file. It is removed when it has not been used for a day (a setting of the dispatcher) and no task has it that has not ended. With --output json: the file with its size and digest.

    sluice file put report.csv
    tar c src | sluice file put -`
}

// Run uploads the file.
func (c *FilePutCmd) Run(ctx context.Context, env *Environment) error {
	name, content := "", env.Stdin
	if c.Path != "-" {
		file, err := os.Open(c.Path)
		if err != nil {
			return usage("%s", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		name, content = filepath.Base(c.Path), file
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		file, err := s.PutFile(ctx, name, content)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewFile(file))
		}
		s.printf("%s\n", file.ID)
		return nil
	})
}

// FileGetCmd fetches a file.
type FileGetCmd struct {
	ID         string `arg:"" help:"Id of the file."`
	OutputFile string `name:"output-file" placeholder:"PATH" help:"Write to this file instead of standard output. It is only there when all of it is."`
	Connection
}

// Help is the longer explanation.
func (*FileGetCmd) Help() string {
	return `Writes the content to standard output, or to a file. An exit code other than 0 means that what was written to standard output is not all of it. With --output json, which needs --output-file: the file with its name, size and digest.

    sluice file get 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60 --output-file report.csv`
}

// Run downloads the file.
func (c *FileGetCmd) Run(ctx context.Context, env *Environment) error {
	if c.Output == "json" && c.OutputFile == "" {
		return usage("--output: json needs --output-file, because standard output is for the content")
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		if c.OutputFile == "" {
			_, err := s.GetFile(ctx, c.ID, s.Stdout)
			return err
		}
		file, err := s.getInto(ctx, c.ID, c.OutputFile)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewFile(file))
		}
		s.printf("%s: %s\n", printable(c.OutputFile), plural(file.Size, "byte", "bytes"))
		return nil
	})
}

// getInto fetches into a file beside the one that is meant, which then takes its place. What is no regular file, a device for
// example, is written to itself.
func (s *session) getInto(ctx context.Context, id, path string) (file client.File, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		to, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return file, err
		}
		file, err = s.GetFile(ctx, id, to)
		return file, errors.Join(err, to.Close())
	}
	to, err := os.CreateTemp(filepath.Dir(path), ".sluice-*")
	if err != nil {
		return file, err
	}
	defer func() { _ = os.Remove(to.Name()) }() // it is gone if it was renamed
	file, err = s.GetFile(ctx, id, to)
	if err = errors.Join(err, to.Close()); err != nil {
		return file, err
	}
	return file, os.Rename(to.Name(), path)
}

// FileDeleteCmd removes files.
type FileDeleteCmd struct {
	ID []string `arg:"" help:"Ids of the files."`
	Connection
}

// Help is the longer explanation.
func (*FileDeleteCmd) Help() string {
	return `A file that a task has can't be deleted before the task has ended. One that is not there is no mistake.

    sluice file delete 0192f0c1-7a52-7c3e-9d3f-2f5c3a1b4e60`
}

// Run deletes one after the other; a failure does not spare the others.
func (c *FileDeleteCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return deleteEach(ctx, s, c.Addr, c.ID, s.DeleteFile)
	})
}

// FileFlags are what a dispatcher can be told about temporary files.
type FileFlags struct {
	TmpfileProtectionTime time.Duration `name:"tmpfile-protection-time" default:"24h" placeholder:"DURATION" group:"service" help:"How long a temporary file is kept after its last use (${default})."`
	MaxFile               int64         `name:"max-file" default:"1073741824" placeholder:"BYTES" group:"service" help:"How large a temporary file may be (${default})."`
}

func (f FileFlags) apply(cfg *dispatcher.Config) error {
	switch {
	case f.TmpfileProtectionTime < time.Minute:
		return usage("--tmpfile-protection-time: must be at least 1m, is %s", f.TmpfileProtectionTime)
	case f.MaxFile < 1 || f.MaxFile > limits.MaxFile:
		return usage("--max-file: must be between 1 and %d, is %d", limits.MaxFile, f.MaxFile)
	}
	cfg.FileProtection, cfg.MaxFile = f.TmpfileProtectionTime, f.MaxFile
	return nil
}
