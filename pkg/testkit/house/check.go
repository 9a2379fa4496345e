package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// module is the path of this module; a rule about imports needs it.
const module = "github.com/sluice-tasks/sluice"

// Finding is one broken rule.
type Finding struct {
	Path string // slash-separated, from the root of the tree
	Line int    // from 1; 0 when the whole file or folder is meant
	Rule string // what is wrong, and what to do instead
}

func (f Finding) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.Path, f.Rule)
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Rule)
}

// Check reads the tree and returns what it finds, ordered by path. An error means that the tree could not be read.
func Check(tree fs.FS) ([]Finding, error) {
	c := &checker{tree: tree, set: token.NewFileSet(), packages: map[string][]goFile{}}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && skipped(name):
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		return c.file(name)
	})
	if err != nil {
		return nil, fmt.Errorf("read the source tree: %w", err)
	}
	c.packageDocs()
	return c.findings, nil
}

// skipped are folders that hold nothing of ours, or nothing that is compiled.
func skipped(dir string) bool {
	base := path.Base(dir)
	return dir != "." && strings.HasPrefix(base, ".") || base == "node_modules" || base == "testdata" || dir == "bin"
}

// checker collects the findings of one walk.
type checker struct {
	tree     fs.FS
	set      *token.FileSet
	packages map[string][]goFile // by folder
	findings []Finding
}

// goFile is a parsed Go file and where it stands.
type goFile struct {
	*ast.File

	path string
}

func (f goFile) test() bool      { return strings.HasSuffix(f.path, "_test.go") }
func (f goFile) generated() bool { return ast.IsGenerated(f.File) }

// in reports whether the file is in one of the folders, at any depth.
func (f goFile) in(folders ...string) bool { return within(f.path, folders...) }

// within reports whether a path is one of the others or below one.
func within(name string, others ...string) bool {
	for _, other := range others {
		if name == other || strings.HasPrefix(name, other+"/") {
			return true
		}
	}
	return false
}

func (c *checker) add(name string, line int, rule string) {
	c.findings = append(c.findings, Finding{Path: name, Line: line, Rule: rule})
}

func (c *checker) file(name string) error {
	var check func(name string, text []byte)
	switch ext := path.Ext(name); {
	case ext == ".go":
		check = c.goFile
	case ext == ".sql":
		check = c.sqlFile
	case ext == ".proto":
		check = c.protoFile
	case path.Base(name) == "package-lock.json":
		check = c.lockFile
	default:
		return nil
	}
	text, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return err
	}
	check(name, text)
	return nil
}

func (c *checker) goFile(name string, text []byte) {
	parsed, err := parser.ParseFile(c.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		c.add(name, 0, "does not parse: "+err.Error())
		return
	}
	file := goFile{File: parsed, path: name}
	c.generated(file)
	c.imports(file)
	if file.generated() {
		return
	}
	c.sessionInStrings(file)
	c.packages[path.Dir(name)] = append(c.packages[path.Dir(name)], file)
}

// generated holds pkg/pb apart: what is in there is overwritten, what is elsewhere is read by people.
func (c *checker) generated(file goFile) {
	switch inPB := file.in("pkg/pb"); {
	case inPB && !file.generated():
		c.add(file.path, 0, "pkg/pb is for generated code, which says so in its first lines; `make proto` removes everything else")
	case !inPB && file.generated():
		c.add(file.path, 0, "generated code belongs into pkg/pb, where linters and reviewers expect it")
	}
}

// lockFile looks for the addresses that npm likes to write into its lock files: they name the registry of whoever ran it,
// and nobody else may be able to reach that.
func (c *checker) lockFile(name string, text []byte) {
	if strings.Contains(string(text), `"resolved":`) {
		c.add(name, 0, "the lock file names a registry: put omit-lockfile-registry-resolved=true into .npmrc beside it and run npm again")
	}
}
