package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultMaxConns bounds a pool when Options does not. The promise is that the number of connections does not depend
// on the number of workers, so it is small on purpose: a service that batches needs few.
const DefaultMaxConns = 8

const (
	defaultPingTimeout    = 5 * time.Second
	defaultConnectTimeout = 5 * time.Second
	healthCheckPeriod     = 30 * time.Second
	maxConnIdleTime       = 5 * time.Minute
	maxConnLifetime       = time.Hour
)

// Pool is the pool that Open returns, named here so that who only hands it on need not know the driver.
type Pool = pgxpool.Pool

// Options tunes Open. The zero value is good for a service.
type Options struct {
	// MaxConns bounds the pool; 0 means DefaultMaxConns. A pool_max_conns in the URL wins, it is the operator's word.
	MaxConns int32
	// ApplicationName shows in pg_stat_activity; empty means "sluice". An application_name in the URL wins.
	ApplicationName string
	// PingTimeout bounds the ping at open and the later health checks; 0 means 5 s.
	PingTimeout time.Duration
	// Tracer sees every statement; nil means none.
	Tracer pgx.QueryTracer
}

// Open connects to url (postgres://… or keyword=value) and returns once the server has answered a ping.
//
// The caller closes the pool. An unreachable or refusing server is an error for which IsUnavailable is true; a
// malformed url is not.
func Open(ctx context.Context, url string, opts Options) (*pgxpool.Pool, error) {
	cfg, err := poolConfig(url, opts)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	// A pool connects lazily. Without the ping a wrong password shows at the first request instead of at start.
	pingCtx, cancel := context.WithTimeout(ctx, cfg.PingTimeout)
	defer cancel()
	if err := pool.Ping(pingCtx); err != nil {
		pool.Close()
		if pingCtx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w within %s: %w", errNoAnswer, cfg.PingTimeout, err)
		}
		return nil, fmt.Errorf("ping database: %w", err)
	}
	return pool, nil
}

// errNoAnswer tells our own timeout, which is about the database, from the caller's, which is about the caller.
var errNoAnswer = errors.New("no answer")

func poolConfig(url string, opts Options) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, parseError(err)
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = DefaultMaxConns
		if opts.MaxConns > 0 {
			cfg.MaxConns = opts.MaxConns
		}
	}
	cfg.PingTimeout = defaultPingTimeout
	if opts.PingTimeout > 0 {
		cfg.PingTimeout = opts.PingTimeout
	}
	cfg.HealthCheckPeriod = healthCheckPeriod
	cfg.MaxConnIdleTime = maxConnIdleTime
	cfg.MaxConnLifetime = maxConnLifetime
	// Connections opened in one burst would otherwise all be replaced in one burst, an hour later.
	cfg.MaxConnLifetimeJitter = maxConnLifetime / 10
	cfg.ConnConfig.Tracer = opts.Tracer
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		registerTypes(conn)
		return nil
	}
	poolerSafe(cfg.ConnConfig, url, opts.ApplicationName)
	return cfg, nil
}

// poolerSafe makes cfg right for a server behind a pooler in transaction mode; package doc has the why.
func poolerSafe(cfg *pgx.ConnConfig, url, appName string) {
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.StatementCacheCapacity = 0
	cfg.DescriptionCacheCapacity = 0
	if !strings.Contains(url, "connect_timeout") {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	// The only startup parameter we send: PgBouncer refuses a client that sends one it does not track, and
	// application_name is one of the few it does.
	if cfg.RuntimeParams["application_name"] == "" {
		if appName == "" {
			appName = "sluice"
		}
		cfg.RuntimeParams["application_name"] = appName
	}
}

// registerTypes names the types of Go values that the driver does not know. In exec mode nobody asks the server, and
// without this a []uuid.UUID cannot be sent at all. Nothing of it reaches the session.
func registerTypes(conn *pgx.Conn) {
	types := conn.TypeMap()
	types.RegisterDefaultPgType(uuid.UUID{}, "uuid")
	types.RegisterDefaultPgType([]uuid.UUID(nil), "_uuid")
}

// parseError says that a URL is malformed without repeating any part of it. The driver masks passwords only as far as
// it understands the string, and a string that does not parse is the one it does not understand: in
// postgres://u:pa/ss@host it reports the port "pa".
func parseError(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("parse database url: read a file it names: %w", file)
	}
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) && !strings.Contains(parse.ConnString, "://") {
		return errors.New("parse database url: not a valid list of keyword=value settings")
	}
	return errors.New("parse database url: not a valid postgres:// URL (special characters in the password need %XX)")
}
