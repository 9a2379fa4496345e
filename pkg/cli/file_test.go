package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

const report = "a,b\n1,\x002\n"

// reporting is a server that has one file, called report.csv.
func reporting(t *testing.T) *clienttest.Server {
	t.Helper()
	server := clienttest.New(t)
	path := filepath.Join(t.TempDir(), "report.csv")
	if err := os.WriteFile(path, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, outcome{stdout: clienttest.FileID(1) + "\n"}, ask(t, server, "file", "put", path))
	return server
}

func TestFileIsPutFromADiskAndFromStandardInput(t *testing.T) {
	server := reporting(t)
	got := sluiceWith(t, report, map[string]string{"SLUICE_ADDR": server.Addr}, "file", "put", "-", "-o", "json")
	check(t, outcome{stdout: `{
  "id": "` + clienttest.FileID(2) + `",
  "name": "file",
  "size": 9,
  "sha256": "b0c89c7648c1ce285b010149a5eae55243a950b0acd29f6a2acbe8d917821be3"
}
`}, got)
	if diff := cmp.Diff([]string{"file", "report.csv"}, server.Files()); diff != "" {
		t.Error(diff)
	}
}

func TestFileIsWrittenAsItIs(t *testing.T) {
	server := reporting(t)
	id := clienttest.FileID(1)
	check(t, outcome{stdout: report}, ask(t, server, "file", "get", id))

	dir := t.TempDir()
	path := filepath.Join(dir, "here")
	for _, before := range []string{"", "another file, which is longer"} { // the second time it is there
		if before != "" {
			if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		check(t, outcome{stdout: path + ": 9 bytes\n"}, ask(t, server, "file", "get", id, "--output-file", path))
		if got, err := os.ReadFile(path); err != nil || string(got) != report {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got := ask(t, server, "file", "get", id, "--output-file", path, "-o", "json"); !strings.Contains(got.stdout, `"name": "report.csv"`) {
		t.Errorf("got %+v", got)
	}
	check(t, outcome{stdout: "/dev/null: 9 bytes\n"}, ask(t, server, "file", "get", id, "--output-file", "/dev/null"))
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Errorf("/dev/null is %v, %v", info, err)
	}
}

func TestDamagedFileIsNotWritten(t *testing.T) {
	server := reporting(t)
	server.Damage = func(m []*dispatcherv1.GetFileResponse) []*dispatcherv1.GetFileResponse { return m[:1] }
	dir := t.TempDir()
	path := filepath.Join(dir, "here")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := ask(t, server, "file", "get", clienttest.FileID(1), "--output-file", path)
	if got.code != exitNo || !strings.Contains(got.stderr, "damaged") {
		t.Errorf("got %+v", got)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "before" {
		t.Errorf("%q, %v", text, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestFilesAreDeleted(t *testing.T) {
	server := reporting(t)
	id, unknown := clienttest.FileID(1), clienttest.ID(77)
	check(t, outcome{stdout: id + " deleted\n" + unknown + " deleted\n"}, ask(t, server, "file", "delete", id, unknown))
	check(t, outcome{code: exitNo, stderr: "sluice: there is no temporary file " + id + "\n"}, ask(t, server, "file", "get", id))
	isJSON(t, ask(t, server, "file", "delete", id, "-o", "json").stdout)
	server.Fail = func(string) error {
		return errs.Precondition(errs.FileInUse, "a task that is not finished has file %s", id)
	}
	check(t, outcome{code: exitNo, stderr: "sluice: a task that is not finished has file " + id + "\n"}, ask(t, server, "file", "delete", id))
}

func TestMistakesWithFilesAreExplained(t *testing.T) {
	server := reporting(t)
	dir := t.TempDir()
	id := clienttest.FileID(1)
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no file":         {[]string{"put", filepath.Join(dir, "none")}, exitUsage, "open " + filepath.Join(dir, "none") + ": no such file or directory"},
		"a directory":     {[]string{"put", dir}, exitNo, "read the content: read " + dir + ": is a directory"},
		"id to get":       {[]string{"get", "7"}, exitUsage, "id: must be a UUID in lower case"},
		"id to delete":    {[]string{"delete", "7"}, exitUsage, "id: must be a UUID in lower case"},
		"json and stdout": {[]string{"get", id, "-o", "json"}, exitUsage, "--output: json needs --output-file"},
		"into nowhere":    {[]string{"get", id, "--output-file", filepath.Join(dir, "none", "x")}, exitNo, "open " + filepath.Join(dir, "none")},
		"onto a folder":   {[]string{"get", id, "--output-file", dir}, exitNo, "open " + dir + ": is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, server, append([]string{"file"}, c.args...)...)
			if got.code != c.code || !strings.HasPrefix(got.stderr, "sluice: "+c.want) || got.stdout != "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestDispatcherIsToldHowToTreatFiles(t *testing.T) {
	cfg := dispatcher.Defaults()
	if err := (FileFlags{TmpfileProtectionTime: time.Hour, MaxFile: 7}).apply(&cfg); err != nil || cfg.FileProtection != time.Hour || cfg.MaxFile != 7 {
		t.Errorf("%+v, %v", cfg, err)
	}
	for flag, value := range map[string]string{"--tmpfile-protection-time": "59s", "--max-file": "1073741825"} {
		if got := sluice(t, nil, "dispatcher", flag, value); got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+flag+": must be ") {
			t.Errorf("%s %s: %+v", flag, value, got)
		}
	}
}
