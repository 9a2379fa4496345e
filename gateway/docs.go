package gateway

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
)

// The page for people: the document as HTML, with nothing in it that has to be fetched from elsewhere, and no script.

//go:embed templates/docs.html
var pageHTML string

//go:embed templates/docs.css
var pageCSS string

// pagePolicy lets a browser do nothing with the page but show it with its own style.
func pagePolicy() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

type pageView struct {
	Info     apiInfo
	Style    template.CSS
	Docs     string // path of the folder that the documents are in
	Chapters []pageChapter
	Schemas  []pageSchema
}

type pageChapter struct {
	apiTag
	Operations []pageOperation
}

type pageOperation struct {
	ID, Method, Path, Summary, Description string
	Anonymous                              bool
	Parameters                             []pageRow
	Body                                   *pageType
	Answers                                []pageAnswer
	Curl                                   string
}

// pageRow is a parameter or a field.
type pageRow struct {
	Name, Place, Description string
	Type                     pageType
	Required                 bool
	Choices                  []string
}

type pageAnswer struct {
	Status, Description string
	Type                *pageType
	Good                bool
}

type pageSchema struct {
	Name, Description string
	Fields            []pageRow
}

// pageType is a type in words; Ref in their midst is the name of a schema.
type pageType struct{ Before, Ref, After string }

func renderPage(built *openAPI, f flavour) ([]byte, error) {
	parsed, err := template.New("docs").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("read the template of the page: %w", err)
	}
	view := pageView{
		Info:  built.Info,
		Style: template.CSS(pageCSS), //nolint:gosec // it is ours, from the binary
		Docs:  f.root + "api/" + f.api + "/docs/",
	}
	for _, tag := range built.Tags {
		chapter := pageChapter{apiTag: tag}
		for _, operation := range built.operations {
			if operation.Tags[0] == tag.Name {
				chapter.Operations = append(chapter.Operations, showOperation(operation))
			}
		}
		view.Chapters = append(view.Chapters, chapter)
	}
	for _, name := range built.Components.Schemas.names {
		schema := built.Components.Schemas.get(name)
		view.Schemas = append(view.Schemas, pageSchema{Name: name, Description: schema.Description, Fields: showFields(schema)})
	}
	var b bytes.Buffer
	if err := parsed.Execute(&b, view); err != nil {
		return nil, fmt.Errorf("write the page: %w", err)
	}
	return b.Bytes(), nil
}

func showOperation(o *documentedByPath) pageOperation {
	shown := pageOperation{
		ID: o.OperationID, Method: o.Method, Path: o.Path, Summary: o.Summary, Description: o.Description,
		Anonymous: len(o.Security) == 0, Curl: curl(o),
	}
	for _, p := range o.Parameters {
		row := row(p.Name, p.Schema, p.Required)
		row.Place, row.Description = p.In, p.Description
		shown.Parameters = append(shown.Parameters, row)
	}
	if o.RequestBody != nil {
		body := typeOf(o.RequestBody.Content[contentType].Schema)
		shown.Body = &body
	}
	for _, status := range o.Responses.names {
		response := o.Responses.get(status)
		answer := pageAnswer{Status: status, Description: response.Description, Good: status[0] == '2'}
		for _, content := range response.Content {
			kind := typeOf(content.Schema)
			answer.Type = &kind
		}
		shown.Answers = append(shown.Answers, answer)
	}
	return shown
}

func showFields(s *apiSchema) []pageRow {
	rows := make([]pageRow, 0, len(s.Properties.names))
	required := map[string]bool{}
	for _, name := range s.Required {
		required[name] = true
	}
	for _, name := range s.Properties.names {
		rows = append(rows, row(name, s.Properties.get(name), required[name]))
	}
	return rows
}

func row(name string, s *apiSchema, required bool) pageRow {
	shown := pageRow{Name: name, Description: s.Description, Type: typeOf(s), Required: required, Choices: s.Enum}
	if s.Items != nil {
		shown.Choices = s.Items.Enum
	}
	return shown
}

// typeOf says in words what a schema allows.
func typeOf(s *apiSchema) pageType {
	switch {
	case s.Ref != "":
		return pageType{Ref: s.Ref[strings.LastIndex(s.Ref, "/")+1:]}
	case len(s.OneOf) > 0:
		kind := typeOf(s.OneOf[0])
		for _, other := range s.OneOf[1:] {
			kind.After += " or " + typeOf(other).Before
		}
		return kind
	case len(s.Type) == 0:
		return pageType{Before: "any JSON"}
	}
	words := append(typeNames{}, s.Type...)
	switch s.Format {
	case "date-time":
		words[0] = "time"
	case "uuid":
		words[0] = "UUID"
	}
	rest := ""
	if len(words) > 1 {
		rest = " or " + strings.Join(words[1:], " or ")
	}
	additional, _ := s.Additional.(*apiSchema)
	switch {
	case words[0] == "array" && s.Items != nil:
		of := typeOf(s.Items)
		return pageType{Before: "list of " + of.Before, Ref: of.Ref, After: of.After + rest}
	case words[0] == "object" && additional != nil && s.Properties.IsZero():
		of := typeOf(additional)
		return pageType{Before: "object of " + of.Before, Ref: of.Ref, After: of.After + rest}
	}
	return pageType{Before: words[0] + rest}
}

// examples are bodies to begin with.
var examples = map[string]string{
	"tasks_create":          `{"name": "test.echo", "kwargs": {"text": "hello"}, "exclusive_resources": ["a"]}`,
	"tasks_batch":           `{"tasks": [{"name": "test.noop"}, {"name": "test.noop"}]}`,
	"tasks_purge":           `{"states": ["completed", "canceled"]}`,
	"tasks_cancel":          `{"state": "canceled"}`,
	"task_groups_cancel":    `{"state": "canceled"}`,
	"task_groups_create":    `{"description": "tonight"}`,
	"task_schedules_create": `{"name": "hourly", "task_name": "test.noop", "dispatch_interval": 3600}`,
}

// curl is a command line that asks for the operation. The page says what the two variables are.
func curl(o *documentedByPath) string {
	line := "curl"
	if len(o.Security) > 0 {
		line += " -u admin"
	}
	if o.Method != http.MethodGet {
		line += " -X " + o.Method
	}
	for _, response := range o.Responses.values {
		if _, streams := response.Content["text/event-stream"]; streams {
			line += " -N" // curl would hold the events back
		}
	}
	if o.RequestBody != nil {
		body := examples[o.OperationID]
		if body == "" {
			body = `{"role": "core.task_owner", "users": ["admin"]}`
		}
		line += " -H 'Content-Type: application/json' -d '" + body + "'"
	}
	return line + ` "$SLUICE` + strings.ReplaceAll(o.Path, "{pulp_id}", "$ID") + `"`
}
