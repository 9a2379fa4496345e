package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// CoreVersion is the version of Pulp's core whose REST API the gateway speaks. Pulp's clients switch features by it.
const CoreVersion = "3.117.0"

const (
	defaultRoot  = "/pulp/"
	aliasedRoot  = "pulp/" // below an alias
	defaultTTL   = 30 * time.Second
	defaultGrace = 8 * time.Second
	// defaultBodies is 32 of the largest bodies.
	defaultBodies = 32 * maxBody
	// maxBody is the largest request body: two JSON arguments of 1 MiB and a thousand resource names, with room to spare.
	maxBody = 4 << 20
	// writeWait is how long a request may take in all, from its head on: a minute to send the rest, requestWait for the answer, and a
	// minute to take it. An answer that nobody takes would be kept for ever.
	writeWait = 3 * time.Minute
	// pipeSize is the buffer of the in-process connection, in bytes.
	pipeSize = 256 << 10
)

// Config is what a gateway is told. The zero value works.
type Config struct {
	// APIRoot is the path below which api/v3/ is served. Empty means /pulp/.
	APIRoot string
	// Aliases are paths of Ansible Galaxy's servers: what its clients ask for is answered below them, and the whole API below
	// <alias>pulp/. Nil means /api/galaxy/ and /api/automation-hub/; empty means none.
	Aliases []string
	// Version is the binary's own version.
	Version string
	// Name is how the gateway is shown among the online API apps. Empty means <pid>@<host>, as in Pulp.
	Name string
	// TTL is how long the gateway may be silent before it is taken for missing. Zero means 30 seconds.
	TTL time.Duration
	// Grace bounds how long requests in flight may go on after the gateway was told to stop. Zero means 8 seconds.
	Grace time.Duration
	// AnyHost answers requests whatever name of this server they give. Only for an address that others than this machine can reach:
	// without it, names other than the machine's own are refused, which keeps web pages out that point theirs at it.
	AnyHost bool
	// RefuseWellKnown lets nobody in who has the password that `sluice dev` gives.
	RefuseWellKnown bool
	// Metrics answers /metrics. Nil: there is nothing there.
	Metrics http.Handler
	// Meter measures requests, and Tracer makes spans of those that are traced. Nil: nobody does.
	Meter  metric.Meter
	Tracer trace.Tracer
	// MaxBodies is how many bytes the bodies of the requests in flight may have together; what comes above it gets 429. A body of
	// unknown length counts as the longest. Zero means 128 MiB, which are some 400 MiB of memory while they are taken apart.
	MaxBodies int64
}

func (c Config) withDefaults() Config {
	if c.APIRoot == "" {
		c.APIRoot = defaultRoot
	}
	c.APIRoot = fold("/" + c.APIRoot + "/")
	if c.Aliases == nil {
		c.Aliases = []string{"/api/galaxy/", "/api/automation-hub/"}
	}
	c.Aliases = slices.Clone(c.Aliases)
	for i, alias := range c.Aliases {
		c.Aliases[i] = fold("/" + alias + "/")
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "localhost"
		}
		c.Name = fmt.Sprintf("%d@%s", os.Getpid(), host)
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.MaxBodies == 0 {
		c.MaxBodies = defaultBodies
	}
	return c
}

// hrefs are those below the API root, which may be read below the aliases too.
func (c Config) hrefs() hrefs {
	h := hrefs{root: c.APIRoot}
	for _, alias := range c.Aliases {
		h.roots = append(h.roots, alias+aliasedRoot)
	}
	return h
}

// Services are the connections to what does the work. They may all be the same.
type Services struct {
	Dispatcher grpc.ClientConnInterface
	Status     grpc.ClientConnInterface
	Heartbeat  grpc.ClientConnInterface
	// Scheduler is only asked to explain. Nil: nothing is explained.
	Scheduler grpc.ClientConnInterface
	// Access knows the users. Nil: everybody is taken for the administrator.
	Access grpc.ClientConnInterface
}

// Gateway is the REST face. Make one with New; end it with Run's context, or with Close if Run was never called.
type Gateway struct {
	config    Config
	log       *slog.Logger
	hrefs     hrefs
	routes    *routes
	document  *document
	callers   *callers
	observer  *observer
	mux       *runtime.ServeMux
	heartbeat heartbeatv1.HeartbeatServiceClient
	status    statusv1.StatusServiceClient

	// leaving ends when the gateway is told to stop: what would wait or stream on must end then.
	leaving context.Context
	leave   context.CancelFunc

	// bodies counts the bytes of the bodies in flight.
	bodies atomic.Int64

	// origins tells requests that a page of another site makes a browser send. With them come the password that the browser knows,
	// and a purge needs not even a body.
	origins http.CrossOriginProtection

	inner *rpc.Server
	conn  *grpc.ClientConn
	done  chan struct{} // closed when inner has stopped serving
}

// New makes a gateway that is ready to answer through Handler.
func New(config Config, services Services, log *slog.Logger) (*Gateway, error) {
	if services.Dispatcher == nil || services.Status == nil || services.Heartbeat == nil {
		return nil, errors.New("make a gateway: it needs connections to the dispatcher, the status and the heartbeat service")
	}
	config = config.withDefaults()
	routes, err := readRoutes(routesYAML)
	if err != nil {
		return nil, err
	}
	document, err := newDocument(config.Version)
	if err != nil {
		return nil, err
	}
	observer, err := newObserver(config.Meter, config.Tracer)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		config:    config,
		log:       log,
		hrefs:     config.hrefs(),
		routes:    routes,
		document:  document,
		callers:   newCallers(services.Access, config.RefuseWellKnown, log),
		heartbeat: heartbeatv1.NewHeartbeatServiceClient(services.Heartbeat),
		status:    statusv1.NewStatusServiceClient(services.Status),
		observer:  observer,
		inner:     rpc.NewServer(log, observer.inner()...),
		done:      make(chan struct{}),
	}
	g.leaving, g.leave = context.WithCancel(context.Background()) //nolint:forbidigo // it is the gateway's own life
	g.byHand()
	g.downloads()
	pulpv3.RegisterTasksServiceServer(g.inner, &tasks{
		dispatcher: dispatcherv1.NewDispatcherServiceClient(services.Dispatcher),
		status:     g.status,
		scheduler:  schedulerOf(services.Scheduler),
		access:     g.callers.access,
		hrefs:      g.hrefs,
	})
	pulpv3.RegisterTaskGroupsServiceServer(g.inner, &groups{
		dispatcher: dispatcherv1.NewDispatcherServiceClient(services.Dispatcher),
		status:     g.status,
		hrefs:      g.hrefs,
	})
	pulpv3.RegisterTaskSchedulesServiceServer(g.inner, &schedules{
		dispatcher: dispatcherv1.NewDispatcherServiceClient(services.Dispatcher),
		access:     g.callers.access,
		hrefs:      g.hrefs,
	})
	pulpv3.RegisterSystemServiceServer(g.inner, &system{
		status:    g.status,
		heartbeat: g.heartbeat,
		hrefs:     g.hrefs,
		version:   config.Version,
		log:       log,
	})

	// grpc-gateway could call the two services directly, but then no interceptor would see the calls.
	pipe := bufconn.Listen(pipeSize)
	g.conn, err = rpc.Dial("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		// The connections behind it repeat calls already; repeating the repetition would keep a client waiting for nothing.
		grpc.WithDisableRetry(),
		// A page of large results takes several messages from the status service, and is one here. It never leaves the process.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, err
	}
	g.mux = g.newMux()
	unused := context.Background() //nolint:forbidigo // the generated code asks for one, and each request has its own
	err = errors.Join(
		pulpv3.RegisterTasksServiceHandler(unused, g.mux, g.conn),
		pulpv3.RegisterTaskGroupsServiceHandler(unused, g.mux, g.conn),
		pulpv3.RegisterTaskSchedulesServiceHandler(unused, g.mux, g.conn),
		pulpv3.RegisterSystemServiceHandler(unused, g.mux, g.conn),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("register REST routes: %w", err), g.conn.Close())
	}
	go func() {
		defer close(g.done)
		if err := g.inner.Serve(pipe); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			log.Error("the in-process server of the gateway ended", slog.Any("error", err))
		}
	}()
	return g, nil
}

// newMux sets grpc-gateway up so that nothing of a request reaches the services but what the protos name, the correlation
// id and the trace context.
func (g *Gateway) newMux() *runtime.ServeMux {
	none := func(string) (string, bool) { return "", false }
	return runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, codec{}),
		runtime.WithErrorHandler(g.fail),
		runtime.WithForwardResponseOption(respond),
		runtime.WithForwardResponseRewriter(g.shape),
		runtime.WithMetadata(outgoing),
		runtime.WithIncomingHeaderMatcher(none),
		runtime.WithOutgoingHeaderMatcher(none),
		runtime.WithOutgoingTrailerMatcher(none),
		// Both let a POST act as something else than a POST.
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
}

// Ready returns nil when the status service answers, or what is wrong.
func (g *Gateway) Ready(ctx context.Context) error {
	if _, err := g.status.GetSystemStatus(ctx, &statusv1.GetSystemStatusRequest{}); err != nil {
		return fmt.Errorf("ask the status service: %w", err)
	}
	return nil
}

// Run answers requests on the listener, and keeps the gateway registered, until ctx is canceled. Then requests in flight
// may end within the configured grace. It closes the listener and the gateway.
func (g *Gateway) Run(ctx context.Context, listener net.Listener) error {
	defer g.Close()
	server := &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // 4 MiB over a slow line; nobody may hold a connection by sending a byte at a time
		WriteTimeout:      writeWait,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	beats, stopBeats := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeats()
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		g.beat(beats)
	}()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	var result error
	select {
	case err := <-served:
		result = fmt.Errorf("serve REST on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
		g.leave()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.config.Grace)
		if err := server.Shutdown(grace); err != nil {
			g.log.WarnContext(ctx, "requests were cut off: they took longer than the grace", slog.Duration("grace", g.config.Grace))
			_ = server.Close() // only ends what Shutdown left; its error adds nothing
		}
		cancel()
		<-served
	}
	stopBeats()
	<-beating
	return result
}

// Close ends what New began. It is safe to call more than once.
func (g *Gateway) Close() {
	g.leave()
	_ = g.conn.Close() // fails only when it is closed already
	g.inner.Server.Stop()
	<-g.done
}
