package house

import (
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// headings are what the doc of a part has to say beyond its first sentence.
var headings = []string{"# Owns", "# Failure"}

// packageDocs wants a reader to learn from its doc what a package is for, before any code.
func (c *checker) packageDocs() {
	for _, folder := range slices.Sorted(maps.Keys(c.packages)) {
		first := opening(c.packages[folder])
		var docs []string
		for _, file := range c.packages[folder] {
			docs = append(docs, file.Doc.Text())
		}
		if !slices.ContainsFunc(docs, func(doc string) bool { return strings.HasPrefix(doc, first) }) {
			c.add(folder, 0, "has no package doc: a comment above the package clause that begins \""+first+"…\"")
			continue
		}
		if !within(folder, "services", "gateway", "pkg") {
			continue
		}
		for _, heading := range headings {
			if !strings.Contains(strings.Join(docs, "\n"), "\n"+heading+"\n") {
				c.add(folder, 0, "its package doc has no part \""+heading+"\"")
			}
		}
	}
}

// opening is how the doc of a package begins. A folder may hold nothing but the tests of something that is elsewhere.
func opening(files []goFile) string {
	name := strings.TrimSuffix(files[0].Name.Name, "_test")
	for _, file := range files {
		if !file.test() {
			name = file.Name.Name
		}
	}
	if name == "main" {
		return "Command "
	}
	return "Package " + name + " "
}

var protoImport = regexp.MustCompile(`(?m)^\s*import\s+(?:public\s+|weak\s+)?"([^"]+)"`)

// protoFile keeps the protos loadable as they are, by any client in any language, without fetching anything.
func (c *checker) protoFile(name string, text []byte) {
	if !within(name, "proto") {
		c.add(name, 0, "protos live in proto/, from where `make proto` and other languages take them")
	}
	for _, match := range protoImport.FindAllSubmatchIndex(text, -1) {
		imported := string(text[match[2]:match[3]])
		_, err := fs.Stat(c.tree, path.Join("proto", imported))
		if err == nil || within(imported, "google/protobuf") {
			continue
		}
		line := 1 + strings.Count(string(text[:match[2]]), "\n")
		c.add(name, line, "imports "+imported+": protos import google/protobuf and each other; REST routes stand in gateway/http.yaml")
	}
}
