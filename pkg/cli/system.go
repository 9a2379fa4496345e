package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/telemetry"
	"github.com/sluice-tasks/sluice/pkg/worker"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
	"github.com/sluice-tasks/sluice/services/access"
	"github.com/sluice-tasks/sluice/services/dispatcher"
	"github.com/sluice-tasks/sluice/services/executor"
	"github.com/sluice-tasks/sluice/services/heartbeat"
	"github.com/sluice-tasks/sluice/services/scheduler"
	"github.com/sluice-tasks/sluice/services/status"
)

// stopGrace bounds how long a part that only finishes calls in flight may take to stop.
const stopGrace = 10 * time.Second

// system is one process of Sluice while it is put together: what it has opened, what it answers, what it runs. `sluice dev`
// adds every service to one system, a role adds one; the code of a service can't tell the difference.
type system struct {
	log    *slog.Logger
	ladder *run.Ladder
	// server answers gRPC for all services of this process; nil for one that answers none.
	server *rpc.Server
	addr   string // where it answers
	// statements, if set, counts what all pools send.
	statements *meter.Statements
	// maxLive, if set, is how many tasks the dispatcher lets be unfinished.
	maxLive int64
	// seen is what this process shows of itself; nil if that could not be set up.
	seen *telemetry.Telemetry
	// keep is how long a dispatcher beside all other services keeps tasks.
	keep KeepFlag
	// users is the access service of this process; nil if it has none.
	users *access.Service

	ready  []namedReady
	closes []func()
}

type namedReady struct {
	name  string
	ready func(context.Context) error
}

// newSystem begins a process. Its name is that of its role, under which it shows itself; whole says that it has all services.
func newSystem(ctx context.Context, log *slog.Logger, name string, whole bool, console io.Writer) *system {
	s := &system{log: log, ladder: run.NewLadder(log)}
	s.onClose(run.Ballast())
	seen, err := telemetry.Start(ctx, telemetry.Config{
		Service: "sluice-" + name, Version: Version(), Log: s.part("telemetry"), Console: console, Whole: whole,
	})
	if err != nil {
		log.ErrorContext(ctx, "there will be no metrics and no traces", slog.Any("error", err))
		return s
	}
	s.seen = seen
	s.onClose(func() {
		// What is left is sent now or never. Whoever gets it may be gone before us.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace/2)
		defer cancel()
		if err := seen.Close(ctx); err != nil {
			log.WarnContext(ctx, "what was measured and traced at the end is lost", slog.Any("error", err))
		}
	})
	return s
}

// metricsHandler answers /metrics; nil where there are none.
func (s *system) metricsHandler() http.Handler {
	if s.seen == nil {
		return nil
	}
	return s.seen.Handler()
}

// addMetrics answers /metrics at an address of its own.
func (s *system) addMetrics(ctx context.Context, addr string) error {
	if addr == "" || s.seen == nil {
		return nil
	}
	listener, err := rpc.Listen(ctx, addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.seen.Handler())
	s.onClose(func() { _ = listener.Close() }) // closed already, when it was served
	server := &http.Server{Handler: mux, ReadHeaderTimeout: stopGrace}
	s.ladder.Add(run.Loop{Name: "metrics", Grace: stopGrace, Run: func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics at %s: %w", listener.Addr(), err)
		}
		return nil
	}})
	return nil
}

// onClose adds something to be closed at the end, in reverse order.
func (s *system) onClose(what func()) { s.closes = append(s.closes, what) }

func (s *system) close() {
	for i := len(s.closes) - 1; i >= 0; i-- {
		s.closes[i]()
	}
}

// listen opens the gRPC address. Services are added after it, and answer once run is called.
func (s *system) listen(ctx context.Context, addr string) (net.Listener, error) {
	listener, err := rpc.Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	s.onClose(func() { _ = listener.Close() }) // closed already, when it was served
	s.serve(rpc.NewServer(s.log, s.observer()), listener)
	return listener, nil
}

// serve puts a gRPC server at the bottom of the ladder: it is the last to stop, so that the parts above can still talk.
func (s *system) serve(server *rpc.Server, listener net.Listener) {
	s.server, s.addr = server, listener.Addr().String()
	s.ladder.Add(run.Loop{Name: "grpc", Grace: stopGrace, Run: func(ctx context.Context) error {
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(listener) }()
		select {
		case err := <-failed:
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		case <-ctx.Done():
			server.SetServing(false)
			server.Stop(stopGrace / 2)
			<-failed
			return nil
		}
	}})
}

// add puts a service on the ladder, and on the server if there is one.
func (s *system) add(name string, grace time.Duration, service run.Service) {
	s.show(name, service)
	if s.server != nil {
		service.Register(s.server)
	}
	s.ladder.Add(run.Loop{Name: name, Run: service.Run, Grace: grace})
	s.ready = append(s.ready, namedReady{name: name, ready: service.Ready})
}

// show lets a service measure and trace, if it has something to show.
func (s *system) show(name string, service run.Service) {
	if s.seen == nil {
		return
	}
	if measured, ok := service.(interface {
		Observe(meter metric.Meter) error
	}); ok {
		if err := measured.Observe(s.seen.Meter(name)); err != nil {
			s.log.Error("a service has no metrics", slog.String("service", name), slog.Any("error", err))
		}
	}
	if traced, ok := service.(interface{ Trace(tracer trace.Tracer) }); ok && s.seen.Tracing() {
		traced.Trace(s.seen.Tracer(name))
	}
}

// showPool measures a pool, under the name that its connections have in the database.
func (s *system) showPool(pool *postgres.Pool, name string) {
	if s.seen == nil {
		return
	}
	if err := postgres.Observe(s.seen.Meter("postgres"), pool, name); err != nil {
		s.log.Error("a pool has no metrics", slog.String("pool", name), slog.Any("error", err))
	}
}

// observer measures the calls that the servers of this process answer; nil for none.
func (s *system) observer() *rpc.Observer {
	if s.seen == nil {
		return nil
	}
	var tracer trace.Tracer
	if s.seen.Tracing() {
		tracer = s.seen.Tracer("rpc")
	}
	observer, err := rpc.Observe(s.seen.Meter("rpc"), tracer)
	if err != nil {
		s.log.Error("calls are not measured", slog.Any("error", err))
		return nil
	}
	return observer
}

// dial opens a connection to a peer.
func (s *system) dial(addr string) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(addr)
	if err != nil {
		return nil, err
	}
	s.onClose(func() { _ = conn.Close() }) // it only fails when closed twice
	return conn, nil
}

// dialLeader opens a connection to whichever of the schedulers leads. The addresses have commas between them.
func (s *system) dialLeader(ctx context.Context, addrs string, dial rpc.Dialer) (*rpc.Leader, error) {
	leader, err := rpc.DialLeader(ctx, dial, rpc.SplitAddrs(addrs)...)
	if err != nil {
		return nil, usage("--scheduler-addr: %s", err)
	}
	s.onClose(func() { _ = leader.Close() }) // it never fails
	return leader, nil
}

// database opens the pool once the database answers: the order in which processes are started must not matter.
func (s *system) database(ctx context.Context, url, name string) (*postgres.Pool, error) {
	if url == "" {
		return nil, usage("--database-url: is required (or DATABASE_URL in the environment)")
	}
	options := postgres.Options{ApplicationName: "sluice " + name}
	if s.statements != nil {
		options.Tracer = s.statements
	}
	if s.seen != nil && s.seen.Tracing() {
		options.Tracer = postgres.Tracers(options.Tracer, postgres.Spans(s.seen.TracerProvider()))
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		pool, err := postgres.Open(ctx, url, options)
		if err == nil {
			s.onClose(pool.Close)
			s.showPool(pool, name)
			return pool, postgres.CheckSchema(ctx, pool)
		}
		if ctx.Err() != nil || !postgres.IsUnavailable(err) {
			return nil, err
		}
		s.log.WarnContext(ctx, "waiting for the database", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the database: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// run runs the system until ctx ends or a part fails. whenReady is called once every part is ready.
func (s *system) run(ctx context.Context, whenReady func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.server != nil {
		s.server.Reflect()
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.awaitReady(ctx, whenReady)
	}()
	err := s.ladder.Run(ctx)
	cancel()
	<-watched
	return err
}

// awaitReady looks ten times a second until all parts are ready. Health follows.
func (s *system) awaitReady(ctx context.Context, whenReady func()) {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	said, start := "", time.Now()
	for {
		waitsFor := s.waitsFor(ctx)
		if waitsFor == "" {
			break
		}
		// A start that takes longer than usual should not look dead.
		if waitsFor != said && time.Since(start) > 2*time.Second {
			s.log.InfoContext(ctx, "not ready yet", slog.String("waits_for", waitsFor))
			said = waitsFor
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
	if s.server != nil {
		s.server.SetServing(true)
	}
	whenReady()
}

func (s *system) waitsFor(ctx context.Context) string {
	for _, part := range s.ready {
		if err := part.ready(ctx); err != nil {
			return part.name + ": " + err.Error()
		}
	}
	return ""
}

// The services, each with what it needs. They speak gRPC to each other, also inside one process.

func (s *system) addHeartbeat(pool *postgres.Pool, toScheduler grpc.ClientConnInterface) {
	service := heartbeat.New(heartbeat.Defaults(), heartbeat.NewStore(pool), schedulerv1.NewSchedulerServiceClient(toScheduler), s.part("heartbeat"))
	s.add("heartbeat", stopGrace, service)
}

func (s *system) addStatus(pool *postgres.Pool, toScheduler grpc.ClientConnInterface) {
	cfg := status.Defaults()
	cfg.Version = Version()
	s.add("status", stopGrace, status.New(cfg, status.NewStore(pool), schedulerv1.NewSchedulerServiceClient(toScheduler), s.part("status")))
}

func (s *system) addScheduler(pool *postgres.Pool, cfg scheduler.Config) {
	service := scheduler.New(cfg, scheduler.NewStore(pool, cfg.Lease), s.part("scheduler"))
	s.add("scheduler", stopGrace, service)
}

func (s *system) addDispatcher(pool *postgres.Pool, toScheduler grpc.ClientConnInterface, cfg dispatcher.Config) {
	log := s.part("dispatcher")
	hinter := dispatcher.NewHinter(schedulerv1.NewSchedulerServiceClient(toScheduler), log)
	s.add("dispatcher", stopGrace, dispatcher.NewService(cfg, dispatcher.NewStore(pool), hinter, log))
}

// addAccess adds what knows the users.
func (s *system) addAccess(pool *postgres.Pool) {
	s.users = access.New(access.NewStore(pool), s.part("access"))
	s.add("access", stopGrace, s.users)
}

// executorPeers are the connections of an executor; they may all be the same.
type executorPeers struct{ scheduler, dispatcher, heartbeat, status grpc.ClientConnInterface }

// newExecutor makes an executor of the tasks that Sluice brings.
func (s *system) newExecutor(cfg executor.Config, peers executorPeers, handlers builtin.Options) (*executor.Service, error) {
	environment, err := childEnvironment(handlers)
	if err != nil {
		return nil, err
	}
	cfg.ChildEnv = append(cfg.ChildEnv, environment)
	mux := worker.NewMux()
	builtin.Register(mux, handlers)
	registerPurge(mux, peers)
	return s.newExecutorOf(mux, cfg, peers)
}

// registerPurge adds the one task that every executor has, whatever else it runs: purges that clients ask for must find somebody.
func registerPurge(mux *worker.Mux, peers executorPeers) {
	builtin.RegisterPurge(mux, dispatcherv1.NewDispatcherServiceClient(peers.dispatcher))
}

// newExecutorOf makes an executor that runs what is in mux.
func (s *system) newExecutorOf(mux *worker.Mux, cfg executor.Config, peers executorPeers) (*executor.Service, error) {
	service, err := executor.New(cfg, executor.Peers{
		Scheduler:  schedulerv1.NewSchedulerServiceClient(peers.scheduler),
		Dispatcher: dispatcherv1.NewDispatcherServiceClient(peers.dispatcher),
		Heartbeat:  heartbeatv1.NewHeartbeatServiceClient(peers.heartbeat),
		Status:     statusv1.NewStatusServiceClient(peers.status),
	}, mux, s.part("executor"))
	if err != nil {
		return nil, usage("%s", err)
	}
	return service, nil
}

// addExecutor adds an executor that stops when the system does.
func (s *system) addExecutor(cfg executor.Config, service *executor.Service) {
	// After the graces it reports and says goodbye, which can take three times its report timeout of 5 s.
	s.add("executor", cfg.ShutdownGrace+cfg.CancelGrace+2*stopGrace, service)
}

// addGateway adds a gateway that answers REST on the listener, which it closes.
func (s *system) addGateway(cfg gateway.Config, services gateway.Services, listener net.Listener) error {
	if s.seen != nil {
		cfg.Meter = s.seen.Meter("gateway")
		if s.seen.Tracing() {
			cfg.Tracer = s.seen.Tracer("gateway")
		}
	}
	g, err := gateway.New(cfg, services, s.part("gateway"))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s.onClose(g.Close)
	s.ladder.Add(run.Loop{Name: "gateway", Grace: stopGrace + cfg.Grace, Run: func(ctx context.Context) error { return g.Run(ctx, listener) }})
	s.ready = append(s.ready, namedReady{name: "gateway", ready: g.Ready})
	return nil
}

func (s *system) part(name string) *slog.Logger { return s.log.With(slog.String("service", name)) }

// childHandlers tells a child which handlers its executor has: they are the same program, but only the executor got flags.
const childHandlers = "SLUICE_CHILD_HANDLERS"

func childEnvironment(handlers builtin.Options) (string, error) {
	text, err := json.Marshal(handlers)
	if err != nil {
		return "", fmt.Errorf("encode the handlers for child processes: %w", err)
	}
	return childHandlers + "=" + string(text), nil
}

// childMain makes this process a worker of the executor that started it.
func childMain(env Environment) int {
	var handlers builtin.Options
	// The guard of an executor with handlers of its own, as the benchmark's, is not told of any.
	text, told := env.LookupEnv(childHandlers)
	if err := json.Unmarshal([]byte(text), &handlers); told && err != nil {
		return env.report(fmt.Errorf("read %s: %w", childHandlers, err))
	}
	mux := worker.NewMux()
	builtin.Register(mux, handlers)
	return worker.ChildMain(mux)
}

// LogFlags are the flags of every command that runs until it is stopped.
type LogFlags struct {
	LogLevel  slog.Level `name:"log-level" default:"info" placeholder:"LEVEL" group:"log" help:"debug, info, warn or error (${default})."`
	LogFormat string     `name:"log-format" enum:"json,text" default:"json" placeholder:"json|text" group:"log" help:"One JSON object a line, or text (${default})."`
}

func (f LogFlags) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: f.LogLevel}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if f.LogFormat == "text" {
		handler = slog.NewTextHandler(w, options)
	}
	return slog.New(telemetry.Logs(handler))
}

// untilStopped gives a context that SIGTERM and SIGINT end. A second signal ends the process as usual: who sends two means
// it, and neither a child nor a database server of ours outlives us.
func untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// defaultSlots is one for each processor, and two at least: a task that waits for another must not hold up everything.
func defaultSlots() int { return max(2, runtime.NumCPU()) }
