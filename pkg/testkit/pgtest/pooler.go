package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const poolerTimeout = 30 * time.Second

// ThroughPooler returns target, a URL from URL, as seen through a PgBouncer in transaction mode. It has this many server
// connections for all of its clients, so that each transaction of a client may run on another session: what leans on
// session state fails, or finds that of somebody else. The test is skipped where pgbouncer is not installed.
func ThroughPooler(t testing.TB, target string, servers int) string {
	t.Helper()
	program, err := findPooler()
	if err != nil {
		t.Skip("needs pgbouncer:", err)
	}
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal("pgtest: not a database URL")
	}
	port := freePort(t)
	database := fmt.Sprintf("host=%s port=%d dbname=%s user=%s", cfg.Host, cfg.Port, cfg.Database, cfg.User)
	if cfg.Password != "" {
		database += " password='" + strings.ReplaceAll(cfg.Password, "'", "''") + "'"
	}
	p := startPooler(t, program, ownerOf(t, cfg.Host), fmt.Sprintf(`[databases]
pooled = %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 200
`, database, port, servers))
	pooled := url.URL{Scheme: "postgres", User: url.User("any"), Path: "/pooled", RawQuery: "sslmode=disable"}
	pooled.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	p.waitReady(t, pooled.String())
	return pooled.String()
}

func findPooler() (string, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/pgbouncer") // not on an ordinary user's PATH
}

// ownerOf is the user who may open the server's socket; nil for ourselves. PgBouncer refuses to run as root.
func ownerOf(t testing.TB, host string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	const nobody = 65534
	if !strings.HasPrefix(host, "/") {
		return &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	info, err := os.Stat(host)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("pgtest: cannot tell the owner of %s", host)
	}
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// pooler is a running PgBouncer.
type pooler struct {
	log  string
	done chan struct{} // closed when it has ended
}

// startPooler runs PgBouncer until the test ends; its log becomes the test's if the test fails.
func startPooler(t testing.TB, program string, credential *syscall.Credential, config string) *pooler {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-pooler-")
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	p := &pooler{log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer log.Close()
	if err := os.WriteFile(ini, []byte(config), 0o600); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if credential != nil {
		for _, path := range []string{dir, ini} {
			if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
				t.Fatalf("pgtest: %v", err)
			}
		}
	}
	cmd := exec.Command(program, ini)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr(credential)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // see childAttr
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("pgtest: start pgbouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			text, _ := os.ReadFile(p.log)
			t.Logf("pgbouncer:\n%s", text)
		}
		_ = os.RemoveAll(dir)
	})
	return p
}

// waitReady connects until it works. PgBouncer says nothing to the outside when it is ready.
func (p *pooler) waitReady(t testing.TB, url string) {
	t.Helper()
	ticker := time.NewTicker(clonePause)
	defer ticker.Stop()
	deadline := time.NewTimer(poolerTimeout)
	defer deadline.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		select {
		case <-ticker.C:
		case <-p.done:
			t.Fatal("pgtest: pgbouncer ended")
		case <-deadline.C:
			t.Fatalf("pgtest: pgbouncer does not answer: %v", err)
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
