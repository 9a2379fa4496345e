package executor

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// filesOf is a dispatcher that keeps files, and a client of it.
func filesOf(t *testing.T) (*clienttest.Server, dispatcherv1.DispatcherServiceClient) {
	t.Helper()
	server := clienttest.New(t)
	conn, err := rpc.Dial(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return server, dispatcherv1.NewDispatcherServiceClient(conn)
}

func stored(t *testing.T, dispatcher dispatcherv1.DispatcherServiceClient, name string, content []byte) string {
	t.Helper()
	file, err := client.SendFile(t.Context(), dispatcher, name, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return file.ID
}

// paths are all that is below a directory.
func paths(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFetchedFileIsPrivateAndBroughtOnce(t *testing.T) {
	server, dispatcher := filesOf(t)
	content := bytes.Repeat([]byte("0123456789"), 123_457)
	id := stored(t, dispatcher, "a report.tar", content)
	dir := t.TempDir()
	path, err := fetchFile(t.Context(), dispatcher, dir, id)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, id, "a report.tar"); path != want {
		t.Errorf("it is %s, want %s", path, want)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for path, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): fs.ModeDir | 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	server.Stop()
	if again, err := fetchFile(t.Context(), dispatcher, dir, id); err != nil || again != path {
		t.Errorf("again: %s, %v", again, err)
	}
}

func TestFileThatIsFetchedByManyAtOnceIsOne(t *testing.T) {
	_, dispatcher := filesOf(t)
	id, dir := stored(t, dispatcher, "n", make([]byte, 300_000)), t.TempDir()
	want := filepath.Join(dir, id, "n")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			path, err := fetchFile(t.Context(), dispatcher, dir, id)
			if err != nil || path != want {
				t.Errorf("%s, %v", path, err)
				return
			}
			if info, err := os.Stat(path); err != nil || info.Size() != 300_000 {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
	all.Wait()
	if got := paths(t, dir); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}

func TestFileThatDoesNotArriveWholeIsNotThere(t *testing.T) {
	server, dispatcher := filesOf(t)
	id := stored(t, dispatcher, "n", bytes.Repeat([]byte("0123456789"), 500))
	type messages = []*dispatcherv1.GetFileResponse
	named := func(name string) func(messages) messages {
		return func(m messages) messages {
			m[0] = &dispatcherv1.GetFileResponse{File: &dispatcherv1.TemporaryFile{Name: name, Size: m[0].GetFile().GetSize(), Sha256: m[0].GetFile().GetSha256()}}
			return m
		}
	}
	for name, damage := range map[string]func(messages) messages{
		"cut short":       func(m messages) messages { return m[:3] },
		"too much":        func(m messages) messages { return append(m, m[1]) },
		"out of order":    func(m messages) messages { m[1], m[2] = m[2], m[1]; return append(m[:1], m[2], m[1], m[1]) },
		"no description":  func(m messages) messages { return m[1:] },
		"a way out":       named("../../n"),
		"a path":          named("a/b"),
		"up":              named(".."),
		"no name":         named(""),
		"a name too long": named(strings.Repeat("n", 300)),
	} {
		server.Damage = damage
		dir := t.TempDir()
		if path, err := fetchFile(t.Context(), dispatcher, dir, id); err == nil || path != "" || !strings.Contains(err.Error(), "get file "+id) {
			t.Errorf("%s: %q, %v", name, path, err)
		}
		if got := paths(t, dir); len(got) != 0 {
			t.Errorf("%s: left %v", name, got)
		}
	}
	server.Damage = nil
	dir := t.TempDir()
	for id, reason := range map[string]errs.Reason{clienttest.ID(77): errs.FileNotFound, "../x": "", strings.ToUpper(id) + "A": "", "": ""} {
		if _, err := fetchFile(t.Context(), dispatcher, dir, id); err == nil || reason != "" && !errs.Is(err, reason) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if got := paths(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestNothingThatATaskPlantsLeadsAFetchedFileElsewhere(t *testing.T) {
	_, dispatcher := filesOf(t)
	id := stored(t, dispatcher, "n", []byte("x"))
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, id)); err != nil {
		t.Fatal(err)
	}
	if path, err := fetchFile(t.Context(), dispatcher, dir, id); err == nil {
		t.Errorf("it is %s", path)
	}
	if got := paths(t, outside); len(got) != 0 {
		t.Errorf("outside there are %v", got)
	}
	if err := os.WriteFile(filepath.Join(outside, "n"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if path, err := fetchFile(t.Context(), dispatcher, dir, id); err == nil {
		t.Errorf("it is %s", path)
	}
}

func TestKeptFileIsStored(t *testing.T) {
	server, dispatcher := filesOf(t)
	root := t.TempDir()
	made := filepath.Join(root, "out", "made.bin")
	if err := os.Mkdir(filepath.Dir(made), 0o700); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("x"), 700_000)
	if err := os.WriteFile(made, content, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("out/made.bin", filepath.Join(root, "inside")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other name of root")
	if err := os.Symlink(root, other); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ root, path, name string }{
		{root, made, "made.bin"},
		{root, "out/made.bin", "made.bin"},
		{root, "./out/../out/made.bin", "made.bin"},
		{root, "inside", "inside"},
		{other, filepath.Join(other, "out/made.bin"), "made.bin"},
		{other, made, "made.bin"},
	} {
		id, err := keepFile(t.Context(), dispatcher, c.root, c.path)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		path, err := fetchFile(t.Context(), dispatcher, t.TempDir(), id)
		if err != nil || filepath.Base(path) != c.name {
			t.Errorf("%s: it came back as %s, %v", c.path, path, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes came back, %v", c.path, len(got), err)
		}
	}
	if n := len(server.Files()); n != 6 {
		t.Errorf("%d files are stored", n)
	}
}

func TestWhatMustNotBeKeptIsNot(t *testing.T) {
	server, dispatcher := filesOf(t)
	root, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": secret, "up": "../../../../etc/passwd", "dir": outside, "loop": "loop", "device": "/dev/zero"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600),
		os.Mkdir(filepath.Join(root, "folder"), 0o700),
		os.WriteFile(filepath.Join(root, "bad\xff"), nil, 0o600),
		os.WriteFile(filepath.Join(root, "bad\n"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"link":                      "escapes",
		"up":                        "escapes",
		"dir/secret":                "escapes",
		"loop":                      "",
		"device":                    "escapes",
		"fifo":                      "no regular file",
		"folder":                    "it is a directory",
		".":                         "it is a directory",
		"":                          "it has no name",
		"none":                      "no such file",
		"bad\xff":                   "not valid UTF-8",
		"bad\n":                     "control characters",
		"../secret":                 "must lie in the working directory",
		secret:                      "must lie in the working directory",
		"/dev/zero":                 "must lie in the working directory",
		filepath.Join(root, "fifo"): "no regular file",
		filepath.Join(root, "none"): "no such file",
		root + "x/secret":           "must lie in the working directory",
	} {
		id, err := keepFile(t.Context(), dispatcher, root, path)
		if err == nil || id != "" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "keep file") {
			t.Errorf("%q: %q, %v", path, id, err)
		}
	}
	if n := server.Files(); len(n) != 0 {
		t.Errorf("stored %v", n)
	}
}

func TestDispatchersRefusalOfAFileReachesTheHandler(t *testing.T) {
	server, dispatcher := filesOf(t)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "n"), make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Fail = func(string) error {
		return errs.Invalid(errs.Violation{Field: "data", Rule: "must be at most 3 bytes in all"})
	}
	_, err := keepFile(t.Context(), dispatcher, root, "n")
	var refusal *errs.Error
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "at most 3 bytes") {
		t.Errorf("got %v", err)
	}
}
