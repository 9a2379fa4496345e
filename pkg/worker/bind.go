package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// shape is what a handler's struct of arguments looks like, worked out once when the handler is added.
type shape struct {
	task       string
	parameters []parameter
}

// parameter is one argument.
type parameter struct {
	name     string
	index    []int
	optional bool
	nullable bool
}

func shapeOf[In any](task string) shape {
	t := reflect.TypeFor[In]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("worker: the arguments of task %q must be a struct, not %s; HandleRaw takes them as JSON", task, t))
	}
	s := shape{task: task}
	for _, field := range reflect.VisibleFields(t) {
		if field.Anonymous {
			if field.Type.Kind() == reflect.Pointer {
				panic(fmt.Sprintf("worker: task %q: embed %s by value, a nil pointer has no fields to fill", task, field.Type))
			}
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = field.Name
		}
		s.add(parameter{
			name:  name,
			index: field.Index,
			optional: slices.ContainsFunc(strings.Split(options, ","), func(o string) bool { return o == "omitempty" || o == "omitzero" }) ||
				field.Type.Kind() == reflect.Pointer,
			nullable: takesNull(field.Type),
		})
	}
	return s
}

func (s *shape) add(p parameter) {
	if _, twice := s.find(p.name); twice {
		panic(fmt.Sprintf("worker: task %q has two arguments %q", s.task, p.name))
	}
	s.parameters = append(s.parameters, p)
}

func (s *shape) find(name string) (int, bool) {
	i := slices.IndexFunc(s.parameters, func(p parameter) bool { return p.name == name })
	return i, i >= 0
}

// takesNull tells types that have a value for null from those that encoding/json would silently leave at zero.
func takesNull(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		return true
	default:
		return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	}
}

// bind fills *in, a struct of this shape. Its errors are written for the person who dispatched the task.
func (s *shape) bind(arguments Arguments, in any) error {
	if len(s.parameters) == 0 && isNothing(arguments.Args, "[]") && isNothing(arguments.Kwargs, "{}") {
		return nil
	}
	given, err := s.collect(arguments)
	if err != nil {
		return err
	}
	into := reflect.ValueOf(in).Elem()
	for i, p := range s.parameters {
		raw := given[i]
		isNull := string(raw) == "null"
		switch {
		case raw == nil && p.optional, isNull && p.optional:
			continue
		case raw == nil:
			return fmt.Errorf("%s() is missing the argument %q", s.task, p.name)
		case isNull && !p.nullable:
			return fmt.Errorf("%s() argument %q must not be null", s.task, p.name)
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(into.FieldByIndex(p.index).Addr().Interface()); err != nil {
			return fmt.Errorf("%s() argument %q %s", s.task, p.name, complaint(err))
		}
	}
	return nil
}

// collect puts positional and named arguments in the order of the parameters; nil where nothing was given.
func (s *shape) collect(arguments Arguments) ([]json.RawMessage, error) {
	var positional []json.RawMessage
	if err := decode(arguments.Args, "[]", &positional); err != nil {
		return nil, fmt.Errorf("%s() positional arguments are not a JSON array: %w", s.task, err)
	}
	var named map[string]json.RawMessage
	if err := decode(arguments.Kwargs, "{}", &named); err != nil {
		return nil, fmt.Errorf("%s() named arguments are not a JSON object: %w", s.task, err)
	}
	if len(positional) > len(s.parameters) {
		return nil, fmt.Errorf("%s() takes at most %d positional arguments, got %d", s.task, len(s.parameters), len(positional))
	}
	given := make([]json.RawMessage, len(s.parameters))
	copy(given, positional)
	// Sorted, so that of several mistakes always the same one is reported.
	for _, name := range sortedKeys(named) {
		i, known := s.find(name)
		switch {
		case !known:
			return nil, fmt.Errorf("%s() got an unexpected argument %q", s.task, name)
		case given[i] != nil:
			return nil, fmt.Errorf("%s() got the argument %q twice, by position and by name", s.task, name)
		}
		given[i] = named[name]
	}
	return given, nil
}

// decode reads JSON, unless it is nothing or what stands for nothing, as it is for most tasks.
func decode(raw json.RawMessage, nothing string, into any) error {
	if isNothing(raw, nothing) {
		return nil
	}
	return json.Unmarshal(raw, into)
}

func isNothing(raw json.RawMessage, nothing string) bool {
	return len(raw) == 0 || string(raw) == nothing
}

func sortedKeys(m map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// complaint says what is wrong with a value in the words of JSON, not of Go.
func complaint(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return "is not valid: " + strings.TrimPrefix(err.Error(), "json: ")
	}
	at := ""
	if wrong.Field != "" {
		at = fmt.Sprintf(" at %q", wrong.Field)
	}
	return fmt.Sprintf("must be %s%s, is %s", expected(wrong.Type), at, wrong.Value)
}

func expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "a boolean"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("an integer (%s)", t.Kind())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return t.String()
	}
}
