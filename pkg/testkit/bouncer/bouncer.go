package bouncer

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Servers is how many server connections operators usually give to a database: default_pool_size, where nobody sets it.
const Servers = 20

const (
	maxClients = 400 // what all processes of a test may open together
	maxTries   = 10  // for a port
	nobody     = 65534
)

// Start runs a PgBouncer in front of the database of target, a postgres:// URL, until the test ends, and returns the URL
// that leads through it. All clients share this many server connections, so that each transaction of a client may run on
// another session; with one or two, what leans on the session fails soon.
func Start(t testing.TB, target string, servers int) string {
	t.Helper()
	p, err := installed.get()
	if err != nil {
		t.Skip("needs PgBouncer:", err)
	}
	return p.start(t, target, servers)
}

func (p program) start(t testing.TB, target string, servers int) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal("bouncer: not a database URL") // err may show a password
	}
	if !plain.MatchString(cfg.Database) {
		t.Fatalf("bouncer: the name %q does not fit into the settings of pgbouncer", cfg.Database)
	}
	credential := whoMayConnect(t, cfg.Host)
	for range maxTries {
		port := freePort(t)
		run := p.launch(t, credential, p.config(cfg, port, servers))
		pooled := through(cfg, port)
		if run.ready(t, pooled) {
			return pooled
		}
		if !strings.Contains(run.output(), "Address already in use") {
			t.Fatalf("bouncer: pgbouncer ended:\n%s", run.output())
		}
	}
	t.Fatalf("bouncer: %d free ports were taken before pgbouncer came", maxTries)
	return ""
}

// plain is what a database may be called on the left side of a line of the settings.
var plain = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

// config is what an operator would write, but that it asks for no password: whoever reaches the port is the one user.
func (p program) config(cfg *pgx.ConnConfig, port, servers int) string {
	text := fmt.Sprintf(`[databases]
%s = host=%s port=%d dbname=%s user=%s`, cfg.Database, quote(cfg.Host), cfg.Port, quote(cfg.Database), quote(cfg.User))
	if cfg.Password != "" {
		text += " password=" + quote(cfg.Password)
	}
	text += fmt.Sprintf(`
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = %d
`, port, servers, maxClients)
	if p.preparesForClients() {
		// By default it would remember the statements of its clients and prepare them again wherever they come to run. Most
		// installations are older, or have it off.
		text += "max_prepared_statements = 0\n"
	}
	return text
}

// quote is a value in PgBouncer's file.
func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

func through(cfg *pgx.ConnConfig, port int) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(cfg.User), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// whoMayConnect is the user who may open the database's socket; nil for ourselves.
func whoMayConnect(t testing.TB, host string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	if !strings.HasPrefix(host, "/") {
		return &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	info, err := os.Stat(host)
	if err != nil {
		t.Fatalf("bouncer: %v", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// freePort is free at this moment; somebody else may be faster than pgbouncer.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("bouncer: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
