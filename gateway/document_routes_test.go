package gateway

import (
	"strings"
	"testing"
)

// TestEveryRouteIsDocumented walks the table by which requests are answered, so that what is made by hand is not forgotten either.
func TestEveryRouteIsDocumented(t *testing.T) {
	built, err := build(flavour{root: "/", api: apiVersion, version: openAPI31, ids: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readRoutes(routesYAML)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{routes: all}
	g.byHand()
	g.downloads()
	for _, route := range all.table {
		path := "/" + strings.Join(route.segments, "/") + "/"
		for method, operation := range route.operations {
			item := built.Paths.get(path)
			documented := item.get(strings.ToLower(method))
			if documented == nil {
				t.Errorf("%s %s is not in the document", method, path)
				continue
			}
			for _, parameter := range operation.also {
				found := false
				for _, p := range documented.Parameters {
					found = found || p.Name == parameter && p.In == "query"
				}
				if !found {
					t.Errorf("%s %s: the query parameter %s is not in the document", method, path, parameter)
				}
			}
		}
	}
}
