package gateway

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

const (
	headerCorrelation = "Correlation-ID"
	headerTraceparent = "Traceparent"
	headerTracestate  = "Tracestate"
	headerDiagnostics = "X-Task-Diagnostics"
	headerIdempotency = "Idempotency-Key"
	headerCount       = "Sluice-Count"

	// What the methods of pulp.v3 are told of a request. The trace context also goes on to the dispatcher.
	metaCorrelation = "correlation-id"
	metaTraceparent = "traceparent"
	metaTracestate  = "tracestate"
	metaDiagnostics = "task-diagnostics"
	metaIdempotency = "idempotency-key"
	metaCaller      = "caller-id"
	metaRoot        = "api-root-bin" // may have letters that are not ASCII, which only binary metadata can
	metaOrigin      = "origin"       // scheme and host, as the client knows them

	// What they tell of an answer, by being there: the count is an estimate, there are more.
	metaEstimated = "sluice-estimated"
	metaMore      = "sluice-more"

	// maxTracestate is what W3C wants to be passed on at least, in bytes.
	maxTracestate = 512
	// maxCorrelation keeps the many spellings of a UUID from growing without end, in bytes.
	maxCorrelation = 64
)

// request is what of a REST request is needed besides its message.
type request struct {
	cid         string
	caller      caller
	idempotency string
	traceparent string
	tracestate  string
	diagnostics string
	url         *url.URL // without the query
	query       url.Values
	vars        map[string]string // what stands in the path for {...}
	root        string            // the API root by which it came
	version     string            // of the API, for example v3
}

type requestKey struct{}

func withRequest(ctx context.Context, r *request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

func requestFrom(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{url: &url.URL{}}
}

// traceparentForm is a W3C trace context of any version. Another value must be ignored as if it had not been sent.
var traceparentForm = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]*)?$`)

// outgoing makes the gRPC metadata of a call.
func outgoing(ctx context.Context, _ *http.Request) metadata.MD {
	r := requestFrom(ctx)
	md := metadata.Pairs(metaCorrelation, r.cid, metaRoot, r.root, metaCaller, strconv.FormatInt(r.caller.id, 10))
	if origin := r.url.Scheme + "://" + r.url.Host; printable(origin) {
		md.Set(metaOrigin, origin)
	}
	if r.idempotency != "" {
		md.Set(metaIdempotency, r.idempotency)
	}
	if r.traceparent != "" {
		md.Set(metaTraceparent, r.traceparent)
	}
	if r.tracestate != "" {
		md.Set(metaTracestate, r.tracestate)
	}
	if r.diagnostics != "" && printable(r.diagnostics) {
		md.Set(metaDiagnostics, r.diagnostics)
	}
	return md
}

// printable reports whether gRPC can carry the text in metadata.
func printable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// correlationID keeps what the client sent, byte for byte, if it is a UUID in any spelling that Pulp takes; otherwise it
// makes a new one, in the spelling of Pulp's own.
func correlationID(sent string) string {
	bare := strings.ToLower(sent)
	bare = strings.TrimPrefix(strings.TrimPrefix(bare, "urn:"), "uuid:")
	if open, isOpen := strings.CutPrefix(bare, "{"); isOpen && strings.HasSuffix(open, "}") {
		bare = strings.TrimSuffix(open, "}")
	}
	bare = strings.ReplaceAll(bare, "-", "")
	if len(sent) <= maxCorrelation && len(bare) == 32 && strings.Trim(bare, "0123456789abcdef") == "" {
		return sent
	}
	// In the order of time, so that the index on it grows at its end.
	return strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
}

// shows tells which fields the client wants; nil is all of them.
func (r *request) shows() func(string) bool {
	return chosen(r.query["fields"], r.query["exclude_fields"], r.query.Get("minimal"))
}

// chosen tells which fields the three parameters leave; nil is all of them.
func chosen(fields, excluded []string, less string) func(string) bool {
	only, without := names(fields), names(excluded)
	minimal, err := truth(less)
	if err != nil {
		minimal = false // as Pulp: what is no truth is none
	}
	if len(only) == 0 && len(without) == 0 && !minimal {
		return nil
	}
	return func(field string) bool {
		if minimal && minimalFields.ByName(protoreflect.Name(field)) == nil {
			return false
		}
		return (len(only) == 0 || only[field]) && !without[field]
	}
}

var minimalFields = (&pulpv3.MinimalTask{}).ProtoReflect().Descriptor().Fields()

// names splits lists that are given several times, separated by commas, or both.
func names(lists []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range split(strings.Join(lists, ",")) {
		set[name] = true
	}
	return set
}

// split cuts a list at its commas. Empty parts don't count: Pulp's command line sends empty filters for those not given.
func split(list string) []string {
	var parts []string
	for part := range strings.SplitSeq(list, ",") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
