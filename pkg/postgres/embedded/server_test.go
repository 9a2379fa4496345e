package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestRowsSurviveStopAndStart(t *testing.T) {
	cfg := config(t, filepath.Join(pgtest.Dir(t), "made", "on", "the", "way"))
	cfg.Durable = true
	s := start(t, cfg)
	exec(t, s.URL(), "create table kept (n int); insert into kept values (7)")
	stop(t, s)
	if err := s.Err(); err != nil {
		t.Errorf("Err after Stop = %v, want nil", err)
	}
	again := start(t, cfg)
	if got := value(t, again.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
}

func TestDurableDecidesWhatIsSynced(t *testing.T) {
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprint(durable), func(t *testing.T) {
			cfg := config(t, pgtest.Dir(t))
			cfg.Durable = durable
			s := start(t, cfg)
			want := map[bool]string{true: "on", false: "off"}[durable]
			for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
				if got := value(t, s.URL(), "show "+setting); got != want {
					t.Errorf("%s = %s, want %s", setting, got, want)
				}
			}
		})
	}
}

func TestClusterIsUTF8WithLocaleC(t *testing.T) {
	s := start(t, config(t, pgtest.Dir(t)))
	got := value(t, s.URL(), `select pg_encoding_to_char(encoding) || ' ' || datcollate || ' ' || datctype
		from pg_database where datname = current_database()`)
	if got != "UTF8 C C" {
		t.Errorf("encoding and locale = %s, want UTF8 C C", got)
	}
}

func TestEnvironmentOfTheCallerDoesNotReachTheServer(t *testing.T) {
	for name, value := range map[string]string{"PGPORT": "6543", "PGDATA": "/nowhere", "PGCLIENTENCODING": "LATIN1", "LC_ALL": "xx_XX"} {
		t.Setenv(name, value)
	}
	s := start(t, config(t, pgtest.Dir(t)))
	for setting, want := range map[string]string{"port": "5432", "client_encoding": "UTF8"} {
		if got := value(t, s.URL(), "show "+setting); got != want {
			t.Errorf("%s = %s, want %s", setting, got, want)
		}
	}
}

func TestSecondServerInAFolderIsRefusedWithTheHolder(t *testing.T) {
	dir := pgtest.Dir(t)
	start(t, config(t, dir))
	_, err := embedded.Start(t.Context(), config(t, dir))
	if !errors.Is(err, embedded.ErrInUse) {
		t.Fatalf("error = %v, want ErrInUse", err)
	}
	for _, want := range []string{dir, strconv.Itoa(os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
}

func TestSocketIsPrivate(t *testing.T) {
	dir := pgtest.Dir(t)
	s := start(t, config(t, dir))
	info, err := os.Stat(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("mode of the socket folder = %#o, want 0700", got)
	}
	if got := value(t, s.URL(), "show listen_addresses"); got != "" {
		t.Errorf("listen_addresses = %q, want none", got)
	}
	if got := s.TCPURL(); got != "" {
		t.Errorf("TCPURL = %q without TCP", got)
	}
}

func TestSocketMovesWhenItsPathIsTooLong(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), strings.Repeat("long/", 20))
	s := start(t, config(t, dir))
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	socketDir := u.Query().Get("host")
	if strings.HasPrefix(socketDir, dir) {
		t.Fatalf("socket is in %s, expected a shorter folder", socketDir)
	}
	exec(t, s.URL(), "select 1")
	stop(t, s)
	if _, err := os.Stat(socketDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket folder %s is still there", socketDir)
	}
}

func TestTCPWantsThePassword(t *testing.T) {
	cfg := config(t, pgtest.Dir(t))
	cfg.TCP = true
	cfg.Settings = map[string]string{"log_statement": "all"}
	s := start(t, cfg)
	exec(t, s.TCPURL(), "select 1")
	u, err := url.Parse(s.TCPURL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	log, err := os.ReadFile(s.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), password) {
		t.Error("the password is in the log")
	}
	u.User = url.UserPassword(u.User.Username(), "guessed")
	if conn, err := pgx.Connect(t.Context(), u.String()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was let in")
	}
}

func TestStaleFilesOfAnotherLifeDoNotKeepItFromStarting(t *testing.T) {
	dir := pgtest.Dir(t)
	s := start(t, config(t, dir))
	exec(t, s.URL(), "create table kept (n int)")
	stop(t, s)
	// A process id that is alive and is not a server: what a reused id looks like.
	alive := strconv.Itoa(os.Getpid())
	write(t, filepath.Join(dir, "data", "postmaster.pid"), alive+"\n"+dir+"/data\n1\n5432\n"+dir+"/run\n\n  1  1\nready\n", 0o600)
	write(t, filepath.Join(dir, "run", ".s.PGSQL.5432.lock"), alive+"\n"+dir+"/data\n1\n5432\n"+dir+"/run\n", 0o600)
	write(t, filepath.Join(dir, "run", ".s.PGSQL.5432"), "", 0o600)
	write(t, filepath.Join(dir, "data.new", "PG_VERSION"), "half", 0o600)
	again := start(t, config(t, dir))
	exec(t, again.URL(), "insert into kept values (1)")
	if _, err := os.Stat(filepath.Join(dir, "data.new")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the half-made cluster is still there")
	}
}

func TestClusterOfAnotherMajorVersionIsRefused(t *testing.T) {
	dir := pgtest.Dir(t)
	write(t, filepath.Join(dir, "data", "PG_VERSION"), "13\n", 0o600)
	_, err := embedded.Start(t.Context(), config(t, dir))
	if !errors.Is(err, embedded.ErrMajor) {
		t.Fatalf("error = %v, want ErrMajor", err)
	}
	for _, want := range []string{"PostgreSQL 13", binaries(t).Version} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
	if got := entries(t, dir); !cmp.Equal(got, []string{"data"}) {
		t.Errorf("refused, but left %v", got)
	}
	if major, err := embedded.Major(dir); major != 13 || err != nil {
		t.Errorf("Major = %d, %v; want 13, nil", major, err)
	}
}

func TestFailedStartCarriesTheServersLog(t *testing.T) {
	dir := pgtest.Dir(t)
	cfg := config(t, dir)
	cfg.Settings = map[string]string{"max_connections": "plenty"}
	_, err := embedded.Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "max_connections"`) {
		t.Fatalf("error = %v, want the server's own words", err)
	}
	start(t, config(t, dir)) // and the folder is free again
}

func TestCanceledStartLeavesTheFolderFree(t *testing.T) {
	dir := pgtest.Dir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.Start(ctx, config(t, dir)); !errors.Is(err, context.Canceled) {
		t.Fatalf("error = %v, want context.Canceled", err)
	}
	start(t, config(t, dir))
}

func TestServerThatDiesSaysSoAndStartsAgain(t *testing.T) {
	cfg := config(t, pgtest.Dir(t))
	cfg.Durable = true
	s := start(t, cfg)
	exec(t, s.URL(), "create table kept (n int); insert into kept values (7)")
	if err := syscall.Kill(s.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("Err = %v, want that it ended by itself", err)
	}
	stop(t, s)
	again := start(t, cfg)
	if got := value(t, again.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
}

func TestStopKillsAServerThatDoesNotListen(t *testing.T) {
	cfg := config(t, pgtest.Dir(t))
	cfg.Durable = true
	s := start(t, cfg)
	exec(t, s.URL(), "create table kept (n int); insert into kept values (7)")
	if err := syscall.Kill(s.Pid(), syscall.SIGSTOP); err != nil { // holds every signal but SIGKILL
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop = %v, want context.Canceled", err)
	}
	again := start(t, cfg)
	if got := value(t, again.URL(), "select n::text from kept"); got != "7" {
		t.Errorf("n = %s, want 7", got)
	}
}

func TestStrictUmaskDoesNotLockTheServerOut(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), "a", "b")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	exec(t, start(t, config(t, dir)).URL(), "select 1")
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: an ordinary user runs the server as itself")
	}
}

func TestFolderTheServerCannotReachIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	asRoot(t)
	closed := filepath.Join(pgtest.Dir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Start(t.Context(), config(t, filepath.Join(closed, "sluice")))
	if !errors.Is(err, embedded.ErrUnreachable) {
		t.Fatalf("error = %v, want ErrUnreachable", err)
	}
	if !strings.Contains(err.Error(), "may not enter "+closed+" ") {
		t.Errorf("error %q does not name the folder %s", err, closed)
	}
	if got := entries(t, closed); len(got) != 0 {
		t.Errorf("refused, but left %v", got)
	}
}

func TestFolderBehindALinkIsJudgedByWhereItLeads(t *testing.T) {
	asRoot(t)
	base := pgtest.Dir(t)
	if err := os.Mkdir(filepath.Join(base, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(base, "closed"), filepath.Join(base, "open")); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Start(t.Context(), config(t, filepath.Join(base, "open", "sluice")))
	if !errors.Is(err, embedded.ErrUnreachable) {
		t.Fatalf("error = %v, want ErrUnreachable", err)
	}
}

func TestRootRunsAnExistingClusterAsItsOwner(t *testing.T) {
	asRoot(t)
	cfg := config(t, pgtest.Dir(t))
	cfg.User = "nobody"
	s := start(t, cfg)
	exec(t, s.URL(), "create table kept (n int)")
	stop(t, s)
	cfg.User = ""
	again := start(t, cfg)
	exec(t, again.URL(), "insert into kept values (1)")
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(again.Pid())))
	if err != nil {
		t.Skip("no /proc to look at:", err)
	}
	if got := fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid); got != nobody.Uid {
		t.Errorf("the server runs as user %s, want %s", got, nobody.Uid)
	}
}
