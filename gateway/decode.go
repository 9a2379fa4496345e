package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// rule says what a proto can't say about a field of a request body.
type rule struct {
	required bool
	nullable bool
	notBlank bool
	notEmpty bool // a list
	// open is '[' or '{' for raw JSON that must be an array or an object.
	open byte
	// fromPath: its value comes from the path, so a body must not have it.
	fromPath bool
}

// rules by field. What is not here is optional and not nullable. Null is let pass where Pulp's own dispatch takes it to
// mean the default.
var rules = map[protoreflect.FullName]rule{
	"pulp.v3.CreateTaskRequest.name":                {required: true, notBlank: true},
	"pulp.v3.CreateTaskRequest.args":                {nullable: true, open: '['},
	"pulp.v3.CreateTaskRequest.kwargs":              {nullable: true, open: '{'},
	"pulp.v3.CreateTaskRequest.exclusive_resources": {nullable: true},
	"pulp.v3.CreateTaskRequest.shared_resources":    {nullable: true},
	"pulp.v3.CreateTaskRequest.task_group":          {nullable: true},
	"pulp.v3.CreateTaskRequest.versions":            {nullable: true},
	// A task that is read shows null for these, and what was read may be sent again.
	"pulp.v3.CreateTaskRequest.timeout":         {nullable: true},
	"pulp.v3.CreateTaskRequest.retry":           {nullable: true},
	"pulp.v3.CreateTaskRequest.profile_options": {nullable: true},
	"pulp.v3.CreateTaskRequest.files":           {nullable: true},
	"pulp.v3.Retry.max_attempts":                {required: true},
	"pulp.v3.Retry.backoff":                     {nullable: true},
	"pulp.v3.Retry.max_backoff":                 {nullable: true},

	"pulp.v3.CancelTaskRequest.pulp_id": {fromPath: true},
	"pulp.v3.CancelTaskRequest.state":   {required: true},

	"pulp.v3.CreateTasksRequest.tasks": {required: true, notEmpty: true},

	"pulp.v3.PurgeTasksRequest.finished_before": {notBlank: true},
	"pulp.v3.PurgeTasksRequest.states":          {notEmpty: true}, // no states would mean all of them further down

	"pulp.v3.CancelTaskGroupRequest.pulp_id": {fromPath: true},
	"pulp.v3.CancelTaskGroupRequest.state":   {required: true},

	"pulp.v3.CreateTaskScheduleRequest.name":                {required: true, notBlank: true},
	"pulp.v3.CreateTaskScheduleRequest.task_name":           {required: true, notBlank: true},
	"pulp.v3.CreateTaskScheduleRequest.task_args":           {nullable: true, open: '['},
	"pulp.v3.CreateTaskScheduleRequest.task_kwargs":         {nullable: true, open: '{'},
	"pulp.v3.CreateTaskScheduleRequest.dispatch_interval":   {nullable: true},
	"pulp.v3.CreateTaskScheduleRequest.next_dispatch":       {nullable: true, notBlank: true},
	"pulp.v3.CreateTaskScheduleRequest.exclusive_resources": {nullable: true},
	"pulp.v3.CreateTaskScheduleRequest.shared_resources":    {nullable: true},
	"pulp.v3.CreateTaskScheduleRequest.versions":            {nullable: true},
	"pulp.v3.CreateTaskScheduleRequest.timeout":             {nullable: true},
	"pulp.v3.CreateTaskScheduleRequest.retry":               {nullable: true},

	"pulp.v3.AddTaskRoleRequest.pulp_id":            {fromPath: true},
	"pulp.v3.AddTaskRoleRequest.role":               {required: true, notBlank: true},
	"pulp.v3.RemoveTaskRoleRequest.pulp_id":         {fromPath: true},
	"pulp.v3.RemoveTaskRoleRequest.role":            {required: true, notBlank: true},
	"pulp.v3.AddTaskScheduleRoleRequest.pulp_id":    {fromPath: true},
	"pulp.v3.AddTaskScheduleRoleRequest.role":       {required: true, notBlank: true},
	"pulp.v3.RemoveTaskScheduleRoleRequest.pulp_id": {fromPath: true},
	"pulp.v3.RemoveTaskScheduleRoleRequest.role":    {required: true, notBlank: true},
}

// maxReported bounds how many broken items of a request are named: a body of 4 MiB can have two million.
const maxReported = 100

// body is a request body that remembers why it was refused, for Gateway.fail.
type body struct {
	io.ReadCloser
	refused *refusal
}

// Unmarshal reads JSON into a message. Its error is a *refusal.
func (codec) Unmarshal(data []byte, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("decode JSON: no way to fill a %T", v)
	}
	if refused := decode(data, message.ProtoReflect()); refused != nil {
		return refused
	}
	return nil
}

// NewDecoder reads one message, which is the whole body.
func (c codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		err := c.read(r, v)
		var refused *refusal
		if b, ok := r.(*body); ok && errors.As(err, &refused) {
			b.refused = refused
		}
		return err
	})
}

func (c codec) read(r io.Reader, v any) error {
	data, err := io.ReadAll(r)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return detail(http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body must be at most %d bytes.", tooLarge.Limit))
	case err != nil:
		return detail(http.StatusBadRequest, "The request body ended early.")
	}
	return c.Unmarshal(data, v)
}

// decode fills a message from a JSON object. All that is wrong is reported at once.
func decode(data []byte, m protoreflect.Message) *refusal {
	if len(data) == 0 {
		data = []byte("{}") // as Django REST framework: no body is an empty one
	}
	object, refused := parse(data)
	if refused != nil {
		return refused
	}
	if faults := decodeObject(m, object); len(faults) > 0 {
		return &refusal{status: http.StatusBadRequest, body: faults}
	}
	return nil
}

// decodeObject fills a message from the members of an object, and returns what is wrong with them.
func decodeObject(m protoreflect.Message, object map[string]json.RawMessage) fieldErrors {
	faults := fieldErrors{}
	fields := m.Descriptor().Fields()
	for _, key := range sortedKeys(object) {
		field := fields.ByName(protoreflect.Name(key))
		if field == nil || rules[field.FullName()].fromPath {
			if len(faults) < maxReported {
				faults.add(key, "Unexpected field")
			}
			continue
		}
		decodeField(m, field, object[key], faults)
	}
	for i := range fields.Len() {
		field := fields.Get(i)
		if _, given := object[string(field.Name())]; !given && rules[field.FullName()].required {
			faults.add(string(field.Name()), "This field is required.")
		}
	}
	return faults
}

// parse splits an object into its members; of several with the same name the last counts, as everywhere in Python.
func parse(data []byte) (map[string]json.RawMessage, *refusal) {
	if !utf8.Valid(data) {
		return nil, detail(http.StatusBadRequest, "JSON parse error - the body is not valid UTF-8")
	}
	var value json.RawMessage
	if err := json.Unmarshal(data, &value); err != nil {
		text := err.Error()
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			text = fmt.Sprintf("%s (byte %d)", text, syntax.Offset)
		}
		return nil, detail(http.StatusBadRequest, "JSON parse error - "+text)
	}
	if kind := pythonType(value); kind != "dict" {
		text := fmt.Sprintf("Invalid data. Expected a dictionary, but got %s.", kind)
		if kind == "NoneType" {
			text = "No data provided"
		}
		return nil, &refusal{status: http.StatusBadRequest, body: fieldErrors{"non_field_errors": []string{text}}}
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(value, &object); err != nil {
		return nil, detail(http.StatusBadRequest, "JSON parse error - "+err.Error())
	}
	return object, nil
}

func decodeField(m protoreflect.Message, field protoreflect.FieldDescriptor, raw json.RawMessage, faults fieldErrors) {
	name, rule := string(field.Name()), rules[field.FullName()]
	switch {
	case pythonType(raw) == "NoneType":
		if !rule.nullable {
			faults.add(name, "This field may not be null.")
		}
	case field.IsMap():
		decodeMap(m, field, raw, faults)
	case field.IsList():
		decodeList(m, field, raw, faults)
	case field.Kind() == protoreflect.MessageKind && field.Message().FullName() != rawJSON:
		decodeMessage(m, field, raw, faults)
	case field.Kind() == protoreflect.MessageKind:
		if message := wrongShape(rule.open, raw); message != "" {
			faults.add(name, message)
			return
		}
		value := m.NewField(field)
		value.Message().Set(field.Message().Fields().ByName("text"), protoreflect.ValueOfString(string(raw)))
		m.Set(field, value)
	default:
		value, message := scalar(field, raw)
		if message == "" && rule.notBlank && strings.TrimSpace(value.String()) == "" {
			message = "This field may not be blank."
		}
		if message != "" {
			faults.add(name, message)
			return
		}
		m.Set(field, value)
	}
}

// rawJSON is the message that holds any JSON as text.
const rawJSON protoreflect.FullName = "pulp.v3.Json"

func decodeMessage(m protoreflect.Message, field protoreflect.FieldDescriptor, raw json.RawMessage, faults fieldErrors) {
	name := string(field.Name())
	if message := wrongShape('{', raw); message != "" {
		faults.add(name, message)
		return
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		faults.add(name, "Not a valid dictionary.")
		return
	}
	if inner := decodeObject(m.Mutable(field).Message(), object); len(inner) > 0 {
		faults[name] = inner
	}
}

func decodeList(m protoreflect.Message, field protoreflect.FieldDescriptor, raw json.RawMessage, faults fieldErrors) {
	name := string(field.Name())
	if message := wrongShape('[', raw); message != "" {
		faults.add(name, message)
		return
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		faults.add(name, "Not a valid list.")
		return
	}
	if len(items) == 0 && rules[field.FullName()].notEmpty {
		faults.add(name, "This list may not be empty.")
		return
	}
	list, reported := m.Mutable(field).List(), 0
	if field.Kind() == protoreflect.MessageKind {
		decodeMessages(list, name, items, faults)
		return
	}
	for i, item := range items {
		value, message := scalar(field, item)
		if message == "" {
			list.Append(value)
			continue
		}
		faults.addItem(name, strconv.Itoa(i), message)
		if reported++; reported == maxReported {
			return
		}
	}
}

// decodeMessages reads objects. As Django REST framework, it reports them by their place in the list.
func decodeMessages(list protoreflect.List, name string, items []json.RawMessage, faults fieldErrors) {
	reported := 0
	for i, item := range items {
		var inner fieldErrors
		if kind := pythonType(item); kind != "dict" {
			inner = fieldErrors{"non_field_errors": []string{fmt.Sprintf("Invalid data. Expected a dictionary, but got %s.", kind)}}
		} else {
			var object map[string]json.RawMessage
			_ = json.Unmarshal(item, &object) // it is an object, and valid as a part of what was valid
			inner = decodeObject(list.AppendMutable().Message(), object)
		}
		if len(inner) == 0 {
			continue
		}
		faults.at(name, i, inner)
		if reported++; reported == maxReported {
			return
		}
	}
}

func decodeMap(m protoreflect.Message, field protoreflect.FieldDescriptor, raw json.RawMessage, faults fieldErrors) {
	name := string(field.Name())
	if message := wrongShape('{', raw); message != "" {
		faults.add(name, message)
		return
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		faults.add(name, "Not a valid dictionary.")
		return
	}
	object, reported := m.Mutable(field).Map(), 0
	for _, key := range sortedKeys(entries) {
		value, message := scalar(field.MapValue(), entries[key])
		if message == "" {
			object.Set(protoreflect.ValueOfString(key).MapKey(), value)
			continue
		}
		faults.addItem(name, key, message)
		if reported++; reported == maxReported {
			return
		}
	}
}

// scalar reads one value; message says what is wrong with it.
func scalar(field protoreflect.FieldDescriptor, raw json.RawMessage) (value protoreflect.Value, message string) {
	if pythonType(raw) == "NoneType" {
		return value, "This field may not be null."
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		// Stricter than Django, which makes text of a number: a resource 1.0 that becomes "1.0" helps nobody.
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return value, "Not a valid string."
		}
		return protoreflect.ValueOfString(text), ""
	case protoreflect.BoolKind:
		var flag bool
		if err := json.Unmarshal(raw, &flag); err != nil {
			return value, "Must be a valid boolean."
		}
		return protoreflect.ValueOfBool(flag), ""
	case protoreflect.Int32Kind:
		// One that is too great is refused by its limits, which say how great it may be.
		n, ok := number(string(bytes.TrimSpace(raw)))
		if !ok {
			return value, "A valid integer is required."
		}
		return protoreflect.ValueOfInt32(n), ""
	case protoreflect.DoubleKind:
		var n float64
		if err := json.Unmarshal(raw, &n); err != nil {
			return value, "A valid number is required."
		}
		return protoreflect.ValueOfFloat64(n), ""
	default:
		// A test walks all request bodies of pulp.v3: none has a field of another kind.
		return value, "This field can't be set."
	}
}

// wrongShape returns Django's words for a value that is no array or no object; "" if it is what it should be.
func wrongShape(open byte, raw json.RawMessage) string {
	kind := pythonType(raw)
	switch {
	case open == '[' && kind != "list":
		return fmt.Sprintf("Expected a list of items but got type %q.", kind)
	case open == '{' && kind != "dict":
		return fmt.Sprintf("Expected a dictionary of items but got type %q.", kind)
	default:
		return ""
	}
}

// pythonType names the type of a JSON value as Pulp's clients know it from Pulp's messages.
func pythonType(raw json.RawMessage) string {
	text := bytes.TrimLeft(raw, " \t\r\n")
	switch {
	case len(text) == 0 || text[0] == 'n':
		return "NoneType"
	case text[0] == '{':
		return "dict"
	case text[0] == '[':
		return "list"
	case text[0] == '"':
		return "str"
	case text[0] == 't' || text[0] == 'f':
		return "bool"
	case bytes.ContainsAny(text, ".eE"):
		return "float"
	default:
		return "int"
	}
}

func sortedKeys(object map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
