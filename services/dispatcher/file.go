package dispatcher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// File describes a temporary file.
type File struct {
	ID, Name string
	// Size is in bytes, SHA256 in lower-case hexadecimal.
	Size   int64
	SHA256 string
}

const (
	// partSize is how much of a file is one row, in bytes. Only a file's last part is smaller, however small the messages
	// were that brought it.
	partSize = 1 << 20
	// defaultName is that of a file without one.
	defaultName = "file"
	// moves is how many parts are stored or read at a time. The pool is also that of the dispatches, which must not wait for
	// large files.
	moves = 4
	// uploadPatience is how long an upload may stand still. It ends when its client goes away: this is for those whose
	// dispatcher went away too.
	uploadPatience = time.Hour
	// sweepEvery is about how often each dispatcher looks for what is to be removed.
	sweepEvery = time.Minute
	// sweepMost is how many files one look removes, sweepFor how long that may take.
	sweepMost = 100
	sweepFor  = 10 * time.Minute
)

// PutFile stores a file. Whatever goes wrong, content that ends with an error included: nobody ever sees a part of it.
func (s *Service) PutFile(ctx context.Context, name string, content io.Reader) (*File, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a file id: %w", err)
	}
	if name == "" {
		name = defaultName
	}
	file := &File{ID: id.String(), Name: name}
	begun, err := s.store(ctx, file, content)
	if err == nil {
		s.log.InfoContext(ctx, "stored a file", slog.String("file_id", file.ID), slog.Int64("size", file.Size))
		return file, nil
	}
	if begun {
		s.abandon(ctx, file.ID)
	}
	return nil, err
}

// store stores a file, part by part. begun tells whether there may be something of it when that failed.
func (s *Service) store(ctx context.Context, file *File, content io.Reader) (begun bool, err error) {
	sum, part := sha256.New(), make([]byte, partSize)
	for parts := 0; ; parts++ {
		n, err := io.ReadFull(content, part)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return parts > 0, fmt.Errorf("receive file %s: %w", file.ID, err)
		}
		if file.Size += int64(n); file.Size > s.cfg.MaxFile {
			return parts > 0, errs.Invalid(errs.Violation{Field: "data", Rule: fmt.Sprintf("must be at most %d bytes in all", s.cfg.MaxFile)})
		}
		_, _ = sum.Write(part[:n]) // a hash never returns an error
		if last {
			file.SHA256 = hex.EncodeToString(sum.Sum(nil))
		}
		err = s.move(ctx, func(ctx context.Context) error { return s.storePart(ctx, file, parts, part[:n]) })
		if err != nil || last {
			return true, err
		}
	}
}

// storePart stores the next part. With the last one, which has the digest, the file is complete.
func (s *Service) storePart(ctx context.Context, file *File, part int, data []byte) error {
	if part == 0 {
		return s.db.StartFile(ctx, file, data)
	}
	alive := true
	var err error
	if len(data) > 0 {
		alive, err = s.db.AddPart(ctx, file.ID, part, data)
		part++
	}
	if err == nil && alive && file.SHA256 != "" {
		alive, err = s.db.CompleteFile(ctx, file, part)
	}
	if err != nil {
		return err
	}
	if !alive {
		return errs.Precondition(errs.FileNotFound, "the upload was given up, because nothing came for %s: begin again", uploadPatience)
	}
	return nil
}

// move moves a part to the database or from it, when it is its turn.
func (s *Service) move(ctx context.Context, do func(context.Context) error) error {
	select {
	case s.moving <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.moving }()
	ctx, cancel := context.WithTimeout(ctx, storeFor)
	defer cancel()
	return do(ctx)
}

// abandon has an upload that failed removed. If that fails too, a later look at what stands still does it.
func (s *Service) abandon(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeFor)
	defer cancel()
	if err := s.db.AbandonFile(ctx, id); err != nil {
		s.log.WarnContext(ctx, "can't remove what is left of an upload yet", slog.String("file_id", id), slog.Any("error", err))
		return
	}
	s.sweepSoon()
}

// File describes a complete file, which counts as a use of it.
func (s *Service) File(ctx context.Context, id string) (*File, error) { return s.db.UseFile(ctx, id) }

// Content yields the content of a file, at most 1 MiB at a time, and ends with the first error.
func (s *Service) Content(ctx context.Context, file *File) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var sent int64
		for part := 0; sent < file.Size; part++ {
			var data []byte
			err := s.move(ctx, func(ctx context.Context) (err error) {
				data, err = s.db.Part(ctx, file.ID, part)
				return err
			})
			if !yield(data, err) || err != nil {
				return
			}
			sent += int64(len(data))
		}
	}
}

// DeleteFile lets a file vanish, unless a task that is not final has it.
func (s *Service) DeleteFile(ctx context.Context, id string) error {
	removed, used, err := s.db.RemoveFile(ctx, id)
	switch {
	case err != nil:
		return err
	case used:
		return errs.Precondition(errs.FileInUse, "a task that is not finished has file %s", id)
	case removed:
		s.log.InfoContext(ctx, "removed a file", slog.String("file_id", id))
		s.sweepSoon()
	}
	return nil
}

// SweepFiles lets files vanish that nobody used for the protection time, and uploads that stand still, and deletes their parts.
// more: it could have gone on. Several dispatchers can do it at once.
func (s *Service) SweepFiles(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sweepFor)
	defer cancel()
	ids, err := s.db.SweepFiles(ctx, s.cfg.FileProtection, uploadPatience, sweepMost)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		err = errors.Join(err, s.db.DropFile(ctx, id)) // one that can't be deleted must not keep the others
	}
	if err != nil {
		return false, err
	}
	if len(ids) > 0 {
		s.log.InfoContext(ctx, "deleted temporary files", slog.Int("files", len(ids)))
	}
	return len(ids) == sweepMost, nil
}

// sweepSoon has the parts of a file deleted that has vanished: for a large one that takes longer than a caller should wait.
func (s *Service) sweepSoon() {
	select {
	case s.vanished <- struct{}{}:
	default:
	}
}

// sweep sweeps about every minute until ctx ends. Dispatchers that were started together do not do it together.
func (s *Service) sweep(ctx context.Context) {
	for {
		timer := time.NewTimer(sweepEvery/2 + rand.N(sweepEvery))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.vanished:
		}
		timer.Stop()
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.SweepFiles(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "can't remove old files; it will be tried again", slog.Any("error", err))
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}
