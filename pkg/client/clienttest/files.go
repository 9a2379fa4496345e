package clienttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// file is a temporary file.
type file struct {
	*dispatcherv1.TemporaryFile
	content []byte
}

// Files are the names of the temporary files there are, in order.
func (s *Server) Files() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, f := range s.files {
		names = append(names, f.GetName())
	}
	slices.Sort(names)
	return names
}

// FileID is the id of the nth file that was uploaded, from 1.
func FileID(n int) string { return ID(600 + n) }

// PutFile keeps a file in memory.
func (d dispatcher) PutFile(stream grpc.ClientStreamingServer[dispatcherv1.PutFileRequest, dispatcherv1.PutFileResponse]) error {
	var name string
	var content []byte
	for first := true; ; first = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if first {
			name = message.GetName()
		}
		content = append(content, message.GetData()...)
	}
	if name == "" {
		name = "file"
	}
	sum := sha256.Sum256(content)
	d.mu.Lock()
	d.uploads++
	f := file{content: content, TemporaryFile: &dispatcherv1.TemporaryFile{
		Id: FileID(d.uploads), Name: name, Size: int64(len(content)), Sha256: hex.EncodeToString(sum[:]),
	}}
	d.files[f.GetId()] = f
	d.mu.Unlock()
	return stream.SendAndClose(&dispatcherv1.PutFileResponse{File: f.TemporaryFile})
}

// GetFile sends a file back, a few bytes at a time.
func (d dispatcher) GetFile(r *dispatcherv1.GetFileRequest, stream grpc.ServerStreamingServer[dispatcherv1.GetFileResponse]) error {
	d.mu.Lock()
	f, known := d.files[r.GetFileId()]
	damage := d.Damage
	d.mu.Unlock()
	if !known {
		return errs.NotFound(errs.FileNotFound, "there is no temporary file %s", r.GetFileId())
	}
	messages := []*dispatcherv1.GetFileResponse{{File: f.TemporaryFile}}
	for piece := range slices.Chunk(f.content, 1000) {
		messages = append(messages, &dispatcherv1.GetFileResponse{Data: piece})
	}
	if damage != nil {
		messages = damage(messages)
	}
	for _, message := range messages {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// DeleteFile forgets a file.
func (d dispatcher) DeleteFile(_ context.Context, r *dispatcherv1.DeleteFileRequest) (*dispatcherv1.DeleteFileResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, r.GetFileId())
	return &dispatcherv1.DeleteFileResponse{}, nil
}
