package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-tasks/sluice/gateway"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/services/dispatcher"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// DatabaseFlag is the flag of every service that has SQL.
type DatabaseFlag struct {
	DatabaseURL string `name:"database-url" placeholder:"URL" group:"service" help:"PostgreSQL to use; also DATABASE_URL. A pooler in transaction mode is fine."`
}

// RoleFlags are the flags of every service.
type RoleFlags struct {
	MetricsAddr string `name:"metrics-addr" placeholder:"HOST:PORT" group:"service" help:"Answer Prometheus at /metrics here. Default: nowhere."`
	LogFlags
}

// serveRole runs a system of one role: build adds its service.
func serveRole(ctx context.Context, env *Environment, flags RoleFlags, name, addr string, build func(context.Context, *system) error) error {
	ctx, stop := untilStopped(ctx)
	defer stop()
	return serveUntil(ctx, env, flags, name, addr, build)
}

// serveUntil is serveRole for who sees to signals himself.
func serveUntil(ctx context.Context, env *Environment, flags RoleFlags, name, addr string, build func(context.Context, *system) error) error {
	log := flags.logger(env.Stderr)
	s := newSystem(ctx, log, name, false, env.Stderr)
	defer s.close()
	// Below the service, so that it can be watched while it stops, which may take hours if a task does.
	if err := s.addMetrics(ctx, flags.MetricsAddr); err != nil {
		return err
	}
	where := addr
	if addr != "" {
		listener, err := s.listen(ctx, addr)
		if err != nil {
			return err
		}
		where = listener.Addr().String()
	}
	if err := build(ctx, s); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it waited for something
		}
		return err
	}
	return s.run(ctx, func() { fmt.Fprintf(env.Stdout, "sluice %s is ready%s\n", name, at(where)) })
}

func at(addr string) string {
	if addr == "" {
		return ""
	}
	return ": gRPC at " + addr
}

// DispatcherCmd runs the dispatcher.
type DispatcherCmd struct {
	GRPCAddr      string `name:"grpc-addr" default:"127.0.0.1:24821" placeholder:"HOST:PORT" group:"service" help:"Answer gRPC here (${default})."`
	SchedulerAddr string `name:"scheduler-addr" default:"127.0.0.1:24822" placeholder:"HOST:PORT,..." group:"service" help:"Where the schedulers are (${default}). The one that leads is found among them."`
	FileFlags
	IntakeFlags
	DatabaseFlag
	RoleFlags
}

// Run runs it until it is stopped.
func (c *DispatcherCmd) Run(ctx context.Context, env *Environment) error {
	cfg := dispatcher.Defaults()
	if err := cmp.Or(c.FileFlags.apply(&cfg), c.IntakeFlags.apply(&cfg)); err != nil {
		return err
	}
	return serveRole(ctx, env, c.RoleFlags, "dispatcher", c.GRPCAddr, func(ctx context.Context, s *system) error {
		toScheduler, err := s.dialLeader(ctx, c.SchedulerAddr, rpc.Dial)
		if err != nil {
			return err
		}
		pool, err := s.database(ctx, c.DatabaseURL, "dispatcher")
		if err != nil {
			return err
		}
		s.addDispatcher(pool, toScheduler, cfg)
		s.addAccess(pool)
		return nil
	})
}

// SchedulerCmd runs a scheduler.
type SchedulerCmd struct {
	GRPCAddr      string        `name:"grpc-addr" default:"127.0.0.1:24822" placeholder:"HOST:PORT" group:"service" help:"Answer gRPC here (${default})."`
	AdvertiseAddr string        `name:"advertise-addr" placeholder:"HOST:PORT" group:"service" help:"Where other schedulers reach this one, to take over at once when it stops. Default: where it answers gRPC."`
	Lease         time.Duration `default:"3s" placeholder:"DURATION" group:"service" help:"How long a leadership lasts without being renewed (${default})."`
	DatabaseFlag
	RoleFlags
}

// Run runs it until it is stopped.
func (c *SchedulerCmd) Run(ctx context.Context, env *Environment) error {
	if c.Lease < time.Second || c.Lease > time.Minute {
		return usage("--lease: must be between 1s and 1m, is %s", c.Lease)
	}
	return serveRole(ctx, env, c.RoleFlags, "scheduler", c.GRPCAddr, func(ctx context.Context, s *system) error {
		pool, err := s.database(ctx, c.DatabaseURL, "scheduler")
		if err != nil {
			return err
		}
		cfg := scheduler.Defaults()
		cfg.Holder, cfg.Address, cfg.Lease = processName(), cmp.Or(c.AdvertiseAddr, s.addr), c.Lease
		s.addScheduler(pool, cfg)
		return nil
	})
}

// HeartbeatCmd runs the heartbeat service.
type HeartbeatCmd struct {
	GRPCAddr      string `name:"grpc-addr" default:"127.0.0.1:24824" placeholder:"HOST:PORT" group:"service" help:"Answer gRPC here (${default})."`
	SchedulerAddr string `name:"scheduler-addr" default:"127.0.0.1:24822" placeholder:"HOST:PORT,..." group:"service" help:"Where the schedulers are (${default}). The one that leads is told at once who is missing."`
	DatabaseFlag
	RoleFlags
}

// Run runs it until it is stopped.
func (c *HeartbeatCmd) Run(ctx context.Context, env *Environment) error {
	return serveRole(ctx, env, c.RoleFlags, "heartbeat", c.GRPCAddr, func(ctx context.Context, s *system) error {
		toScheduler, err := s.dialLeader(ctx, c.SchedulerAddr, rpc.Dial)
		if err != nil {
			return err
		}
		pool, err := s.database(ctx, c.DatabaseURL, "heartbeat")
		if err != nil {
			return err
		}
		s.addHeartbeat(pool, toScheduler)
		return nil
	})
}

// StatusRole is the serving half of `sluice status`.
type StatusRole struct {
	GRPCAddr      string `name:"grpc-addr" placeholder:"HOST:PORT" group:"service" help:"Run the status service, and answer gRPC here (usually 127.0.0.1:24823)."`
	SchedulerAddr string `name:"scheduler-addr" default:"127.0.0.1:24822" placeholder:"HOST:PORT,..." group:"service" help:"Where the schedulers are (${default}). The one that leads is found among them."`
	DatabaseFlag
	RoleFlags
}

// Serve runs the service until it is stopped.
func (c *StatusRole) Serve(ctx context.Context, env *Environment) error {
	return serveRole(ctx, env, c.RoleFlags, "status", c.GRPCAddr, func(ctx context.Context, s *system) error {
		toScheduler, err := s.dialLeader(ctx, c.SchedulerAddr, rpc.Dial)
		if err != nil {
			return err
		}
		pool, err := s.database(ctx, c.DatabaseURL, "status")
		if err != nil {
			return err
		}
		s.addStatus(pool, toScheduler)
		return nil
	})
}

// GatewayCmd runs the gateway.
type GatewayCmd struct {
	RESTAddr       string   `name:"rest-addr" default:"127.0.0.1:24817" placeholder:"HOST:PORT" group:"service" help:"Answer REST here (${default}). Other machines may reach it unless somebody has the password that everybody knows."`
	GRPCAddr       string   `name:"grpc-addr" default:"127.0.0.1:24820" placeholder:"HOST:PORT" group:"service" help:"Answer gRPC for all services here, by forwarding (${default})."`
	DispatcherAddr string   `name:"dispatcher-addr" default:"127.0.0.1:24821" placeholder:"HOST:PORT" group:"service" help:"Where the dispatcher is (${default}). It also knows the users."`
	SchedulerAddr  string   `name:"scheduler-addr" default:"127.0.0.1:24822" placeholder:"HOST:PORT,..." group:"service" help:"Where the schedulers are (${default}). The one that leads is found among them."`
	StatusAddr     string   `name:"status-addr" default:"127.0.0.1:24823" placeholder:"HOST:PORT" group:"service" help:"Where the status service is (${default})."`
	HeartbeatAddr  string   `name:"heartbeat-addr" default:"127.0.0.1:24824" placeholder:"HOST:PORT" group:"service" help:"Where the heartbeat service is (${default})."`
	APIRoot        string   `name:"api-root" default:"/pulp/" placeholder:"PATH" group:"service" help:"Path below which api/v3/ is served (${default})."`
	GalaxyRoots    []string `name:"galaxy-roots" default:"/api/galaxy/,/api/automation-hub/" sep:"," placeholder:"PATH,..." group:"service" help:"Paths below which Ansible Galaxy's clients find what they ask for, and the whole API below pulp/ (${default})."`
	TLSCert        string   `name:"tls-cert" placeholder:"FILE" group:"service" help:"Answer REST over TLS, with this certificate and those that lead to its authority, as PEM. Read once, at the start."`
	TLSKey         string   `name:"tls-key" placeholder:"FILE" group:"service" help:"Key of --tls-cert, as PEM."`
	Anonymous      bool     `group:"service" help:"Ask nobody for a login over REST: everybody is the administrator. Only with a loopback --rest-addr."`
	RoleFlags
}

// Run runs it until it is stopped.
func (c *GatewayCmd) Run(ctx context.Context, env *Environment) error {
	ctx, stop := untilStopped(ctx)
	defer stop()
	door, err := c.door()
	if err != nil {
		return err
	}
	s := newSystem(ctx, c.logger(env.Stderr), "gateway", false, env.Stderr)
	defer s.close()
	if err := s.addMetrics(ctx, c.MetricsAddr); err != nil {
		return err
	}

	listener, err := rpc.Listen(ctx, c.GRPCAddr)
	if err != nil {
		return err
	}
	s.onClose(func() { _ = listener.Close() }) // closed already, when it was served
	routes := map[string]grpc.ClientConnInterface{}
	for name, addr := range map[string]string{
		dispatcherv1.DispatcherService_ServiceDesc.ServiceName: c.DispatcherAddr,
		statusv1.StatusService_ServiceDesc.ServiceName:         c.StatusAddr,
		heartbeatv1.HeartbeatService_ServiceDesc.ServiceName:   c.HeartbeatAddr,
		accessv1.AccessService_ServiceDesc.ServiceName:         c.DispatcherAddr,
	} {
		conn, err := rpc.DialRaw(addr)
		if err != nil {
			return err
		}
		s.onClose(func() { _ = conn.Close() }) // it only fails when closed twice
		routes[name] = conn
	}
	leader, err := s.dialLeader(ctx, c.SchedulerAddr, rpc.DialRaw)
	if err != nil {
		return err
	}
	routes[schedulerv1.SchedulerService_ServiceDesc.ServiceName] = leader
	// What Offer says of a task is believed: it is for dispatchers, who know where the schedulers are.
	front := rpc.NewObservedFront(s.observer(), s.part("front"), routes, schedulerv1.SchedulerService_Offer_FullMethodName)
	s.serve(front.Server, listener)

	services := gateway.Services{}
	for conn, addr := range map[*grpc.ClientConnInterface]string{
		&services.Dispatcher: c.DispatcherAddr, &services.Status: c.StatusAddr, &services.Heartbeat: c.HeartbeatAddr,
	} {
		opened, err := s.dial(addr)
		if err != nil {
			return err
		}
		*conn = opened
	}
	if services.Scheduler, err = s.dialLeader(ctx, c.SchedulerAddr, rpc.Dial); err != nil {
		return err
	}
	if !c.Anonymous {
		services.Access = services.Dispatcher
	}
	rest, err := door.open(ctx, s, services.Access)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it waited
		}
		return err
	}
	cfg := gateway.Config{
		APIRoot: c.APIRoot, Aliases: given(c.GalaxyRoots), Version: Version(), Metrics: s.metricsHandler(),
		AnyHost: !door.local, RefuseWellKnown: !door.local,
	}
	if err := s.addGateway(cfg, services, rest); err != nil {
		return err
	}
	return s.run(ctx, func() {
		fmt.Fprintf(env.Stdout, "sluice gateway is ready: REST at %s://%s%sapi/v3/, gRPC at %s\n", door.scheme(), rest.Addr(), c.APIRoot, listener.Addr())
	})
}

// MigrateCmd brings a database to the current schema.
type MigrateCmd struct {
	DatabaseFlag
	LogFlags
}

// Run migrates.
func (c *MigrateCmd) Run(ctx context.Context, env *Environment) error {
	if c.DatabaseURL == "" {
		return usage("--database-url: is required (or DATABASE_URL in the environment)")
	}
	return postgres.Migrate(ctx, c.DatabaseURL, c.logger(env.Stderr))
}

// processName tells people who holds a lease.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%d@%s", os.Getpid(), host)
}
