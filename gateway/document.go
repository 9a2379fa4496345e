package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

const (
	pathDocs = "/api/v3/docs"
	pathJSON = "/api/v3/docs/api.json"
	pathYAML = "/api/v3/docs/api.yaml"

	// Pulp's types for the document.
	typeJSON = "application/vnd.oai.openapi+json"
	typeYAML = "application/vnd.oai.openapi"
	typeHTML = "text/html; charset=utf-8"

	openAPI31 = "3.1.1"
	openAPI30 = "3.0.3"
)

// flavour is what kind of document somebody wants.
type flavour struct {
	root   string // API root by which it was asked for
	api    string // version of the API
	galaxy string // root of the Galaxy server that the root is below; empty if it is below none
	format string // one of the paths
	// version of OpenAPI.
	version string
	// ids: paths have ids in them. Otherwise a whole href takes the place of a path, which is what Pulp's clients need and what
	// OpenAPI forbids.
	ids bool
	// bindings: operations are named within their tag, for generators that make a class of each.
	bindings bool
	// none of the components that were asked for is here.
	none bool
}

// document is the OpenAPI document in all its flavours. Each is made when it is first asked for.
type document struct {
	versions map[string]string // by component

	mu   sync.Mutex
	made map[flavour]*rendered
}

// rendered is a flavour as it is sent.
type rendered struct {
	body []byte
	etag string
}

// newDocument makes one for a gateway of a version. It fails if an operation can't be described, so that none is forgotten.
func newDocument(version string) (*document, error) {
	d := &document{versions: map[string]string{}, made: map[flavour]*rendered{}}
	for _, component := range components(version) {
		d.versions[component.GetComponent()] = component.GetVersion()
	}
	if _, err := build(flavour{root: defaultRoot, api: apiVersion, version: openAPI31}, d.versions); err != nil {
		return nil, fmt.Errorf("make the OpenAPI document: %w", err)
	}
	return d, nil
}

// components are what status and the document both tell the versions of: when the two differ, Pulp's command line takes its copy
// of the document for outdated each time.
func components(version string) []*pulpv3.Version {
	return []*pulpv3.Version{
		{Component: "core", Version: CoreVersion, Package: "pulpcore", Module: "pulpcore.app", DomainCompatible: true},
		{Component: "sluice", Version: version, Package: "sluice", Module: "sluice", DomainCompatible: true},
	}
}

// get returns a flavour. The caller bounds how many roots there are.
func (d *document) get(f flavour) (*rendered, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if made := d.made[f]; made != nil {
		return made, nil
	}
	built, err := build(f, d.versions)
	if err != nil {
		return nil, err
	}
	body, err := render(built, f)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	made := &rendered{body: body, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
	d.made[f] = made
	return made, nil
}

func render(built *openAPI, f flavour) ([]byte, error) {
	if f.format == pathDocs {
		return renderPage(built, f)
	}
	text, err := marshalJSON(built)
	if err != nil || f.format != pathYAML {
		return text, err
	}
	return yamlOf(text)
}

// yamlOf turns JSON into YAML in the same order.
func yamlOf(text []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, fmt.Errorf("read JSON as YAML: %w", err)
	}
	loosen(&node)
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	return b.Bytes(), nil
}

// loosen takes the braces and quotes of JSON away where YAML needs none. Older readers take some words for truths: there is a
// field called "on".
func loosen(node *yaml.Node) {
	if !slices.Contains([]string{"on", "off", "yes", "no", "y", "n"}, strings.ToLower(node.Value)) {
		node.Style = 0
	}
	for _, child := range node.Content {
		loosen(child)
	}
}

// flavour reads what a request wants. A flag counts by being there, as in Pulp.
func (g *Gateway) flavour(at *request, path string, query url.Values) (flavour, *refusal) {
	f := flavour{
		root: at.root, api: at.version, galaxy: g.galaxyOf(at.root), format: path,
		version: openAPI31, ids: query.Has("pk_path"), bindings: query.Has("bindings"),
	}
	if path == pathDocs {
		f.ids, f.bindings = true, false // people put an id there
	}
	if query.Has("plugin") {
		return f, detail(http.StatusBadRequest, "The parameter 'plugin' is no longer there; 'component' takes its place.")
	}
	if wanted := split(strings.Join(query["component"], ",")); len(wanted) > 0 {
		f.none = !slices.Contains(wanted, "core") && !slices.Contains(wanted, "sluice")
	}
	switch version := query.Get("openapi"); version {
	case "", "3.1", openAPI31:
	case "3.0", openAPI30:
		f.version = openAPI30
	default:
		choice := fmt.Sprintf("Select a valid choice. %s is not one of the available choices.", strings.ToValidUTF8(version, "\uFFFD"))
		return f, &refusal{status: http.StatusBadRequest, body: fieldErrors{"openapi": []string{choice}}}
	}
	return f, nil
}

// galaxyOf returns the root of the Galaxy server that a root is below, empty if it is below none.
func (g *Gateway) galaxyOf(root string) string {
	alias, found := strings.CutSuffix(root, aliasedRoot)
	if !found || root == g.config.APIRoot || !slices.Contains(g.config.Aliases, alias) {
		return ""
	}
	return alias
}

// docs answers for the document and the page that people read, without asking who they are. path is what comes after the API root,
// without a slash at the end and as in version 3. It reports false for a path that is none of its own.
func (g *Gateway) docs(w http.ResponseWriter, r *http.Request, at *request, path string) (handled bool) {
	media := map[string]string{pathDocs: typeHTML, pathJSON: typeJSON, pathYAML: typeYAML}[path]
	if media == "" {
		return false
	}
	const allow = "GET, HEAD, OPTIONS"
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		w.Header().Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
		return true
	default:
		g.refuse(r.Context(), w, notAllowed(w, r.Method, allow))
		return true
	}
	wanted, refused := g.flavour(at, path, r.URL.Query())
	if refused != nil {
		g.refuse(r.Context(), w, refused)
		return true
	}
	made, err := g.document.get(wanted)
	if err != nil {
		g.refuse(r.Context(), w, g.internal(r.Context(), err))
		return true
	}
	header := w.Header()
	header.Set("Content-Type", media)
	header.Set("ETag", made.etag)
	header.Set("Cache-Control", "no-cache") // it changes with the binary: ask again, and be told that it is the same
	if path == pathDocs {
		header.Set("Content-Security-Policy", pagePolicy())
		header.Set("Referrer-Policy", "no-referrer")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(made.body))
	return true
}
