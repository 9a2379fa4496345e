package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// refusal is an answer that is not what was asked for, in the shapes of Django REST framework.
type refusal struct {
	status int
	// body is what is written as JSON; nil writes nothing.
	body any
	// retryAfter is sent as a header when it is set.
	retryAfter time.Duration
	// challenge says how to identify oneself; it is sent as a header when it is set.
	challenge string
}

func (r *refusal) Error() string {
	text, err := marshalJSON(r.body)
	if err != nil {
		return http.StatusText(r.status)
	}
	return string(text)
}

// detail is the shape of everything that is not about a field.
func detail(code int, text string) *refusal {
	return &refusal{status: code, body: map[string]string{"detail": text}}
}

// fieldErrors is the shape of a 400: by field either a list of messages, or, for a list or a map, messages by item, or, for an
// object, the same for each of its fields.
type fieldErrors map[string]any

// add puts a message under a field.
func (f fieldErrors) add(field, message string) {
	messages, _ := f[field].([]string)
	f[field] = append(messages, message)
}

// addItem puts a message under an item of a field. A field that already has messages of its own keeps those.
func (f fieldErrors) addItem(field, item, message string) {
	items, ok := f[field].(map[string][]string)
	if !ok {
		if f[field] != nil {
			return
		}
		items = map[string][]string{}
		f[field] = items
	}
	items[item] = append(items[item], message)
}

// listErrors is the shape of what is wrong in a list of objects: a list in which those without mistakes are empty.
type listErrors map[int]fieldErrors

// MarshalJSON writes the list as far as its last mistake.
func (l listErrors) MarshalJSON() ([]byte, error) {
	last := -1
	for i := range l {
		last = max(last, i)
	}
	list := make([]fieldErrors, last+1)
	for i := range list {
		if list[i] = l[i]; list[i] == nil {
			list[i] = fieldErrors{}
		}
	}
	return marshalJSON(list)
}

// at puts what is wrong with an object in a list under its place. A field that already has messages of its own keeps those.
func (f fieldErrors) at(field string, place int, inner fieldErrors) {
	items, ok := f[field].(listErrors)
	if !ok {
		if f[field] != nil {
			return
		}
		items = listErrors{}
		f[field] = items
	}
	items[place] = inner
}

// byField arranges the violations of a request. Their fields have REST's names already.
func byField(violations []errs.Violation) fieldErrors {
	// Messages about a field as a whole win over those about what is in it, so they go first.
	violations = slices.Clone(violations)
	slices.SortStableFunc(violations, func(a, b errs.Violation) int { return depth(a.Field) - depth(b.Field) })
	fields := fieldErrors{}
	for _, v := range violations {
		fields.put(v.Field, v.Rule)
	}
	return fields
}

// put follows a path: retry.on[0] is the message about item 0 in the field on of the object retry, tasks[1].name that about the name of
// the second object in the list tasks.
func (f fieldErrors) put(path, message string) {
	at := strings.IndexAny(path, ".[")
	switch {
	case at < 0:
		f.add(path, message)
	case path[at] == '[' && strings.Contains(path, "]."):
		end := strings.Index(path, "].")
		place, err := strconv.Atoi(path[at+1 : end])
		if err != nil || place < 0 || place > limits.MaxBatch {
			f.add(path[:at], message)
			return
		}
		inner := fieldErrors{}
		if items, ok := f[path[:at]].(listErrors); ok && items[place] != nil {
			inner = items[place]
		}
		inner.put(path[end+2:], message)
		f.at(path[:at], place, inner)
	case path[at] == '[':
		f.addItem(path[:at], strings.Trim(path[at+1:], `"]`), message)
	default:
		inner, ok := f[path[:at]].(fieldErrors)
		if !ok {
			if f[path[:at]] != nil {
				return
			}
			inner = fieldErrors{}
			f[path[:at]] = inner
		}
		inner.put(path[at+1:], message)
	}
}

// depth tells a field (0) from one inside an object (1) and from an item of a list or a map (2).
func depth(path string) int {
	switch {
	case strings.Contains(path, "["):
		return 2
	case strings.Contains(path, "."):
		return 1
	default:
		return 0
	}
}

// sentence makes of a rule ("must not be blank") what REST clients show as it is ("Must not be blank.").
func sentence(rule string) string {
	first, size := utf8.DecodeRuneInString(rule)
	if size == 0 {
		return rule
	}
	text := string(unicode.ToUpper(first)) + rule[size:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// write sends the refusal.
func (r *refusal) write(w http.ResponseWriter) error {
	if r.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retryAfter.Seconds()))))
	}
	if r.challenge != "" {
		w.Header().Set("WWW-Authenticate", r.challenge)
	}
	if r.body == nil {
		w.Header().Del("Content-Type")
		w.WriteHeader(r.status)
		return nil
	}
	return writeJSON(w, r.status, r.body)
}

func writeJSON(w http.ResponseWriter, code int, body any) error {
	text, err := marshalJSON(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, err = w.Write(text)
	return err
}

// fail answers a request whose call failed. It has the signature that grpc-gateway asks for.
func (g *Gateway) fail(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	// The generated code flattens what the decoder says to text; the body kept it whole.
	if body, ok := r.Body.(*body); ok && body.refused != nil {
		g.refuse(ctx, w, body.refused)
		return
	}
	g.refuse(ctx, w, g.refusalOf(ctx, r.Method, err))
}

func (g *Gateway) refuse(ctx context.Context, w http.ResponseWriter, answer *refusal) {
	if err := answer.write(w); err != nil {
		g.log.DebugContext(ctx, "the client was gone before its answer", slog.Any("error", err))
	}
}

// refusalOf finds the answer for an error of a call.
func (g *Gateway) refusalOf(ctx context.Context, method string, err error) *refusal {
	var own *errs.Error
	if !errors.As(errs.From(err), &own) {
		st := status.Convert(err)
		own = &errs.Error{Code: st.Code(), Message: st.Message()}
		var malformed *runtime.HTTPStatusError
		if errors.As(err, &malformed) {
			own.Code = codes.InvalidArgument
		}
	}
	switch own.Code {
	case codes.InvalidArgument, codes.OutOfRange:
		if len(own.Violations) > 0 {
			return &refusal{status: http.StatusBadRequest, body: byField(own.Violations)}
		}
		return detail(http.StatusBadRequest, sentence(own.Message))
	case codes.NotFound:
		return detail(http.StatusNotFound, own.Message)
	case codes.FailedPrecondition, codes.AlreadyExists, codes.Aborted:
		if method == http.MethodDelete {
			return &refusal{status: http.StatusConflict} // as Pulp: no body
		}
		return detail(http.StatusConflict, sentence(own.Message))
	case codes.Unauthenticated:
		return detail(http.StatusUnauthorized, "Authentication credentials were not provided.")
	case codes.PermissionDenied:
		return detail(http.StatusForbidden, "You do not have permission to perform this action.")
	case codes.Unavailable:
		text := sentence(own.Message)
		if own.Reason == "" {
			// gRPC's own text names addresses; it is for the log.
			g.log.WarnContext(ctx, "a service is unavailable", slog.String("error", own.Message))
			text = "Temporarily unavailable."
		}
		return later(http.StatusServiceUnavailable, text, own.RetryAfter)
	case codes.ResourceExhausted:
		if own.Reason == errs.TooBroad {
			return detail(http.StatusBadRequest, sentence(own.Message)) // coming again would not help
		}
		return later(http.StatusTooManyRequests, sentence(own.Message), own.RetryAfter)
	case codes.DeadlineExceeded:
		return detail(http.StatusGatewayTimeout, "The request took too long.")
	case codes.Canceled:
		return detail(statusClientGone, "The client closed the request.")
	case codes.Unimplemented:
		return detail(http.StatusNotImplemented, "Not implemented.")
	case codes.OK, codes.Unknown, codes.Internal, codes.DataLoss:
	}
	if own.Reason == errs.Internal {
		return detail(http.StatusInternalServerError, own.Message) // "internal error (ref ...)"
	}
	return g.internal(ctx, err)
}

// statusClientGone is for the log alone: nobody is left to read it.
const statusClientGone = 499

func later(code int, text string, after time.Duration) *refusal {
	answer := detail(code, text)
	answer.retryAfter = max(after, time.Second)
	return answer
}

// internal logs an error that the client may not see, and tells both of them the same reference.
func (g *Gateway) internal(ctx context.Context, err error) *refusal {
	wire, ref := errs.Wire(err)
	if ref == "" {
		wire, ref = errs.Wire(errors.New(err.Error()))
	}
	g.log.ErrorContext(ctx, "internal error", slog.String("ref", ref), slog.Any("error", err))
	return detail(http.StatusInternalServerError, status.Convert(wire).Message())
}

// renamed turns violations of a native request into those of the REST request. Names that REST does not have are kept.
func renamed(err error, names map[string]string) error {
	var own *errs.Error
	if !errors.As(errs.From(err), &own) || len(own.Violations) == 0 {
		return err
	}
	violations := slices.Clone(own.Violations)
	for i, v := range violations {
		path, list := strings.TrimPrefix(v.Field, "task."), ""
		if end := strings.Index(path, "]."); end >= 0 && strings.HasPrefix(path, "tasks[") {
			list, path = path[:end+2], path[end+2:]
		}
		field, rest := path, ""
		if at := strings.Index(path, "["); at >= 0 {
			field, rest = path[:at], path[at:]
		}
		if name, known := names[field]; known {
			field = name
		}
		violations[i] = errs.Violation{Field: list + field + rest, Rule: sentence(v.Rule)}
	}
	return errs.Invalid(violations...)
}
