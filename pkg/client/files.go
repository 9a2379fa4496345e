package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// filePart is how much of a file one message carries, in bytes. A quarter of what is allowed: four are on their way at a time.
const filePart = 256 << 10

// File describes a temporary file.
type File struct {
	// ID is a UUID in lower case.
	ID string
	// Name is what it is called: a name without a slash.
	Name string
	// Size is its length in bytes, at most 1 GiB unless the server was set otherwise.
	Size int64
	// SHA256 of its content, in lower-case hexadecimal.
	SHA256 string
}

// PutFile stores what content holds up to its end as a temporary file, which tasks can be given. An empty name means "file". An
// error of content comes back as it is, and nothing is stored. The file is removed when nobody has used it for the protection
// time (a setting of the server, 24 h by default) and no task has it that is not final.
func (c *Client) PutFile(ctx context.Context, name string, content io.Reader) (File, error) {
	return SendFile(ctx, c.dispatcher, name, content)
}

// GetFile writes the content of a temporary file to content. An error means that what was written is not the file. One that is
// unknown or was removed: reason errs.FileNotFound.
func (c *Client) GetFile(ctx context.Context, id string, content io.Writer) (File, error) {
	return ReceiveFile(ctx, c.dispatcher, id, func(File) (io.Writer, error) { return content, nil })
}

// DeleteFile removes a temporary file. One that is not there is no error; one that a task has that is not final has reason
// errs.FileInUse.
func (c *Client) DeleteFile(ctx context.Context, id string) error {
	_, err := c.dispatcher.DeleteFile(ctx, &dispatcherv1.DeleteFileRequest{FileId: id})
	return err
}

// SendFile is PutFile for who has a connection of another kind.
func SendFile(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, name string, content io.Reader) (File, error) {
	ctx, cancel := context.WithCancel(ctx) // which ends an upload that is not completed
	defer cancel()
	stream, err := dispatcher.PutFile(ctx)
	if err != nil {
		return File{}, err
	}
	sent, buffer := newMeasure(), make([]byte, filePart)
	for first := true; ; first = false {
		n, err := io.ReadFull(content, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return File{}, fmt.Errorf("read the content: %w", err)
		}
		_, _ = sent.Write(buffer[:n]) // it never fails
		if n > 0 || first {
			// A stream that the server has ended takes nothing more; the answer says why.
			if err := stream.Send(&dispatcherv1.PutFileRequest{Name: name, Data: buffer[:n]}); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return File{}, errs.From(err)
			}
		}
		if last {
			break
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return File{}, err
	}
	file := fromFile(answer.GetFile())
	return file, sent.check(file)
}

// ReceiveFile is GetFile for who has a connection of another kind, and needs to know what comes before it is written: open
// returns what to write to.
func ReceiveFile(ctx context.Context, dispatcher dispatcherv1.DispatcherServiceClient, id string, open func(File) (io.Writer, error)) (File, error) {
	ctx, cancel := context.WithCancel(ctx) // which ends a stream that is not read to its end
	defer cancel()
	stream, err := dispatcher.GetFile(ctx, &dispatcherv1.GetFileRequest{FileId: id})
	if err != nil {
		return File{}, err
	}
	first, err := stream.Recv()
	if err != nil {
		return File{}, ended(err)
	}
	if first.GetFile() == nil {
		return File{}, fmt.Errorf("get file %s: the server does not say what it sends", id)
	}
	file := fromFile(first.GetFile())
	content, err := open(file)
	if err != nil {
		return file, err
	}
	got := newMeasure()
	for got.size <= file.Size {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return file, err
		}
		_, _ = got.Write(message.GetData()) // it never fails
		if _, err := content.Write(message.GetData()); err != nil {
			return file, fmt.Errorf("write the content: %w", err)
		}
	}
	return file, got.check(file)
}

// ended says of a stream that ended too early that it did, instead of that it ended.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// measure counts and hashes what goes by.
type measure struct {
	hash.Hash
	size int64
}

func newMeasure() *measure { return &measure{Hash: sha256.New()} }

func (m *measure) Write(p []byte) (int, error) {
	m.size += int64(len(p))
	return m.Hash.Write(p)
}

// check compares with what the server says.
func (m *measure) check(f File) error {
	if sum := hex.EncodeToString(m.Sum(nil)); m.size != f.Size || sum != f.SHA256 {
		return fmt.Errorf("file %s was damaged on its way: %d bytes with sha256 %s here, %d bytes with sha256 %s there", f.ID, m.size, sum, f.Size, f.SHA256)
	}
	return nil
}

func fromFile(f *dispatcherv1.TemporaryFile) File {
	return File{ID: f.GetId(), Name: f.GetName(), Size: f.GetSize(), SHA256: f.GetSha256()}
}
