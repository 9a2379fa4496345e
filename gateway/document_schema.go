package gateway

import (
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// direction is whether a message comes or goes: a request may leave fields out, an answer shows null instead.
type direction bool

const (
	sent     direction = false
	answered direction = true
)

// timestamp is the message of a time.
const timestamp protoreflect.FullName = "google.protobuf.Timestamp"

func schemaName(m protoreflect.MessageDescriptor, to direction) string {
	if name, known := schemaNames[m.Name()]; known {
		return name
	}
	name := strings.TrimSuffix(strings.TrimSuffix(string(m.Name()), "Request"), "Response")
	if to == answered {
		name += "Response"
	}
	return name
}

// message returns a reference to the schema of a message, which it makes if there is none yet.
func (b *builder) message(m protoreflect.MessageDescriptor, to direction) *apiSchema {
	name := schemaName(m, to)
	made := &apiSchema{Type: typeNames{"object"}, Description: comment(m)}
	if to == sent {
		made.Additional = false
	}
	if b.doc.Components.Schemas.get(name) == nil {
		b.doc.Components.Schemas.set(name, made) // before its fields, which may be of the same kind
	}
	promised, cut := partly[m.Name()]
	fields := m.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if to == sent && field.Name() == "pulp_id" {
			continue // it comes from the path
		}
		made.Properties.set(string(field.Name()), b.field(field, to))
		required := rules[field.FullName()].required
		if to == answered {
			required = !cut || slices.Contains(promised, string(field.Name()))
		}
		if required {
			made.Required = append(made.Required, string(field.Name()))
		}
	}
	b.define(name, made)
	return ref(name)
}

// field is the schema of a field.
func (b *builder) field(field protoreflect.FieldDescriptor, to direction) *apiSchema {
	var made *apiSchema
	switch {
	case field.IsMap():
		made = &apiSchema{Type: typeNames{"object"}, Additional: b.value(field.MapValue(), to)}
	case field.IsList():
		made = &apiSchema{Type: typeNames{"array"}, Items: b.value(field, to)}
	default:
		made = b.value(field, to)
	}
	if text := comment(field); text != "" {
		made = b.describe(made, text)
	}
	if b.nullable(field, to) {
		made = b.orNull(made)
	}
	return made
}

func (b *builder) nullable(field protoreflect.FieldDescriptor, to direction) bool {
	if to == sent {
		return rules[field.FullName()].nullable
	}
	return field.HasPresence() && !field.IsList() && !always[field.FullName()]
}

// describe says what a value is for. Until 3.0 nothing may stand beside a reference.
func (b *builder) describe(s *apiSchema, text string) *apiSchema {
	if s.Ref != "" && b.version == openAPI30 {
		s = &apiSchema{AllOf: []*apiSchema{s}}
	}
	s.Description = text
	return s
}

// orNull lets null pass too.
func (b *builder) orNull(s *apiSchema) *apiSchema {
	switch {
	case reflect.DeepEqual(*s, apiSchema{Description: s.Description}): // anything, and null is a thing
	case b.version == openAPI30:
		s.Nullable = true
	case s.Ref != "":
		return &apiSchema{Description: s.Description, OneOf: []*apiSchema{{Ref: s.Ref}, {Type: typeNames{"null"}}}}
	case len(s.Type) > 0:
		s.Type = append(s.Type, "null")
	}
	return s
}

// value is the schema of one value of a field.
func (b *builder) value(field protoreflect.FieldDescriptor, to direction) *apiSchema {
	name := field.FullName()
	switch field.Kind() {
	case protoreflect.StringKind:
		if times[name] {
			return &apiSchema{Type: typeNames{"string"}, Format: "date-time"}
		}
		return &apiSchema{Type: typeNames{"string"}, Enum: choices[name]}
	case protoreflect.BoolKind:
		return &apiSchema{Type: typeNames{"boolean"}}
	case protoreflect.Int32Kind:
		return &apiSchema{Type: typeNames{"integer"}, Format: "int32"}
	case protoreflect.Int64Kind:
		return &apiSchema{Type: typeNames{"integer"}, Format: "int64"}
	case protoreflect.DoubleKind:
		return &apiSchema{Type: typeNames{"number"}, Format: "double"}
	default:
	}
	switch field.Message().FullName() {
	case timestamp:
		return &apiSchema{Type: typeNames{"string"}, Format: "date-time"}
	case rawJSON:
		return b.raw(field, to)
	default:
		return b.message(field.Message(), to)
	}
}

// raw is the schema of a field that holds JSON.
func (b *builder) raw(field protoreflect.FieldDescriptor, to direction) *apiSchema {
	open := rules[field.FullName()].open
	switch {
	case to == answered && field.Name() == "error":
		made := &apiSchema{Type: typeNames{"object"}}
		for _, part := range [][2]string{
			{"description", "What went wrong."},
			{"traceback", "Where it went wrong."},
			{"reason", "Why it was ended from outside."},
			{"error_code", "What kind of failure it is."},
		} {
			made.Properties.set(part[0], &apiSchema{Type: typeNames{"string"}, Description: part[1]})
		}
		return made
	case field.Name() == "dispatch_interval":
		if b.version == openAPI30 {
			return &apiSchema{OneOf: []*apiSchema{{Type: typeNames{"number"}}, {Type: typeNames{"string"}}}}
		}
		return &apiSchema{Type: typeNames{"number", "string"}}
	case to == sent && open == '[':
		return &apiSchema{Type: typeNames{"array"}, Items: &apiSchema{}}
	case to == sent && open == '{':
		return &apiSchema{Type: typeNames{"object"}, Additional: &apiSchema{}}
	default:
		return &apiSchema{}
	}
}

// inQuery are the query parameters of an operation: the fields of its input, which the protos have as text because the text is
// checked in Pulp's way, with the types that Pulp tells its clients.
func (b *builder) inQuery(d documented, input protoreflect.MessageDescriptor) []*apiParameter {
	var made []*apiParameter
	fields := input.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		if name == "pulp_id" || slices.Contains(d.without, name) {
			continue
		}
		parameter := &apiParameter{Name: name, In: "query", Description: comment(field), Schema: querySchema(field, d.ordering), Required: slices.Contains(d.needs, name)}
		if parameter.Schema.Items != nil {
			explode := field.IsList()
			parameter.Style, parameter.Explode = "form", &explode
			if !explode {
				parameter.Description = strings.Replace(parameter.Description, ", separated by commas", "", 1)
			}
		}
		made = append(made, parameter)
	}
	return made
}

// querySchema is the type of a query parameter, which its name tells: Pulp's are all made by the same rules.
func querySchema(field protoreflect.FieldDescriptor, ordering []string) *apiSchema {
	name := string(field.Name())
	base, lookup, _ := strings.Cut(name, "__")
	one := &apiSchema{Type: typeNames{"string"}}
	switch {
	case slices.Contains([]string{"pulp_created", "unblocked_at", "started_at", "finished_at", "last_heartbeat"}, base):
		one.Format = "date-time"
	case name == "pulp_id__in":
		one.Format = "uuid"
	}
	switch {
	case field.IsList():
		return &apiSchema{Type: typeNames{"array"}, Items: one}
	case name == "ordering":
		one.Enum = bothWays(ordering)
		return &apiSchema{Type: typeNames{"array"}, Items: one}
	case lookup == "in" || lookup == "range":
		return &apiSchema{Type: typeNames{"array"}, Items: one}
	case lookup == "isnull" || name == "online" || name == "missing" || name == "minimal":
		return &apiSchema{Type: typeNames{"boolean"}}
	case name == "limit" || name == "offset":
		return &apiSchema{Type: typeNames{"integer"}}
	case field.Kind() == protoreflect.DoubleKind:
		return &apiSchema{Type: typeNames{"number"}}
	case name == "state":
		one.Enum = allStates
	}
	return one
}

// bothWays are the names for an ascending and a descending order.
func bothWays(names []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, "-"+name)
	}
	return append(all, names...)
}
