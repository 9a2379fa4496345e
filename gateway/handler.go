package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

const (
	pathLivez   = "/api/v3/livez"
	pathIndex   = "/api/v3"
	pathMetrics = "/metrics"

	// answerPatience is how long a client may take for an answer that had no deadline before it was there.
	answerPatience = time.Minute
	// nextVersion of the API has a status and a document so far.
	nextVersion = "v4"
	// requestWait bounds what is answered by the services, in all. Immediate tasks and large lists take some seconds. It is shorter than
	// the time for reading a request: when that passes, net/http takes the client for gone.
	requestWait = 50 * time.Second
)

// Handler answers every path of the REST address. It never redirects: Pulp's clients follow no redirect at all.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.serve) }

// serve is around everything: correlation id, spans and measurements, access log, panics.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	cid := correlationID(r.Header.Get(headerCorrelation))
	w.Header().Set(headerCorrelation, cid)
	w.Header().Set("X-Content-Type-Options", "nosniff") // much of what is answered is what somebody sent
	out := &recorder{ResponseWriter: w}
	r, span := g.observer.begin(r)
	defer func() {
		took := time.Since(start)
		g.logAccess(r, out, cid, took)
		g.observer.end(r, span, out, cid, took)
	}()
	defer func() {
		if p := recover(); p != nil {
			g.panicked(r.Context(), out, p)
		}
	}()
	g.route(out, r, cid)
}

func (g *Gateway) panicked(ctx context.Context, w *recorder, p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // somebody wants the connection broken, and no noise
	}
	answer := g.internal(ctx, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	if w.status == 0 {
		g.refuse(ctx, w, answer)
		return
	}
	// The head of the answer is gone already. Only a broken connection tells the client that the rest is missing.
	panic(http.ErrAbortHandler)
}

func (g *Gateway) logAccess(r *http.Request, w *recorder, cid string, took time.Duration) {
	level := slog.LevelInfo
	if r.URL.Path == pathMetrics || strings.HasSuffix(strings.TrimSuffix(r.URL.Path, "/"), pathLivez) {
		level = slog.LevelDebug // asked every few seconds, by machines
	}
	g.log.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.Int("status", w.code()),
		slog.Int64("bytes", w.bytes),
		slog.Duration("duration", took),
		slog.String("correlation_id", cid),
	)
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	route  string // which answered; empty for none
}

func (w *recorder) WriteHeader(code int) {
	if w.status == 0 && code >= http.StatusOK {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// route finds who answers. A slash at the end makes no difference, nor do doubled or escaped ones.
func (g *Gateway) route(w http.ResponseWriter, r *http.Request, cid string) {
	if !g.config.AnyHost && !hostAllowed(r.Host) {
		g.refuse(r.Context(), w, detail(http.StatusBadRequest, "Invalid host header: this address answers for the machine itself only."))
		return
	}
	if err := g.origins.Check(r); err != nil {
		g.refuse(r.Context(), w, detail(http.StatusForbidden, "Pages of other sites may not change anything here."))
		return
	}
	// Invalid UTF-8 could not travel as protobuf text.
	path := fold(strings.ToValidUTF8(r.URL.Path, "\uFFFD"))
	switch {
	case path == "/":
		called(w, routeWelcome)
		g.page(w, r, g.welcome())
		return
	case path == pathMetrics && g.config.Metrics != nil:
		called(w, pathMetrics)
		g.config.Metrics.ServeHTTP(w, r)
		return
	}
	for _, alias := range g.config.Aliases {
		below, found := strings.CutPrefix(path, alias)
		if !found {
			continue
		}
		if below, found := strings.CutPrefix(below, aliasedRoot); found {
			g.api(w, r, alias+aliasedRoot, below, cid)
			return
		}
		if g.galaxy(w, r, "/"+strings.TrimSuffix(below, "/"), cid) {
			called(w, routeGalaxy)
			return
		}
	}
	if below, found := strings.CutPrefix(path, g.config.APIRoot); found {
		g.api(w, r, g.config.APIRoot, below, cid)
		return
	}
	g.refuse(r.Context(), w, notFound())
}

// api answers for a path below a root.
func (g *Gateway) api(w http.ResponseWriter, r *http.Request, root, below, cid string) {
	path := "/" + strings.TrimSuffix(below, "/")
	at := &request{cid: cid, root: root, version: apiVersion, url: absolute(r, root+path[1:]+"/")}
	if rest, found := strings.CutPrefix(path, "/api/v"); found {
		number, rest, _ := strings.Cut(rest, "/")
		switch {
		case number == apiVersion[1:]:
		case number == "" || strings.Trim(number, "0123456789") != "":
		case number != nextVersion[1:]:
			g.refuse(r.Context(), w, detail(http.StatusNotFound, "Invalid version in URL path."))
			return
		case rest == "status" || rest == "docs" || strings.HasPrefix(rest, "docs/"):
			// All there is of the next version; it differs by what is in it.
			at.version, path = nextVersion, "/api/"+apiVersion+"/"+rest
		}
	}
	switch path {
	case pathLivez:
		called(w, pathLivez)
		g.page(w, r, nil)
	case pathIndex:
		called(w, pathIndex)
		if _, refused := g.callers.identify(r, path); refused != nil {
			g.refuse(r.Context(), w, refused)
			return
		}
		g.page(w, r, g.index(root))
	default:
		if g.docs(w, r, at, path) {
			called(w, routeDocs)
			return
		}
		g.call(w, r, path, at)
	}
}

// hostAllowed keeps out web pages that point a name of their own at the loopback address: their requests come from a browser
// on this machine, and only the name gives them away. Without a name it is no browser.
func hostAllowed(host string) bool {
	name := host
	if bare, _, err := net.SplitHostPort(host); err == nil {
		name = bare
	}
	name = strings.Trim(name, "[]")
	ip := net.ParseIP(name)
	return name == "" || strings.EqualFold(name, "localhost") || ip != nil && ip.IsLoopback()
}

func notFound() *refusal { return detail(http.StatusNotFound, "Not found.") }

func notAllowed(w http.ResponseWriter, method, allow string) *refusal {
	w.Header().Set("Allow", allow)
	return detail(http.StatusMethodNotAllowed, fmt.Sprintf("Method %q not allowed.", method))
}

// page answers with a fixed body; nil is an empty one.
func (g *Gateway) page(w http.ResponseWriter, r *http.Request, content any) {
	const allow = "GET, HEAD, OPTIONS"
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		g.refuse(r.Context(), w, &refusal{status: http.StatusOK, body: content})
	case http.MethodOptions:
		w.Header().Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
	default:
		g.refuse(r.Context(), w, notAllowed(w, r.Method, allow))
	}
}

// welcome is for a person who opens the address in a browser.
func (g *Gateway) welcome() any {
	return map[string]string{
		"name":    "sluice",
		"version": g.config.Version,
		"rest":    g.hrefs.base(),
		"status":  g.hrefs.base() + "status/",
		"docs":    g.hrefs.base() + "docs/",
	}
}

// index lists what can be read without knowing an id.
func (g *Gateway) index(root string) any {
	at := hrefs{root: root}
	shown := map[string]string{}
	for _, route := range g.routes.table {
		name := route.segments[len(route.segments)-1]
		if operation, readable := route.operations[http.MethodGet]; readable && (operation.page() || name == "status") {
			shown[name] = at.base() + name + "/"
		}
	}
	return shown
}

// call gives the request to grpc-gateway, stripped of everything that the services need not know.
func (g *Gateway) call(w http.ResponseWriter, r *http.Request, path string, at *request) {
	ctx := r.Context()
	route := g.routes.find(path)
	if route == nil {
		g.refuse(ctx, w, notFound())
		return
	}
	called(w, route.template())
	// Before anything else about the request is looked at, or told.
	caller, refused := g.callers.identify(r, path)
	if refused != nil {
		g.refuse(ctx, w, refused)
		return
	}
	method := r.Method
	if method == http.MethodOptions {
		w.Header().Set("Allow", route.allow())
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	operation, found := route.operations[method]
	if !found {
		g.refuse(ctx, w, notAllowed(w, r.Method, route.allow()))
		return
	}
	query, refused := operation.query(r.URL)
	if refused == nil && method == http.MethodPost {
		refused = checkIdempotency(r)
	}
	if refused == nil && takesBody(method) {
		if refused = checkContentType(r); refused == nil {
			size := bodySize(r)
			defer g.bodies.Add(-size)
			if g.bodies.Add(size) > g.config.MaxBodies {
				refused = later(http.StatusTooManyRequests, "Too many requests at the same time.", 0)
			}
		}
	}
	if refused != nil {
		g.refuse(ctx, w, refused)
		return
	}

	at.caller, at.query, at.vars = caller, query, route.vars(path)
	at.idempotency = r.Header.Get(headerIdempotency)
	at.traceparent, at.tracestate = traced(r)
	at.diagnostics = r.Header.Get(headerDiagnostics)
	if operation.hand != nil {
		// Reading ends the request's context when it takes too long, also when there is nothing left to read: streams last longer.
		control := http.NewResponseController(w)
		_ = errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})) // only a recorder in a test has none
		operation.hand(w, r.WithContext(withRequest(ctx, at)))
		return
	}
	ctx, cancel := context.WithTimeout(withRequest(ctx, at), requestWait)
	defer cancel()
	inner := r.WithContext(ctx)
	inner.Method = method
	inner.URL = &url.URL{Path: path, RawQuery: query.Encode()}
	inner.Header = http.Header{"Content-Type": {contentType}}
	inner.Body = http.NoBody
	if takesBody(method) {
		inner.Body = &body{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody)}
	}
	g.mux.ServeHTTP(w, inner)
}

// bodySize is how many bytes a body may have.
func bodySize(r *http.Request) int64 {
	if r.ContentLength < 0 || r.ContentLength > maxBody {
		return maxBody
	}
	return r.ContentLength
}

func takesBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// checkIdempotency refuses a key that could not be kept.
func checkIdempotency(r *http.Request) *refusal {
	keys := r.Header.Values(headerIdempotency)
	if len(keys) == 0 {
		return nil
	}
	if key := keys[0]; len(keys) > 1 || key == "" || len(key) > limits.MaxRequestID || !printable(key) {
		return &refusal{status: http.StatusBadRequest, body: fieldErrors{
			headerIdempotency: []string{fmt.Sprintf("Must be 1 to %d printable ASCII characters.", limits.MaxRequestID)},
		}}
	}
	return nil
}

func checkContentType(r *http.Request) *refusal {
	if r.ContentLength == 0 {
		return nil
	}
	given := r.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(given); err == nil && media == contentType {
		return nil
	}
	return detail(http.StatusUnsupportedMediaType, fmt.Sprintf("Unsupported media type %q in request.", given))
}

// query keeps the parameters that the operation has. Of one that is given several times the last counts, unless it is a
// list, as in Django. A page refuses the others, so that a misspelt filter does not return everything; and what can't be taken apart,
// of which url.URL.Query leaves out what it does not understand.
func (o operation) query(asked *url.URL) (url.Values, *refusal) {
	given, err := url.ParseQuery(asked.RawQuery)
	if err != nil {
		return nil, detail(http.StatusBadRequest, "Malformed query: "+strings.ToValidUTF8(err.Error(), "\uFFFD")+".")
	}
	known, unknown := url.Values{}, []string{}
	for name, values := range given {
		var field protoreflect.FieldDescriptor
		if o.input != nil {
			field = o.input.Fields().ByTextName(name)
		}
		switch {
		case field == nil && o.list && (name == "format" || name == "page_size"):
			// Pulp takes these on every list, and there is but one format. What they would do is not worth an error.
		case field == nil && slices.Contains(o.also, name):
			known.Set(name, strings.ToValidUTF8(values[len(values)-1], "\uFFFD"))
		case field == nil:
			unknown = append(unknown, fmt.Sprintf("Invalid Filter: '%s'", strings.ToValidUTF8(name, "\uFFFD")))
		case field.IsList():
			for _, value := range values {
				known.Add(name, strings.ToValidUTF8(value, "\uFFFD"))
			}
		case name == "ordering" || strings.HasSuffix(name, "__in"):
			// Lists that are separated by commas; generated clients repeat the parameter instead.
			known.Set(name, strings.ToValidUTF8(strings.Join(values, ","), "\uFFFD"))
		default:
			known.Set(name, strings.ToValidUTF8(values[len(values)-1], "\uFFFD"))
		}
	}
	if o.list && len(unknown) > 0 {
		slices.Sort(unknown)
		return nil, &refusal{status: http.StatusBadRequest, body: map[string][]string{"errors": unknown}}
	}
	return known, nil
}

// absolute is the URL of a path as the client sees this server.
func absolute(r *http.Request, path string) *url.URL {
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: r.Host, Path: path}
}

// respond gives an answer the status that Pulp's clients expect. It has the signature that grpc-gateway asks for.
func respond(ctx context.Context, w http.ResponseWriter, response proto.Message) error {
	code := http.StatusOK
	switch response := response.ProtoReflect().Interface().(type) {
	case *pulpv3.ListTasksResponse:
		w.Header().Set(headerCount, "exact")
		if told(ctx, metaEstimated) {
			w.Header().Set(headerCount, "estimated")
		}
	case *pulpv3.CreateTaskResponse:
		w.Header().Set("Location", response.GetTask())
		code = http.StatusAccepted
	case *pulpv3.PurgeTasksResponse:
		w.Header().Set("Location", response.GetTask())
		code = http.StatusAccepted
	case *pulpv3.CreateTasksResponse:
		code = http.StatusAccepted
	case *pulpv3.CreateTaskGroupResponse:
		w.Header().Set("Location", response.GetTaskGroup().GetPulpHref())
		code = http.StatusCreated
	case *pulpv3.CreateTaskScheduleResponse:
		w.Header().Set("Location", response.GetTaskSchedule().GetPulpHref())
		code = http.StatusCreated
	case *pulpv3.AddTaskRoleResponse, *pulpv3.RemoveTaskRoleResponse, *pulpv3.AddTaskScheduleRoleResponse, *pulpv3.RemoveTaskScheduleRoleResponse:
		code = http.StatusCreated
	case *pulpv3.CancelTaskResponse:
		if response.GetConflict() {
			code = http.StatusConflict
		}
	case *pulpv3.CancelTaskGroupResponse:
		if response.GetConflict() {
			code = http.StatusConflict
		}
	case *pulpv3.DeleteTaskResponse, *pulpv3.DeleteTaskScheduleResponse:
		w.Header().Del("Content-Type")
		code = http.StatusNoContent
	}
	if code != http.StatusOK {
		w.WriteHeader(code)
	}
	return nil
}

// told reports whether a method said something about its answer that is not in its message.
func told(ctx context.Context, key string) bool {
	md, _ := runtime.ServerMetadataFromContext(ctx)
	return len(md.HeaderMD.Get(key)) > 0
}

// shape gives a page its links, and leaves out the fields that the client did not want. It has the signature that
// grpc-gateway asks for.
func (g *Gateway) shape(ctx context.Context, response proto.Message) (any, error) {
	if wrapper, ok := response.(interface{ XXX_ResponseBody() any }); ok {
		inside, ok := wrapper.XXX_ResponseBody().(proto.Message)
		if !ok {
			return nil, fmt.Errorf("shape the answer: %T holds no message", response)
		}
		response = inside
	}
	request := requestFrom(ctx)
	shown := view{message: response, shows: request.shows()}
	switch page := response.(type) {
	case *pulpv3.DeleteTaskResponse, *pulpv3.DeleteTaskScheduleResponse:
		return page, nil
	case *pulpv3.ListTasksResponse:
		// Of tasks the count may be an estimate.
		page.Next, page.Previous = request.links(told(ctx, metaMore))
	case *pulpv3.ListTaskGroupsResponse:
		page.Next, page.Previous = request.links(request.before(page.GetCount()))
	case *pulpv3.ListTaskSchedulesResponse:
		page.Next, page.Previous = request.links(request.before(page.GetCount()))
	case *pulpv3.ListWorkersResponse:
		page.Next, page.Previous = request.links(request.before(page.GetCount()))
	case *pulpv3.ReadStatusResponse:
		if request.version != apiVersion {
			shown.more = map[string]any{"pulp_api_version": request.version, "supported_pulp_api_versions": []string{apiVersion, nextVersion}}
		}
	}
	return shown, nil
}
