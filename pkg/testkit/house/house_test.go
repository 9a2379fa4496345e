package house

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestThisRepositoryKeepsTheRules(t *testing.T) {
	findings, err := Check(os.DirFS(root(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
}

// root is the folder of go.mod, above the one that this test is in.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
}

// sample is a tree in which something is wrong, or looks so and is not.
type sample struct {
	name  string
	files map[string]string
	// want are the findings' "path:line" and the beginning of their rules; none means that the tree is in order.
	want []string
}

func TestEachRuleFindsWhatBreaksIt(t *testing.T) {
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			got := findings(t, s)
			for i, f := range got {
				if i < len(s.want) && strings.HasPrefix(f, s.want[i]) {
					got[i] = s.want[i]
				}
			}
			if diff := cmp.Diff(s.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoRuleIsWithoutASample(t *testing.T) {
	var all strings.Builder
	for _, s := range samples() {
		all.WriteString(strings.Join(findings(t, s), "\n") + "\n")
	}
	for _, r := range importRules {
		if !strings.Contains(all.String(), r.rule) {
			t.Errorf("no sample breaks %q", r.rule)
		}
	}
	for _, r := range sessionRules {
		if !strings.Contains(all.String(), r.rule) {
			t.Errorf("no sample breaks %q", r.rule)
		}
	}
}

func findings(t *testing.T, s sample) []string {
	t.Helper()
	tree := fstest.MapFS{}
	for name, text := range s.files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	found, err := Check(tree)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range found {
		lines = append(lines, f.String())
	}
	return lines
}

// documented is the doc of a part, as far as the rules want one.
func documented(name string) string {
	return "// Package " + name + " does something.\n//\n// # Owns\n//\n// It.\n//\n// # Failure\n//\n// None.\npackage " + name + "\n"
}

// importing is a file in order, but for what it imports in line 11.
func importing(name, imported string) string {
	return documented(name) + "import _ \"" + imported + "\"\n"
}

// saying is a file in order, but for what it says in line 11.
func saying(name, expression string) string {
	return documented(name) + "var _ = " + expression + "\n"
}

func samples() []sample {
	return append(append(importSamples(), sessionSamples()...), documentSamples()...)
}

func importSamples() []sample {
	one := func(name, file, pkg, imported string, want ...string) sample {
		return sample{name: name, files: map[string]string{file: importing(pkg, imported)}, want: want}
	}
	const refused = ":11: imports "
	return []sample{
		{
			name: "main imports a service",
			files: map[string]string{
				"main.go": "// Command sluice is all of it.\npackage main\n\nimport (\n\t_ \"os\"\n\n\t_ \"" + module + "/pkg/cli\"\n\t_ \"" + module + "/services/status\"\n)\n",
			},
			want: []string{"main.go:8: imports services/status: main.go starts"},
		},
		one("a service imports another", "services/status/status.go", "status", module+"/services/scheduler",
			"services/status/status.go"+refused+"services/scheduler: services speak gRPC"),
		one("a service imports one whose name begins with its own", "services/status/a.go", "status", module+"/services/statuspage",
			"services/status/a.go"+refused+"services/statuspage: services speak gRPC"),
		one("the test of a service imports another", "services/status/status_test.go", "status", module+"/services/scheduler/lane",
			"services/status/status_test.go"+refused+"services/scheduler/lane: services speak gRPC"),
		one("a service imports itself", "services/status/x/x.go", "x", module+"/services/status"),
		one("a service imports pkg", "services/status/status.go", "status", module+"/pkg/task"),
		one("a service imports the gateway", "services/status/status.go", "status", module+"/gateway",
			"services/status/status.go"+refused+"gateway: services know neither"),
		one("a service imports the command line", "services/status/status.go", "status", module+"/pkg/cli",
			"services/status/status.go"+refused+"pkg/cli: services know neither"),
		one("a responsibility imports gRPC", "services/status/status.go", "status", "google.golang.org/grpc/codes",
			"services/status/status.go"+refused+"google.golang.org/grpc/codes: the file with the service's name"),
		one("a server imports gRPC", "services/status/server.go", "status", "google.golang.org/grpc/codes"),
		one("the gateway imports a service", "gateway/gateway.go", "gateway", module+"/services/status",
			"gateway/gateway.go"+refused+"services/status: the gateway asks"),
		one("pkg imports a service", "pkg/wire/wire.go", "wire", module+"/services/status",
			"pkg/wire/wire.go"+refused+"services/status: pkg is below"),
		one("the command line imports a service", "pkg/cli/system.go", "cli", module+"/services/status"),
		one("an example imports a service", "deploy/examples/it/it.go", "it", module+"/services/status",
			"deploy/examples/it/it.go"+refused+"services/status: examples use"),
		one("a responsibility imports pgx", "services/status/status.go", "status", "github.com/jackc/pgx/v5/pgxpool",
			"services/status/status.go"+refused+"github.com/jackc/pgx/v5/pgxpool: SQL lives"),
		one("the executor has a store", "services/executor/store.go", "executor", "github.com/jackc/pgx/v5",
			"services/executor/store.go"+refused+"github.com/jackc/pgx/v5: SQL lives"),
		one("a store imports pgx", "services/status/store.go", "status", "github.com/jackc/pgx/v5"),
		one("a part of a store imports pgx", "services/status/store_stats.go", "status", "github.com/jackc/pgx/v5"),
		one("a store's test imports pgx", "services/status/status_test.go", "status", "github.com/jackc/pgx/v5"),
		one("the command line imports database/sql", "pkg/cli/cli.go", "cli", "database/sql",
			"pkg/cli/cli.go"+refused+"database/sql: SQL lives"),
		one("the benchmark imports pgx", "deploy/bench/it.go", "it", "github.com/jackc/pgx/v5/pgxpool"),
		one("the lock table imports tasks", "pkg/lock/table.go", "lock", module+"/pkg/task",
			"pkg/lock/table.go"+refused+"pkg/task: tasks and the lock table are pure"),
		one("the lock table imports a library", "pkg/lock/table.go", "lock", "golang.org/x/sync/errgroup",
			"pkg/lock/table.go"+refused+"golang.org/x/sync/errgroup: tasks and the lock table are pure"),
		one("the lock table imports the standard library", "pkg/lock/table.go", "lock", "container/heap"),
		one("a test of tasks imports a database", "pkg/task/task_test.go", "task", module+"/pkg/testkit/pgtest",
			"pkg/task/task_test.go"+refused+"pkg/testkit/pgtest: the tests of tasks"),
		one("a test of tasks imports rapid", "pkg/task/task_test.go", "task", "pgregory.net/rapid"),
		one("a service imports the testkit", "services/status/server.go", "status", module+"/pkg/testkit/pgtest",
			"services/status/server.go"+refused+"pkg/testkit/pgtest: for tests only"),
		one("a service imports testing", "services/status/server.go", "status", "testing",
			"services/status/server.go"+refused+"testing: for tests only"),
		one("the testkit imports testing", "pkg/testkit/pgtest/pgtest.go", "pgtest", "testing"),
	}
}

func sessionSamples() []sample {
	const file = "services/status/store.go"
	said := func(name, expression, rule string) sample {
		s := sample{name: name, files: map[string]string{file: saying("status", expression)}}
		if rule != "" {
			s.want = []string{file + ":11: " + rule}
		}
		return s
	}
	const fine = ""
	return []sample{
		said("set", "`set lock_timeout = '1s'`", "SET changes"),
		said("SET SESSION … TO", "`SET SESSION search_path TO x`", "SET changes"),
		said("a setting of our own", "`set sluice.domain = 'x'`", "SET changes"),
		said("set role", "`set role reader`", "SET changes"),
		said("set time zone", "`set time zone 'utc'`", "SET changes"),
		said("set as the second statement", "`begin; set statement_timeout = 0`", "SET changes"),
		said("set in two pieces", "\"set lock_timeout\" +\n\t\" = 0\"", "SET changes"),
		said("set local", "`set local lock_timeout = '1s'; set local statement_timeout to 0`", fine),
		said("set transaction", "`set transaction isolation level repeatable read`", fine),
		said("update … set", "`update task set lock_timeout = 1, updated_at = now()`", fine),
		said("update … set in two pieces", "\"update task\" +\n\t\" set updated_at = now()\"", fine),
		said("a sentence about setting", "\"set SLUICE_ADDR to the address, or set the number to 3\"", fine),
		said("set_config for the session", "`select set_config('search_path', $1, false)`", "set_config"),
		said("set_config for the transaction", "`select set_config('search_path', $1, true)`", fine),
		said("reset", "`reset all`", "RESET"),
		said("discard", "`discard all`", "RESET"),
		said("listen", "`LISTEN tasks`", "LISTEN hears"),
		said("listen to what only the program knows", "\"listen \" + string(rune(65))", "LISTEN hears"),
		said("a sentence about listening", "\"listen on %s: %w\"", fine),
		said("notify", "`notify tasks, 'x'`", "nobody can LISTEN"),
		said("pg_notify", "`select pg_notify($1, $2)`", "nobody can LISTEN"),
		said("advisory lock", "`select pg_advisory_lock(1)`", "a session's advisory lock"),
		said("try a shared advisory lock", "`select pg_try_advisory_lock_shared(1)`", "a session's advisory lock"),
		said("advisory lock of a transaction", "`select pg_try_advisory_xact_lock(1), pg_advisory_xact_lock(2)`", fine),
		said("prepare", "`prepare find (int) as select $1`", "a prepared statement"),
		said("deallocate", "`deallocate find`", "a prepared statement"),
		said("a sentence about preparing", "\"prepare the working directory: %w\"", fine),
		said("temporary table", "`create temp table t (n int)`", "a temporary table"),
		said("select into temporary", "`select n into temporary t from task`", "a temporary table"),
		said("a sentence about temporary files", "\"create temporary directory: %w\"", fine),
		said("cursor", "`declare c cursor with hold for select 1`", "a cursor"),
		said("in a comment and in a string", "`select 1 -- set lock_timeout = 0\n/* ; listen x */ where name = '; listen y'`", fine),
		{
			name:  "behind other lines",
			files: map[string]string{file: saying("status", "`select 1;\n\nlisten x;`")},
			want:  []string{file + ":13: LISTEN hears"},
		},
		{
			name:  "in a call within a sum",
			files: map[string]string{file: saying("status", "\"a\" + string(append([]byte(nil), `listen x`...))")},
			want:  []string{file + ":11: LISTEN hears"},
		},
		{
			name:  "in a migration",
			files: map[string]string{"pkg/postgres/migrations/1.sql": "-- +goose Up\n-- don't\ncreate table a ();\n\nset lock_timeout = 0;\n"},
			want:  []string{"pkg/postgres/migrations/1.sql:5: SET changes"},
		},
		{
			name:  "in a test",
			files: map[string]string{"services/status/status_test.go": saying("status", "`set lock_timeout = 0`")},
		},
		{
			name:  "where it is exempt",
			files: map[string]string{"pkg/postgres/embedded/server.go": saying("embedded", "`set lock_timeout = 0`")},
		},
	}
}

func documentSamples() []sample {
	const generated = "// Code generated by a machine. DO NOT EDIT.\n\npackage x\n"
	return []sample{
		{
			name:  "no package doc",
			files: map[string]string{"pkg/x/x.go": "package x\n"},
			want:  []string{`pkg/x: has no package doc: a comment above the package clause that begins "Package x …"`},
		},
		{
			name:  "a doc of something else",
			files: map[string]string{"pkg/x/x.go": "// Package y is elsewhere.\npackage x\n"},
			want:  []string{"pkg/x: has no package doc"},
		},
		{
			name:  "a doc that is apart from the package clause",
			files: map[string]string{"pkg/x/x.go": "// Package x is here.\n\npackage x\n"},
			want:  []string{"pkg/x: has no package doc"},
		},
		{
			name:  "a doc without its parts",
			files: map[string]string{"gateway/x.go": "// Package gateway is here.\npackage gateway\n"},
			want:  []string{`gateway: its package doc has no part "# Owns"`, `gateway: its package doc has no part "# Failure"`},
		},
		{
			name:  "a command says what it is",
			files: map[string]string{"deploy/examples/x/main.go": "package main\n"},
			want:  []string{`deploy/examples/x: has no package doc: a comment above the package clause that begins "Command …"`},
		},
		{
			name: "docs that will do",
			files: map[string]string{
				"pkg/x/a.go":                "package x\n",
				"pkg/x/doc.go":              documented("x"),
				"pkg/x/x_test.go":           "package x_test\n",
				"deploy/e2e/life_test.go":   "// Package e2e tests the whole.\npackage e2e_test\n",
				"deploy/examples/x/main.go": "// Command x shows something.\npackage main\n",
			},
		},
		{
			name:  "a hand-written file among the generated",
			files: map[string]string{"pkg/pb/x/x.go": documented("x")},
			want:  []string{"pkg/pb/x/x.go: pkg/pb is for generated code"},
		},
		{
			name:  "a generated file among the hand-written",
			files: map[string]string{"pkg/x/x.pb.go": generated},
			want:  []string{"pkg/x/x.pb.go: generated code belongs into pkg/pb"},
		},
		{
			name:  "a generated file in its place",
			files: map[string]string{"pkg/pb/x/x.pb.go": generated},
		},
		{
			name:  "a proto that imports somebody else's",
			files: map[string]string{"proto/a/v1/a.proto": "syntax = \"proto3\";\n\nimport public \"google/api/annotations.proto\";\n"},
			want:  []string{"proto/a/v1/a.proto:3: imports google/api/annotations.proto"},
		},
		{
			name: "protos that import what they may",
			files: map[string]string{
				"proto/a/v1/a.proto": "import \"google/protobuf/timestamp.proto\";\nimport \"b/v1/b.proto\";\n",
				"proto/b/v1/b.proto": "// import \"google/api/http.proto\";\n",
			},
		},
		{
			name:  "a proto outside proto",
			files: map[string]string{"services/status/x.proto": "syntax = \"proto3\";\n"},
			want:  []string{"services/status/x.proto: protos live in proto/"},
		},
		{
			name:  "a lock file with addresses",
			files: map[string]string{"tools/package-lock.json": `{"packages": {"a": {"resolved": "somewhere"}}}`},
			want:  []string{"tools/package-lock.json: the lock file names a registry"},
		},
		{
			name:  "a file that does not parse",
			files: map[string]string{"pkg/x/x.go": "packag x\n"},
			want:  []string{"pkg/x/x.go: does not parse"},
		},
		{
			name:  "folders that are not ours",
			files: map[string]string{".cache/x.go": "packag", "tools/node_modules/x/x.proto": "", "pkg/x/testdata/x.go": "packag"},
		},
	}
}
