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
	"time"

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
	return Run(t, target, servers).URL()
}

// Bouncer is a running PgBouncer that a test may break. Its methods are for the test's own goroutine.
type Bouncer struct {
	t          testing.TB
	program    program
	credential *syscall.Credential
	config     string
	url        string
	run        *process
}

// Run is Start for a test that breaks it.
func Run(t testing.TB, target string, servers int) *Bouncer {
	t.Helper()
	p, err := installed.get()
	if err != nil {
		t.Skip("needs PgBouncer:", err)
	}
	return p.start(t, target, servers)
}

func (p program) start(t testing.TB, target string, servers int) *Bouncer {
	t.Helper()
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal("bouncer: not a database URL") // err may show a password
	}
	if !plain.MatchString(cfg.Database) {
		t.Fatalf("bouncer: the name %q does not fit into the settings of pgbouncer", cfg.Database)
	}
	b := &Bouncer{t: t, program: p, credential: whoMayConnect(t, cfg.Host)}
	for range maxTries {
		port := freePort(t)
		b.config, b.url = p.config(cfg, port, servers), through(cfg, port)
		if b.launch() {
			return b
		}
	}
	t.Fatalf("bouncer: %d free ports were taken before pgbouncer came", maxTries)
	return nil
}

// launch reports whether it runs; false when somebody else has its port.
func (b *Bouncer) launch() bool {
	b.t.Helper()
	b.run = b.program.launch(b.t, b.credential, b.config)
	if b.run.ready(b.t, b.url) {
		return true
	}
	if !strings.Contains(b.run.output(), "Address already in use") {
		b.t.Fatalf("bouncer: pgbouncer ended:\n%s", b.run.output())
	}
	return false
}

// URL leads through it, also after it was started again.
func (b *Bouncer) URL() string { return b.url }

// Kill is kill -9.
func (b *Bouncer) Kill() { b.end(syscall.SIGKILL) }

// Stop is what an operator does to replace it: each server connection is closed when its transaction is over. Clients are cut
// off when all are, and get no answer to what they asked meanwhile.
func (b *Bouncer) Stop() { b.end(syscall.SIGINT) }

func (b *Bouncer) end(signal syscall.Signal) {
	b.t.Helper()
	_ = b.run.cmd.Process.Signal(signal) // it may have ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-b.run.done:
	case <-timer.C:
		b.t.Fatalf("bouncer: pgbouncer does not end:\n%s", b.run.output())
	}
}

// Start starts it again, on the same port.
func (b *Bouncer) Start() {
	b.t.Helper()
	if !b.launch() {
		b.t.Fatal("bouncer: somebody has taken the port of pgbouncer")
	}
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
