package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// The parts of an OpenAPI document that the gateway uses. Pulp's command line reads the document with strict models: a key
// that it does not know makes every command fail. So what is not here is left out on purpose.

// openAPI is a whole document.
type openAPI struct {
	OpenAPI    string              `json:"openapi"`
	Info       apiInfo             `json:"info"`
	Tags       []apiTag            `json:"tags,omitempty"`
	Paths      inOrder[apiPath]    `json:"paths"`
	Components apiComponents       `json:"components"`
	operations []*documentedByPath // as Paths has them, for the page
}

// documentedByPath is an operation with the place at which it stands.
type documentedByPath struct {
	Method, Path string
	*apiOperation
}

type apiInfo struct {
	Title         string            `json:"title"`
	Version       string            `json:"version"`
	Description   string            `json:"description"`
	License       apiLicense        `json:"license"`
	AppVersions   map[string]string `json:"x-pulp-app-versions"`
	DomainEnabled bool              `json:"x-pulp-domain-enabled"`
}

type apiLicense struct {
	Name string `json:"name"`
}

type apiTag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// apiPath has operations by method, in lower case.
type apiPath = inOrder[*apiOperation]

type apiOperation struct {
	OperationID string                `json:"operationId"`
	Summary     string                `json:"summary"`
	Description string                `json:"description,omitempty"`
	Tags        []string              `json:"tags"`
	Parameters  []*apiParameter       `json:"parameters,omitempty"`
	RequestBody *apiBody              `json:"requestBody,omitempty"`
	Security    []map[string][]string `json:"security,omitempty"`
	Responses   inOrder[*apiResponse] `json:"responses"`
}

// apiParameter stands inline wherever it is used: Pulp's command line can't follow a reference to one.
type apiParameter struct {
	Name        string     `json:"name"`
	In          string     `json:"in"`
	Description string     `json:"description,omitempty"`
	Required    bool       `json:"required,omitempty"`
	Style       string     `json:"style,omitempty"`
	Explode     *bool      `json:"explode,omitempty"`
	Schema      *apiSchema `json:"schema"`
}

type apiBody struct {
	Required bool               `json:"required"`
	Content  map[string]apiType `json:"content"`
}

type apiResponse struct {
	Description string                `json:"description"`
	Headers     map[string]*apiHeader `json:"headers,omitempty"`
	Content     map[string]apiType    `json:"content,omitempty"`
}

type apiHeader struct {
	Description string     `json:"description"`
	Schema      *apiSchema `json:"schema"`
}

// apiType is a media type with its content.
type apiType struct {
	Schema *apiSchema `json:"schema"`
}

type apiComponents struct {
	Schemas         inOrder[*apiSchema]          `json:"schemas"`
	SecuritySchemes map[string]map[string]string `json:"securitySchemes"`
}

// apiSchema says how a JSON value looks. The zero value is any.
type apiSchema struct {
	Ref         string       `json:"$ref,omitempty"`
	Type        typeNames    `json:"type,omitempty"`
	Format      string       `json:"format,omitempty"`
	Description string       `json:"description,omitempty"`
	Nullable    bool         `json:"nullable,omitempty"` // until 3.0; later null is a type
	Enum        []string     `json:"enum,omitempty"`
	Default     any          `json:"default,omitempty"`
	AllOf       []*apiSchema `json:"allOf,omitempty"`
	AnyOf       []*apiSchema `json:"anyOf,omitempty"`
	OneOf       []*apiSchema `json:"oneOf,omitempty"`
	Items       *apiSchema   `json:"items,omitempty"`
	MinItems    int          `json:"minItems,omitempty"`
	MaxItems    int          `json:"maxItems,omitempty"`

	Properties inOrder[*apiSchema] `json:"properties,omitzero"`
	// Additional is false, or a schema for the members that have no other.
	Additional any      `json:"additionalProperties,omitempty"`
	Required   []string `json:"required,omitempty"`
}

// typeNames are the names of the types that a value can have.
type typeNames []string

// MarshalJSON writes a single type as text, the only form that there is in 3.0.
func (t typeNames) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return marshalJSON(t[0])
	}
	return marshalJSON([]string(t))
}

// inOrder is a JSON object that keeps its members in the order in which they came.
type inOrder[T any] struct {
	names  []string
	values map[string]T
}

func (o *inOrder[T]) set(name string, value T) {
	if o.values == nil {
		o.values = map[string]T{}
	}
	if _, known := o.values[name]; !known {
		o.names = append(o.names, name)
	}
	o.values[name] = value
}

func (o inOrder[T]) get(name string) T { return o.values[name] }

// IsZero leaves an object without members out, where its tag asks for that.
func (o inOrder[T]) IsZero() bool { return len(o.names) == 0 }

// MarshalJSON writes the members in their order.
func (o inOrder[T]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range o.names {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(name)
		if err != nil {
			return nil, fmt.Errorf("encode the name %q: %w", name, err)
		}
		value, err := marshalJSON(o.values[name])
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
