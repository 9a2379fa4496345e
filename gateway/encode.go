package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

// contentType has no charset: Pulp's clients compare it whole.
const contentType = "application/json"

// timeLayout always has six digits: clients compare times as text.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// codec is the JSON of Pulp's clients. protojson's differs in what it leaves out, in 64-bit numbers (text) and in times.
type codec struct{}

var _ runtime.Marshaler = codec{}

// ContentType of everything.
func (codec) ContentType(any) string { return contentType }

// Marshal writes a message, a view of one, or plain Go values.
func (codec) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case view:
		return marshalView(v)
	case *pulpv3.DeleteTaskResponse, *pulpv3.DeleteTaskScheduleResponse:
		return nil, nil // goes with 204
	case proto.Message:
		return marshalView(view{message: v})
	default:
		return marshalJSON(v)
	}
}

// NewEncoder exists for streams, of which REST has none.
func (c codec) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		text, err := c.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}

// view is a message of which some fields are shown: of the message itself, or, if it is a page, of each of its results.
type view struct {
	message proto.Message
	// shows says whether a field is shown. Nil shows all.
	shows func(field string) bool
	// more are members that the message has no fields for.
	more map[string]any
}

func marshalView(v view) ([]byte, error) {
	w := newWriter()
	message := v.message.ProtoReflect()
	results := message.Descriptor().Fields().ByName("results")
	switch {
	case results == nil:
		w.message(message, v.shows)
	default:
		w.page, w.shows = results, v.shows
		w.message(message, nil)
	}
	w.more(v.more)
	return w.buffer.Bytes(), w.err
}

// marshalJSON writes plain Go values, with sorted keys and without escaping for HTML.
func marshalJSON(v any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), nil
}

// writer writes messages by their descriptors. The first error stays.
type writer struct {
	buffer bytes.Buffer
	text   *json.Encoder
	err    error

	// page is the field whose elements are shown only in part.
	page  protoreflect.FieldDescriptor
	shows func(field string) bool
}

func newWriter() *writer {
	w := &writer{}
	w.text = json.NewEncoder(&w.buffer)
	w.text.SetEscapeHTML(false)
	return w
}

func (w *writer) message(m protoreflect.Message, shows func(string) bool) {
	w.buffer.WriteByte('{')
	fields := m.Descriptor().Fields()
	first := true
	for i := range fields.Len() {
		field := fields.Get(i)
		if shows != nil && !shows(string(field.Name())) {
			continue
		}
		if !first {
			w.buffer.WriteByte(',')
		}
		first = false
		w.string(string(field.Name()))
		w.buffer.WriteByte(':')
		w.field(m, field)
	}
	w.buffer.WriteByte('}')
}

// more adds members to the object that ends here.
func (w *writer) more(members map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(members)) {
		text, err := marshalJSON(members[name])
		if err != nil {
			w.fault(err)
			return
		}
		w.buffer.Truncate(w.buffer.Len() - 1)
		if w.buffer.Len() > 1 {
			w.buffer.WriteByte(',')
		}
		w.string(name)
		w.buffer.WriteByte(':')
		w.buffer.Write(text)
		w.buffer.WriteByte('}')
	}
}

func (w *writer) field(m protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch {
	case field.IsList():
		w.list(m.Get(field).List(), field)
	case field.IsMap():
		w.object(m.Get(field).Map(), field)
	case field.HasPresence() && !m.Has(field):
		w.buffer.WriteString("null")
	default:
		w.value(m.Get(field), field, nil)
	}
}

func (w *writer) list(list protoreflect.List, field protoreflect.FieldDescriptor) {
	var shows func(string) bool
	if field == w.page {
		shows = w.shows
	}
	w.buffer.WriteByte('[')
	for i := range list.Len() {
		if i > 0 {
			w.buffer.WriteByte(',')
		}
		w.value(list.Get(i), field, shows)
	}
	w.buffer.WriteByte(']')
}

// object writes a map by sorted keys: the same answer always has the same bytes.
func (w *writer) object(entries protoreflect.Map, field protoreflect.FieldDescriptor) {
	keys := make([]string, 0, entries.Len())
	entries.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key.String())
		return true
	})
	slices.Sort(keys)
	w.buffer.WriteByte('{')
	for i, key := range keys {
		if i > 0 {
			w.buffer.WriteByte(',')
		}
		w.string(key)
		w.buffer.WriteByte(':')
		w.value(entries.Get(protoreflect.ValueOfString(key).MapKey()), field.MapValue(), nil)
	}
	w.buffer.WriteByte('}')
}

func (w *writer) value(v protoreflect.Value, field protoreflect.FieldDescriptor, shows func(string) bool) {
	switch field.Kind() {
	case protoreflect.StringKind:
		w.string(v.String())
	case protoreflect.BoolKind:
		w.buffer.WriteString(strconv.FormatBool(v.Bool()))
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		w.buffer.WriteString(strconv.FormatInt(v.Int(), 10))
	case protoreflect.DoubleKind:
		w.buffer.WriteString(strconv.FormatFloat(v.Float(), 'f', -1, 64))
	case protoreflect.MessageKind:
		w.known(v.Message(), shows)
	default:
		// A test walks all messages of pulp.v3: no field of another kind gets this far.
		w.fault(fmt.Errorf("encode %s: no JSON for a field of kind %s", field.FullName(), field.Kind()))
	}
}

// known writes the messages that have a JSON form of their own.
func (w *writer) known(m protoreflect.Message, shows func(string) bool) {
	switch m.Descriptor().FullName() {
	case "google.protobuf.Timestamp":
		fields := m.Descriptor().Fields()
		w.time(m.Get(fields.ByName("seconds")).Int(), m.Get(fields.ByName("nanos")).Int())
	case rawJSON:
		w.raw(m.Get(m.Descriptor().Fields().ByName("text")).String())
	default:
		w.message(m, shows)
	}
}

func (w *writer) time(seconds, nanos int64) {
	w.buffer.WriteByte('"')
	w.buffer.Write(time.Unix(seconds, nanos).UTC().AppendFormat(nil, timeLayout))
	w.buffer.WriteByte('"')
}

// raw writes JSON text as it is, so that no number loses digits.
func (w *writer) raw(text string) {
	switch {
	case text == "":
		w.buffer.WriteString("null")
	case !json.Valid([]byte(text)):
		w.fault(errors.New("encode stored JSON: it is not valid"))
	default:
		w.buffer.WriteString(text)
	}
}

func (w *writer) string(text string) {
	if err := w.text.Encode(text); err != nil {
		w.fault(fmt.Errorf("encode text: %w", err))
		return
	}
	w.buffer.Truncate(w.buffer.Len() - 1) // the encoder ends every value with a newline
}

func (w *writer) fault(err error) {
	if w.err == nil {
		w.err = err
	}
}
