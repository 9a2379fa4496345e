package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// text is content of a size that is no multiple of anything.
func text(size int) []byte {
	return bytes.Repeat([]byte("0123456789abc"), size/13+1)[:size]
}

func TestFileGoesThereAndBack(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	for i, size := range []int{0, 1, 256 << 10, 700_001} {
		content := text(size)
		put, err := c.PutFile(t.Context(), "a b", iotest.OneByteReader(bytes.NewReader(content)))
		if err != nil {
			t.Fatal(err)
		}
		if put.ID != clienttest.FileID(i+1) || put.Name != "a b" || put.Size != int64(size) || len(put.SHA256) != 64 {
			t.Errorf("stored as %+v", put)
		}
		var got bytes.Buffer
		back, err := c.GetFile(t.Context(), put.ID, &got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(put, back); diff != "" || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("%d bytes came back: %s", got.Len(), diff)
		}
		if err := c.DeleteFile(t.Context(), put.ID); err != nil {
			t.Error(err)
		}
		if _, err := c.GetFile(t.Context(), put.ID, io.Discard); !errs.Is(err, errs.FileNotFound) {
			t.Errorf("after it was deleted: %v", err)
		}
	}
}

func TestContentThatCanNotBeReadStoresNothing(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	broken := errors.New("the disk is broken")
	for _, before := range []int{0, 10, 3 << 20} {
		_, err := c.PutFile(t.Context(), "n", io.MultiReader(bytes.NewReader(text(before)), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", before, err)
		}
	}
	// It is behind them on the connection.
	if _, err := c.PutFile(t.Context(), "whole", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"whole"}, server.Files()); diff != "" {
		t.Error(diff)
	}
}

func TestServersRefusalOfAFileIsTold(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(string) error { return errs.Precondition(errs.FileInUse, "a task has it") }
	c := dial(t, server)
	if _, err := c.PutFile(t.Context(), "n", bytes.NewReader(text(9<<20))); !errs.Is(err, errs.FileInUse) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.GetFile(t.Context(), clienttest.ID(1), io.Discard); !errs.Is(err, errs.FileInUse) {
		t.Errorf("get: %v", err)
	}
	if err := c.DeleteFile(t.Context(), clienttest.ID(1)); !errs.Is(err, errs.FileInUse) {
		t.Errorf("delete: %v", err)
	}
	server.Fail = nil
	if _, err := c.PutFile(t.Context(), "a/b", bytes.NewReader(text(9<<20))); !errs.Is(err, errs.InvalidInput) {
		t.Errorf("put under a bad name: %v", err)
	}
}

func TestWithoutAServerAFileIsUnavailable(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	server.Stop()
	_, put := c.PutFile(t.Context(), "n", strings.NewReader("x"))
	_, get := c.GetFile(t.Context(), clienttest.ID(1), io.Discard)
	for _, err := range []error{put, get, c.DeleteFile(t.Context(), clienttest.ID(1))} {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	}
}

func TestDamagedFileIsNoSuccess(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	put, err := c.PutFile(t.Context(), "n", bytes.NewReader(text(5000)))
	if err != nil {
		t.Fatal(err)
	}
	type messages = []*dispatcherv1.GetFileResponse
	for name, damage := range map[string]func(messages) messages{
		"nothing at all":   func(messages) messages { return nil },
		"no description":   func(m messages) messages { return m[1:] },
		"cut short":        func(m messages) messages { return m[:len(m)-1] },
		"too much":         func(m messages) messages { return append(m, m[1]) },
		"out of order":     func(m messages) messages { return messages{m[0], m[2], m[1], m[3], m[4], m[5]} },
		"without its data": func(m messages) messages { return m[:1] },
	} {
		server.Damage = damage
		if _, err := c.GetFile(t.Context(), put.ID, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// stuck is a writer for which there is no room.
type stuck struct{ err error }

func (s stuck) Write([]byte) (int, error) { return 0, s.err }

func TestContentThatCanNotBeWrittenEndsTheStream(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	put, err := c.PutFile(t.Context(), "n", bytes.NewReader(text(8<<20)))
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	if _, err := c.GetFile(t.Context(), put.ID, stuck{full}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestCanceledUploadStoresNothing(t *testing.T) {
	server := clienttest.New(t)
	c := dial(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := c.PutFile(ctx, "n", r)
		ended <- err
	}()
	if _, err := w.Write(text(1 << 20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = w.Close() // as if it were complete
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	if n := server.Files(); len(n) != 0 {
		t.Errorf("stored %v", n)
	}
}
