package gateway

import (
	_ "embed"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// routesYAML is what the generated handlers were made from. grpc-gateway keeps its own table to itself, so the same text is
// read once more, for Allow headers, for OPTIONS and to know which query parameters a route has.
//
//go:embed http.yaml
var routesYAML []byte

// route is one path with its operations.
type route struct {
	segments   []string // "{...}" stands for any one segment
	operations map[string]operation
}

// operation is what one method of a route does.
type operation struct {
	// input has the query parameters as its fields; nil for a route by hand that has none of these.
	input protoreflect.MessageDescriptor
	// list: it refuses query parameters that it does not know.
	list bool
	// also are query parameters that are not fields of input.
	also []string
	// hand answers what grpc-gateway can't; nil for all others. The request has been checked, as for them, and is in the context.
	hand http.HandlerFunc
}

// page reports whether it is a collection that a page can be read of.
func (o operation) page() bool {
	return o.list && o.input != nil && o.input.Fields().ByName("limit") != nil && o.hand == nil
}

// routes finds routes by path.
type routes struct{ table []*route }

func readRoutes(text []byte) (*routes, error) {
	var file struct {
		HTTP struct {
			Rules []struct {
				Selector string
				Get      string
				Post     string
				Put      string
				Patch    string
				Delete   string
			}
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read the REST routes: %w", err)
	}
	all := &routes{}
	for _, rule := range file.HTTP.Rules {
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(rule.Selector))
		if err != nil {
			return nil, fmt.Errorf("find the method of REST route %s: %w", rule.Selector, err)
		}
		method, ok := descriptor.(protoreflect.MethodDescriptor)
		if !ok {
			return nil, fmt.Errorf("read REST route %s: it is not a method", rule.Selector)
		}
		for verb, path := range map[string]string{
			http.MethodGet: rule.Get, http.MethodPost: rule.Post, http.MethodPut: rule.Put,
			http.MethodPatch: rule.Patch, http.MethodDelete: rule.Delete,
		} {
			if path != "" {
				all.at(path).operations[verb] = operation{
					input: method.Input(),
					list:  strings.HasPrefix(string(method.Name()), "List"),
				}
			}
		}
	}
	return all, nil
}

// at returns the route of a template, which it makes if there is none yet.
func (r *routes) at(template string) *route {
	segments := strings.Split(strings.TrimPrefix(template, "/"), "/")
	for _, known := range r.table {
		if slices.Equal(known.segments, segments) {
			return known
		}
	}
	made := &route{segments: segments, operations: map[string]operation{}}
	r.table = append(r.table, made)
	return made
}

// find returns the route of a path without a trailing slash, nil if there is none. One that names more of the path wins:
// tasks/purge is no task.
func (r *routes) find(path string) (found *route) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, candidate := range r.table {
		if slices.EqualFunc(candidate.segments, segments, func(template, segment string) bool {
			return template == segment || strings.HasPrefix(template, "{") && segment != ""
		}) && (found == nil || candidate.open() < found.open()) {
			found = candidate
		}
	}
	return found
}

// vars are the segments of a path that may be anything, by their names.
func (r *route) vars(path string) map[string]string {
	given := strings.Split(strings.TrimPrefix(path, "/"), "/")
	vars := map[string]string{}
	for i, segment := range r.segments {
		if strings.HasPrefix(segment, "{") {
			vars[strings.Trim(segment, "{}")] = given[i]
		}
	}
	return vars
}

// open is how many segments may be anything.
func (r *route) open() (n int) {
	for _, segment := range r.segments {
		if strings.HasPrefix(segment, "{") {
			n++
		}
	}
	return n
}

// allow lists the methods of a route for the Allow header.
func (r *route) allow() string {
	methods := slices.Sorted(maps.Keys(r.operations))
	if _, readable := r.operations[http.MethodGet]; readable {
		methods = append(methods, http.MethodHead)
	}
	return strings.Join(append(methods, http.MethodOptions), ", ")
}
