package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

func pulpComment(name string) string { return pulpv3.Comment(name) }

// builder makes one flavour of the document.
type builder struct {
	flavour
	doc *openAPI
	err error // the first one
}

// place is where http.yaml puts a method.
type place struct {
	method, template string
	body             bool
	// answer is the field of the output that is the whole answer; empty: the output is.
	answer protoreflect.Name
}

func build(f flavour, versions map[string]string) (*openAPI, error) {
	b := &builder{flavour: f, doc: &openAPI{
		OpenAPI: f.version,
		Info: apiInfo{
			Title:       "Sluice",
			Version:     f.api,
			Description: "Runs tasks in the background, each when the resources that it names are free. The API is that of Pulp 3's tasks, and more in its style.",
			License:     apiLicense{Name: "Apache-2.0"},
			AppVersions: versions,
		},
		Components: apiComponents{SecuritySchemes: map[string]map[string]string{
			"basicAuth": {"type": "http", "scheme": "basic", "description": "User and password."},
			"tokenAuth": {
				"type": "apiKey", "in": "header", "name": "Authorization",
				"description": `A token, after the word Token and a space: "Token 6ad3...".`,
			},
		}},
	}}
	places, err := readPlaces(routesYAML)
	if err != nil {
		return nil, err
	}
	for _, operation := range documentedOperations {
		at := place{method: operation.method, template: operation.template}
		if operation.selector != "" {
			at = places[operation.selector]
			delete(places, operation.selector)
		}
		if at.method == "" {
			return nil, fmt.Errorf("describe %s: there is no route for %s", operation.id, operation.selector)
		}
		if b.wants(operation) {
			b.operation(operation, at)
		}
	}
	for selector := range places {
		return nil, fmt.Errorf("describe the route of %s: it has no operation id", selector)
	}
	b.common()
	b.doc.Tags = slices.DeleteFunc(slices.Clone(apiTags), func(tag apiTag) bool {
		return !slices.ContainsFunc(b.doc.operations, func(o *documentedByPath) bool { return o.Tags[0] == tag.Name })
	})
	slices.Sort(b.doc.Components.Schemas.names)
	return b.doc, b.err
}

// wants reports whether an operation is in this flavour.
func (b *builder) wants(d documented) bool {
	switch {
	case b.none,
		b.ids && d.hrefOnly, !b.ids && d.idOnly,
		d.galaxy && b.galaxy == "",
		b.api != apiVersion && d.id != "status_read": // there is no more of the next version
		return false
	}
	return true
}

func readPlaces(text []byte) (map[protoreflect.FullName]place, error) {
	var file struct {
		HTTP struct {
			Rules []struct {
				Selector                      protoreflect.FullName
				Get, Post, Put, Patch, Delete string
				Body                          string
				ResponseBody                  protoreflect.Name `yaml:"response_body"`
			}
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read the REST routes: %w", err)
	}
	places := map[protoreflect.FullName]place{}
	for _, rule := range file.HTTP.Rules {
		at := place{body: rule.Body != "", answer: rule.ResponseBody, template: cmp.Or(rule.Get, rule.Post, rule.Put, rule.Patch, rule.Delete)}
		switch at.template {
		case rule.Get:
			at.method = http.MethodGet
		case rule.Post:
			at.method = http.MethodPost
		case rule.Put:
			at.method = http.MethodPut
		case rule.Patch:
			at.method = http.MethodPatch
		case rule.Delete:
			at.method = http.MethodDelete
		}
		places[rule.Selector] = at
	}
	return places, nil
}

// path is the key of a path. Pulp's clients put a whole href where the id and what is before it would be.
func (b *builder) path(d documented, template string) string {
	template = strings.Replace(template, apiVersion, b.api, 1)
	if d.galaxy {
		return b.galaxy + template + "/"
	}
	path := b.root + strings.TrimPrefix(template, "/") + "/"
	if !b.ids && d.of != "" {
		_, rest, _ := strings.Cut(path, "}/")
		path = "{" + d.of + "_href}" + rest
	}
	return path
}

// method finds what a documented operation calls; nil for one that is made by hand.
func (b *builder) method(d documented) protoreflect.MethodDescriptor {
	if d.selector == "" {
		return nil
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(d.selector)
	if err != nil {
		b.fail(fmt.Errorf("describe %s: %w", d.id, err))
		return nil
	}
	method, _ := found.(protoreflect.MethodDescriptor)
	return method
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *builder) operation(d documented, at place) {
	made := &apiOperation{OperationID: d.id, Tags: []string{d.tag}, Summary: d.summary, Description: d.more}
	if b.bindings {
		prefix := strings.ReplaceAll(strings.ToLower(d.tag), "-", "_") + "_"
		made.OperationID = strings.TrimPrefix(d.id, prefix)
	}
	var input, output protoreflect.MessageDescriptor
	if method := b.method(d); method != nil {
		made.Summary, made.Description = firstSentence(comment(method))
		input, output = method.Input(), method.Output()
		if at.answer != "" {
			output = output.Fields().ByName(at.answer).Message()
		}
	} else {
		input, output = messageOf(d.input), messageOf(d.output)
	}
	if b.api != apiVersion {
		defer b.ofNextVersion()
	}
	if d.of != "" {
		made.Parameters = append(made.Parameters, b.inPath(d))
	}
	if input != nil && !at.body {
		made.Parameters = append(made.Parameters, b.inQuery(d, input)...)
	}
	made.Parameters = append(made.Parameters, d.also...)
	for _, name := range sortedNames(d.asks) {
		made.Parameters = append(made.Parameters, &apiParameter{
			Name: name, In: "header", Description: d.asks[name], Schema: anyText(),
		})
	}
	if at.body {
		made.RequestBody = &apiBody{Required: true, Content: jsonOf(b.message(input, sent))}
	}
	if !d.anonymous {
		made.Security = []map[string][]string{{"basicAuth": {}}, {"tokenAuth": {}}}
	}
	b.responses(made, d, at, output)

	key := b.path(d, at.template)
	path := b.doc.Paths.get(key)
	path.set(strings.ToLower(at.method), made)
	b.doc.Paths.set(key, path)
	b.doc.operations = append(b.doc.operations, &documentedByPath{Method: at.method, Path: key, apiOperation: made})
}

func sortedNames(of map[string]string) []string {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func jsonOf(s *apiSchema) map[string]apiType { return map[string]apiType{contentType: {Schema: s}} }

func (b *builder) inPath(d documented) *apiParameter {
	what := strings.ReplaceAll(d.of, "_", " ")
	if b.ids || d.galaxy {
		return &apiParameter{
			Name: "pulp_id", In: "path", Required: true, Description: "UUID of the " + what + ".",
			Schema: &apiSchema{Type: typeNames{"string"}, Format: "uuid"},
		}
	}
	return &apiParameter{
		Name: d.of + "_href", In: "path", Required: true, Description: "Href of the " + what + ".",
		Schema: anyText(),
	}
}

func (b *builder) responses(made *apiOperation, d documented, at place, output protoreflect.MessageDescriptor) {
	status := cmp.Or(d.status, http.StatusOK)
	success := &apiResponse{Description: successText[status]}
	for _, name := range sortedNames(d.headers) {
		if success.Headers == nil {
			success.Headers = map[string]*apiHeader{}
		}
		success.Headers[name] = &apiHeader{Description: d.headers[name], Schema: anyText()}
	}
	switch {
	case status == http.StatusNoContent:
	case d.schema != nil:
		success.Content = jsonOf(d.schema)
	case d.media != "":
		success.Content = map[string]apiType{d.media: {Schema: anyText()}}
	case output != nil:
		success.Content = jsonOf(b.message(output, answered))
	}
	set := func(status string, description, schema string) {
		made.Responses.set(status, &apiResponse{Description: description, Content: jsonOf(ref(schema))})
	}
	made.Responses.set(fmt.Sprint(status), success)
	if d.ends {
		made.Responses.set("204", &apiResponse{Description: "Nothing more will come."})
	}
	set("400", "The request is not valid. The body says what is wrong, by field or as a whole.", schemaInvalid)
	if !d.anonymous || d.idOnly { // whoever comes without the key of a diagnostic is asked for credentials
		set("401", "There are no credentials, or wrong ones.", schemaDetail)
	}
	if !d.anonymous {
		set("403", "The user may not do that.", schemaDetail)
	}
	switch {
	case d.of != "":
		set("404", "There is no such "+strings.ReplaceAll(d.of, "_", " ")+".", schemaDetail)
	case d.absent != "":
		set("404", d.absent, schemaDetail)
	}
	switch {
	case d.conflict != "":
		made.Responses.set("409", &apiResponse{Description: d.conflict, Content: success.Content})
	case at.method == http.MethodPost && at.body:
		set("409", "It contradicts what is there already.", schemaDetail)
	}
	if at.body {
		set("413", "The body is too large.", schemaDetail)
		set("415", "The body is no JSON by its content type.", schemaDetail)
	}
	for _, late := range [][2]string{
		{"429", "There is too much to do. The header Retry-After says when to come back."},
		{"503", "Something that the request needs is away. The header Retry-After says when to come back."},
	} {
		made.Responses.set(late[0], &apiResponse{
			Description: late[1], Content: jsonOf(ref(schemaDetail)),
			Headers: map[string]*apiHeader{"Retry-After": {Description: "A number of seconds.", Schema: &apiSchema{Type: typeNames{"integer"}}}},
		})
	}
	set("5XX", "Something went wrong here. The text has a reference to the log.", schemaDetail)
}

var successText = map[int]string{
	http.StatusOK:        "It worked.",
	http.StatusCreated:   "It was made.",
	http.StatusAccepted:  "It was dispatched.",
	http.StatusNoContent: "It is gone.",
}

// Schemas of answers that are not what was asked for.
const (
	schemaDetail  = "ErrorResponse"
	schemaInvalid = "ValidationErrorResponse"
)

func ref(name string) *apiSchema { return &apiSchema{Ref: "#/components/schemas/" + name} }

func (b *builder) common() {
	if b.none {
		return
	}
	detail := &apiSchema{Type: typeNames{"object"}, Description: "Why there is no answer.", Required: []string{"detail"}}
	detail.Properties.set("detail", anyText())
	b.define(schemaDetail, detail)
	b.define(schemaInvalid, &apiSchema{
		Type: typeNames{"object"},
		Description: "What is wrong: lists of messages by field, or by item of a field; under errors what is wrong with the query; " +
			"under detail what is about no field.",
		Additional: &apiSchema{},
	})
}

// ofNextVersion adds what the next version of the API has more.
func (b *builder) ofNextVersion() {
	status := b.doc.Components.Schemas.get("StatusResponse")
	versions := &apiSchema{Type: typeNames{"array"}, Items: anyText(), Description: "The versions that are answered."}
	status.Properties.set("pulp_api_version", b.describe(anyText(), "The version of this answer."))
	status.Properties.set("supported_pulp_api_versions", versions)
	status.Required = append(status.Required, "pulp_api_version", "supported_pulp_api_versions")
}

// define adds a schema. Messages that look the same may share a name.
func (b *builder) define(name string, made *apiSchema) {
	known := b.doc.Components.Schemas.get(name)
	if known == nil {
		b.doc.Components.Schemas.set(name, made)
		return
	}
	if !slices.Equal(known.Properties.names, made.Properties.names) {
		b.fail(fmt.Errorf("describe the schema %s: two messages of that name differ", name))
	}
}
