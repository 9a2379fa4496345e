package house

import (
	"path"
	"strconv"
	"strings"
)

// importRule refuses some imports to some files. Paths within the module are without its name: "pkg/lock".
type importRule struct {
	rule    string
	files   func(goFile) bool
	refuses func(file goFile, imported string) bool
}

// importRules are the architecture. .golangci.yaml has the same for editors; change both.
var importRules = []importRule{
	{
		rule:    "main.go starts the command line (pkg/cli) and knows nothing else",
		files:   func(f goFile) bool { return f.path == "main.go" },
		refuses: func(_ goFile, imported string) bool { return !std(imported) && imported != "pkg/cli" },
	},
	{
		rule:  "services speak gRPC with each other, in one process too; what they share is in pkg",
		files: func(f goFile) bool { return f.in("services") },
		refuses: func(f goFile, imported string) bool {
			return within(imported, "services") && !within(imported, service(f.path))
		},
	},
	{
		rule:    "services know neither their REST face nor the command line",
		files:   func(f goFile) bool { return f.in("services") },
		refuses: func(_ goFile, imported string) bool { return within(imported, "gateway", "pkg/cli") },
	},
	{
		rule: "the file with the service's name says what the service does; gRPC belongs into server.go",
		files: func(f goFile) bool {
			return f.in("services") && path.Base(f.path) == path.Base(service(f.path))+".go"
		},
		refuses: func(_ goFile, imported string) bool { return within(imported, "google.golang.org/grpc") },
	},
	{
		rule:    "the gateway asks services through gRPC, like any other client",
		files:   func(f goFile) bool { return f.in("gateway") },
		refuses: func(_ goFile, imported string) bool { return within(imported, "services", "pkg/cli") },
	},
	{
		rule:    "pkg is below the services and the gateway; only pkg/cli puts them together",
		files:   func(f goFile) bool { return f.in("pkg") && !f.in("pkg/cli") },
		refuses: func(_ goFile, imported string) bool { return within(imported, "services", "gateway", "pkg/cli") },
	},
	{
		rule:    "examples use what everybody can use: pkg/client, pkg/worker and, to be an executor, pkg/cli",
		files:   func(f goFile) bool { return f.in("deploy/examples") },
		refuses: func(_ goFile, imported string) bool { return within(imported, "services", "gateway") },
	},
	{
		rule: "SQL lives in services/*/store.go and pkg/postgres, and speaks pgx",
		files: func(f goFile) bool {
			name := path.Base(f.path)
			store := f.in("services") && (name == "store.go" || strings.HasPrefix(name, "store_")) && !f.in("services/executor")
			// The benchmark is a module of its own, which measures River on River's terms.
			return !f.test() && !store && !f.in("pkg/postgres", "pkg/testkit", "deploy/bench")
		},
		refuses: func(_ goFile, imported string) bool { return within(imported, "github.com/jackc/pgx", "database/sql") },
	},
	{
		rule:    "tasks and the lock table are pure, so that they can be proved: standard library only",
		files:   func(f goFile) bool { return f.in("pkg/task", "pkg/lock") && !f.test() },
		refuses: func(_ goFile, imported string) bool { return !std(imported) },
	},
	{
		rule:  "the tests of tasks and of the lock table get by with rapid and go-cmp",
		files: func(f goFile) bool { return f.in("pkg/task", "pkg/lock") && f.test() },
		refuses: func(_ goFile, imported string) bool {
			return !std(imported) && !within(imported, "pkg/task", "pkg/lock", "pgregory.net/rapid", "github.com/google/go-cmp")
		},
	},
	{
		rule:  "for tests only",
		files: func(f goFile) bool { return !f.test() && !f.in("pkg/testkit", "pkg/client/clienttest") },
		refuses: func(_ goFile, imported string) bool {
			return within(imported, "pkg/testkit", "pkg/client/clienttest", "testing",
				"github.com/google/go-cmp", "go.uber.org/goleak", "pgregory.net/rapid")
		},
	},
}

func (c *checker) imports(file goFile) {
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has seen to it
		}
		own := strings.TrimPrefix(imported, module+"/")
		for _, r := range importRules {
			if r.files(file) && r.refuses(file, own) {
				c.add(file.path, c.set.Position(spec.Pos()).Line, "imports "+own+": "+r.rule)
			}
		}
	}
}

// std reports whether an import path is the standard library's: its first element has no dot, and is no folder of ours.
func std(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".") && !within(imported, "services", "gateway", "pkg", "deploy")
}

// service is the folder of the service that a file belongs to: "services/status".
func service(file string) string {
	parts := strings.SplitN(file, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}
