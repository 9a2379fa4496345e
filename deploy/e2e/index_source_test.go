package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestTheIndexOfTheStandardLibraryIsRight runs the example for newcomers, and computes what it should come to in another way.
func TestTheIndexOfTheStandardLibraryIsRight(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t).under(t)
	output := t.TempDir()
	args := []string{"--addr", s.grpc, "--output", output, "--verify"}
	if testing.Short() {
		args = append(args, "--limit", "40")
	}
	cmd := exec.CommandContext(s.soon(), programs.get(t, "github.com/sluice-tasks/sluice/deploy/examples/index-source"), args...)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	t.Logf("%s", said)

	type row struct {
		Dir                 string
		Files, Bytes, Lines int
		SHA256              string
	}
	var index struct {
		Source string
		Total  row
		Dirs   []row
	}
	text, err := os.ReadFile(filepath.Join(output, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &index); err != nil {
		t.Fatal(err)
	}
	if n := len(index.Dirs); n < 40 || !testing.Short() && n < 200 {
		t.Fatalf("the index has only %d directories", n)
	}
	want := row{Dir: "."}
	for _, got := range index.Dirs {
		one := row{Dir: got.Dir}
		var sums strings.Builder
		names, err := filepath.Glob(filepath.Join(index.Source, got.Dir, "*")) // none of the library's own begins with a dot
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
				continue
			}
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			one.Files++
			one.Bytes += len(content)
			one.Lines += bytes.Count(content, []byte{'\n'})
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), filepath.Base(name))
		}
		sum := sha256.Sum256([]byte(sums.String()))
		one.SHA256 = hex.EncodeToString(sum[:])
		if diff := cmp.Diff(one, got); diff != "" {
			t.Error(diff)
		}
		want.Files, want.Bytes, want.Lines = want.Files+one.Files, want.Bytes+one.Bytes, want.Lines+one.Lines
	}
	want.SHA256 = index.Total.SHA256
	if diff := cmp.Diff(want, index.Total); diff != "" {
		t.Error(diff)
	}

	// The publishing task, which was handed in last, had the tree for itself when all others had ended.
	var publish client.Task
	ended := 0
	for one, err := range s.List(s.soon(), client.Filter{Resources: []string{"tree:" + output}}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case one.State != task.Completed:
			t.Errorf("task %s is %s: %v", one.ID, one.State, one.Error)
		case publish.ID == "":
			publish = one
		case one.FinishedAt.After(*publish.StartedAt):
			t.Errorf("task %s ended at %v, publishing began at %v", one.ID, one.FinishedAt, publish.StartedAt)
		default:
			ended++
		}
	}
	if ended != len(index.Dirs) {
		t.Errorf("%d tasks ended before the publishing one, want %d", ended, len(index.Dirs))
	}
}
