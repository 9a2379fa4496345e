package otlp

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Span is one span that was received.
type Span struct {
	// Ids are lower-case hexadecimal. Parent is "" for a root.
	TraceID, ID, Parent string
	Name                string
	// Service is the service.name of who made it.
	Service    string
	Start, End time.Time
	// Attributes are strings, bools, int64s, float64s and []strings.
	Attributes map[string]any
	// Links are the ids of the spans that it is linked to, behind those of their traces: "<trace>/<span>".
	Links []string
	// Failed says that its status is an error, Status what it says.
	Failed bool
	Status string
}

// Receiver is a collector. It is safe for concurrent use.
type Receiver struct {
	t   testing.TB
	url string

	mu    sync.Mutex
	spans []Span
}

// Start starts a receiver that answers until the test has ended.
func Start(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", r.receive)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// URL is where it answers.
func (r *Receiver) URL() string { return r.url }

// Env has a process export its traces to the receiver, soon after they happen.
func (r *Receiver) Env() map[string]string {
	return map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": r.url, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none", "OTEL_BSP_SCHEDULE_DELAY": "50",
	}
}

// Spans are all that have come so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Trace are those of one trace, in the order in which they began.
func (r *Receiver) Trace(id string) []Span {
	spans := slices.DeleteFunc(r.Spans(), func(s Span) bool { return s.TraceID != id })
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}

func (r *Receiver) receive(w http.ResponseWriter, request *http.Request) {
	message, err := read(request)
	if err != nil {
		r.t.Errorf("receive traces: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	for _, resource := range message.GetResourceSpans() {
		service, _ := values(resource.GetResource().GetAttributes())["service.name"].(string)
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				r.spans = append(r.spans, spanOf(service, span))
			}
		}
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", request.Header.Get("Content-Type"))
	// An empty answer in either encoding: nothing was rejected.
	if isJSON(request) {
		_, _ = io.WriteString(w, "{}")
	}
}

func isJSON(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/json")
}

func read(r *http.Request) (*collector.ExportTraceServiceRequest, error) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
		body = unpacked
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	message := &collector.ExportTraceServiceRequest{}
	if !isJSON(r) {
		return message, proto.Unmarshal(text, message)
	}
	if text, err = ordinary(text); err != nil {
		return nil, err
	}
	return message, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, message)
}

// ordinary makes the usual JSON of a message: OTLP writes ids in hexadecimal.
func ordinary(text []byte) ([]byte, error) {
	var parsed any
	if err := json.Unmarshal(text, &parsed); err != nil {
		return nil, err
	}
	var walk func(any) error
	walk = func(v any) error {
		switch v := v.(type) {
		case []any:
			for _, one := range v {
				if err := walk(one); err != nil {
					return err
				}
			}
		case map[string]any:
			for name, one := range v {
				id, isText := one.(string)
				if isText && slices.Contains([]string{"traceId", "spanId", "parentSpanId"}, name) {
					bytes, err := hex.DecodeString(id)
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					v[name] = base64.StdEncoding.EncodeToString(bytes)
					continue
				}
				if err := walk(one); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(parsed); err != nil {
		return nil, err
	}
	return json.Marshal(parsed)
}

func spanOf(service string, s *traces.Span) Span {
	span := Span{
		TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Name: s.GetName(), Service: service, Attributes: values(s.GetAttributes()),
		Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Failed: s.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR, Status: s.GetStatus().GetMessage(),
	}
	for _, link := range s.GetLinks() {
		span.Links = append(span.Links, hex.EncodeToString(link.GetTraceId())+"/"+hex.EncodeToString(link.GetSpanId()))
	}
	return span
}

func values(attributes []*common.KeyValue) map[string]any {
	all := make(map[string]any, len(attributes))
	for _, a := range attributes {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			all[a.GetKey()] = v.StringValue
		case *common.AnyValue_BoolValue:
			all[a.GetKey()] = v.BoolValue
		case *common.AnyValue_IntValue:
			all[a.GetKey()] = v.IntValue
		case *common.AnyValue_DoubleValue:
			all[a.GetKey()] = v.DoubleValue
		case *common.AnyValue_ArrayValue:
			texts := []string{}
			for _, one := range v.ArrayValue.GetValues() {
				texts = append(texts, one.GetStringValue())
			}
			all[a.GetKey()] = texts
		}
	}
	return all
}
