package dispatcher

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// PutFile stores a temporary file.
func (s server) PutFile(stream grpc.ClientStreamingServer[dispatcherv1.PutFileRequest, dispatcherv1.PutFileResponse]) error {
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) { // who sends nothing stores an empty file
		return err
	}
	content := &received{stream: stream, rest: first.GetData(), err: err}
	file, err := s.service.PutFile(stream.Context(), first.GetName(), content)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&dispatcherv1.PutFileResponse{File: toWire(file)})
}

// received reads the content of a file from the messages that bring it, however small or large.
type received struct {
	stream grpc.ClientStreamingServer[dispatcherv1.PutFileRequest, dispatcherv1.PutFileResponse]
	rest   []byte
	err    error
}

// Read implements io.Reader. The next message is only received when the one before is used up, so a client is no faster than
// the database.
func (r *received) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		message, err := r.stream.Recv()
		r.rest, r.err = message.GetData(), err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// GetFile sends a file, the description first.
func (s server) GetFile(req *dispatcherv1.GetFileRequest, stream grpc.ServerStreamingServer[dispatcherv1.GetFileResponse]) error {
	file, err := s.service.File(stream.Context(), req.GetFileId())
	if err != nil {
		return err
	}
	if err := stream.Send(&dispatcherv1.GetFileResponse{File: toWire(file)}); err != nil {
		return err
	}
	for data, err := range s.service.Content(stream.Context(), file) {
		if err != nil {
			return err
		}
		if err := stream.Send(&dispatcherv1.GetFileResponse{Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteFile removes a temporary file.
func (s server) DeleteFile(ctx context.Context, req *dispatcherv1.DeleteFileRequest) (*dispatcherv1.DeleteFileResponse, error) {
	if err := s.service.DeleteFile(ctx, req.GetFileId()); err != nil {
		return nil, err
	}
	return &dispatcherv1.DeleteFileResponse{}, nil
}

func toWire(f *File) *dispatcherv1.TemporaryFile {
	return &dispatcherv1.TemporaryFile{Id: f.ID, Name: f.Name, Size: f.Size, Sha256: f.SHA256}
}
