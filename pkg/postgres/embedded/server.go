package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Config says which server to start.
type Config struct {
	// Dir is the server's folder; made if missing. See the package doc for what is in it.
	Dir string
	// Binaries come from Find.
	Binaries Binaries
	// Log gets one line for a start, and warnings.
	Log *slog.Logger
	// Durable keeps every committed row through a crash of the machine. Without it the server is several times faster and
	// a crash of the machine loses the cluster: for tests only.
	Durable bool
	// TCP also listens on a free port of 127.0.0.1, with a random password; see Server.TCPURL. For poolers and tools
	// that cannot use the socket.
	TCP bool
	// User is who the server runs as when we are root and Dir holds no cluster yet; empty means postgres, else nobody.
	User string
	// Settings are further server settings, "name": "value". They win over ours.
	Settings map[string]string
}

const (
	readyPoll      = 5 * time.Millisecond
	quitTimeout    = 3 * time.Second // from SIGQUIT to SIGKILL
	tcpPortRetries = 3
	// Both the kernel's limit and PostgreSQL's are 108 bytes with the closing zero on Linux, 104 on macOS.
	maxSocketPath = 103
)

// Server is a running PostgreSQL.
type Server struct {
	paths     paths
	process   *process
	lock      *os.File
	socketDir string
	port      int
	password  string
	logOffset int64

	done     chan struct{}
	err      error // set before done is closed
	stopping chan struct{}
	stopOnce sync.Once
	freeOnce sync.Once
}

// Start starts the server in cfg.Dir and returns when it accepts connections. ctx bounds the start, recovery after a
// crash included, and has no say afterwards. The caller calls Stop, also when the server died by itself.
//
// Errors: ErrInUse, ErrMajor, ErrUnreachable, or what the server said last.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	dir, err := resolve(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	p := pathsIn(dir)
	server, err := check(p, cfg)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s, err := startLocked(ctx, p, cfg, server)
	if err != nil {
		return nil, fmt.Errorf("start postgres in %s: %w", dir, err)
	}
	cfg.Log.InfoContext(ctx, "started postgres", "dir", dir, "version", cfg.Binaries.Version, "pid", s.Pid())
	return s, nil
}

// check does everything that can fail without a trace on the disk.
func check(p paths, cfg Config) (account, error) {
	server, err := serverAccount(p.data, cfg.User)
	if err != nil {
		return account{}, err
	}
	for _, path := range []string{p.data, cfg.Binaries.postgres()} {
		if err := checkReach(path, server); err != nil {
			return account{}, err
		}
	}
	return server, checkMajor(p, cfg.Binaries)
}

func startLocked(ctx context.Context, p paths, cfg Config, server account) (*Server, error) {
	mode := os.FileMode(0o700)
	if server.switched {
		mode = 0o711 // the server's user passes through to data/ and run/, which are its own
	}
	if err := makeDir(p.dir, mode); err != nil {
		return nil, err
	}
	lock, err := lockDir(p.dir, p.lock)
	if err != nil {
		return nil, err
	}
	s, err := startCluster(ctx, p, cfg, server)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.lock = lock
	return s, nil
}

func startCluster(ctx context.Context, p paths, cfg Config, server account) (*Server, error) {
	if err := clearLeftovers(ctx, p, cfg.Log); err != nil {
		return nil, err
	}
	if err := makeCluster(ctx, p, cfg, server); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.hba, []byte(hbaText(cfg.TCP)), 0o600); err != nil {
		return nil, err
	}
	if err := server.own(p.hba); err != nil {
		return nil, err
	}
	socketDir, err := makeSocketDir(p, server)
	if err != nil {
		return nil, err
	}
	s, err := startPostmaster(ctx, p, cfg, server, socketDir)
	if err != nil {
		return nil, errors.Join(err, removeSocketDir(socketDir))
	}
	return s, nil
}

// startPostmaster tries again with another port when somebody took the one it found free.
func startPostmaster(ctx context.Context, p paths, cfg Config, server account, socketDir string) (*Server, error) {
	for attempt := 1; ; attempt++ {
		port := unixPort
		if cfg.TCP {
			var err error
			if port, err = freePort(); err != nil {
				return nil, err
			}
		}
		s, err := startOnce(ctx, p, cfg, server, socketDir, port)
		if err == nil {
			return s, nil
		}
		if !cfg.TCP || attempt == tcpPortRetries || !strings.Contains(err.Error(), "could not bind") {
			return nil, err
		}
	}
}

func startOnce(ctx context.Context, p paths, cfg Config, server account, socketDir string, port int) (*Server, error) {
	log, offset, err := openLog(p.log)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close() // the server has its own copy
	cmd := exec.Command(cfg.Binaries.postgres(), append([]string{"-D", p.data}, settings(cfg, p, socketDir, port)...)...)
	cmd.Dir = p.dir
	cmd.Env = childEnv(p.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr(server, syscall.SIGINT)
	child, err := launch(cmd)
	if err != nil {
		return nil, fmt.Errorf("run postgres as %s: %w", server.name, err)
	}
	s := &Server{
		paths: p, process: child, socketDir: socketDir, port: port, logOffset: offset,
		done: make(chan struct{}), stopping: make(chan struct{}),
	}
	go s.watch()
	if err := s.becomeReady(ctx, cfg.TCP); err != nil {
		_ = s.end(ctx) // how it ended says less than why it did not begin
		return nil, s.withLog(err)
	}
	return s, nil
}

func (s *Server) becomeReady(ctx context.Context, tcp bool) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	if !tcp {
		return nil
	}
	return s.setPassword(ctx)
}

// waitReady reads postmaster.pid, which says "ready" when the server does: cheaper than trying to connect, and no
// failed logins in the log.
func (s *Server) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		if p, ok := readPidFile(s.paths.data); ok && p.pid == s.process.pid && p.ready {
			return nil
		}
		select {
		case <-ticker.C:
		case <-s.process.done:
			return fmt.Errorf("postgres ended while starting: %w", exitError(s.process.err))
		case <-ctx.Done():
			return fmt.Errorf("wait for postgres to be ready: %w", ctx.Err())
		}
	}
}

// setPassword gives the superuser a new password at each start. It is known to this process only.
func (s *Server) setPassword(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, s.URL())
	if err != nil {
		return fmt.Errorf("set the password: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s.password = rand.Text()
	for _, sql := range []string{
		// A message of its own: two statements in one are logged, password and all, before the first of them runs.
		"set log_statement = 'none'",
		"alter role " + superuser + " password '" + s.password + "'", // letters and digits only, nothing to quote
	} {
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("set the password: %w", err)
		}
	}
	return nil
}

// watch turns the end of the process into Done and Err.
func (s *Server) watch() {
	<-s.process.done
	select {
	case <-s.stopping:
	default:
		s.err = s.withLog(fmt.Errorf("postgres in %s ended by itself: %w", s.paths.dir, exitError(s.process.err)))
	}
	close(s.done)
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (s *Server) withLog(err error) error {
	if text := tail(s.paths.log, s.logOffset); text != "" {
		return fmt.Errorf("%w; its log %s ends with:\n%s", err, s.paths.log, text)
	}
	return err
}

// URL is how to connect: the unix socket, as the superuser, to the database postgres. libpq and its tools take it too.
func (s *Server) URL() string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/postgres"}
	u.RawQuery = url.Values{"host": {s.socketDir}, "port": {strconv.Itoa(s.port)}}.Encode()
	return u.String()
}

// TCPURL is URL over 127.0.0.1, with the password; empty unless Config.TCP.
func (s *Server) TCPURL() string {
	if s.password == "" {
		return ""
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, s.password), Path: "/postgres"}
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
	return u.String()
}

// Pid is the process id of the server.
func (s *Server) Pid() int { return s.process.pid }

// LogPath is the file that the server writes its log to.
func (s *Server) LogPath() string { return s.paths.log }

// Done is closed when the server has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended, with the end of its log; nil before Done is closed and after a Stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends the server and frees the folder. Connections are cut, open transactions rolled back, and a checkpoint makes
// the next start quick. When ctx ends first the server is made to quit, then killed, and Stop returns ctx's error: no
// committed row is lost by that either, the next start recovers. Further calls wait for the first.
func (s *Server) Stop(ctx context.Context) error {
	err := s.end(ctx)
	s.freeOnce.Do(func() {
		err = errors.Join(err, removeSocketDir(s.socketDir), s.lock.Close())
	})
	if err != nil {
		return fmt.Errorf("stop postgres in %s: %w", s.paths.dir, err)
	}
	return nil
}

// end returns when the process is gone.
func (s *Server) end(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.process.signal(syscall.SIGINT)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.process.signal(syscall.SIGQUIT)
	timer := time.NewTimer(quitTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		s.process.kill()
		<-s.done
	}
	return fmt.Errorf("it did not stop in time and was made to: %w", ctx.Err())
}

// makeSocketDir makes the private folder for the socket: run/, or one in the temp directory when the name of the socket
// would not fit in an address.
func makeSocketDir(p paths, server account) (string, error) {
	dir := p.run
	if len(filepath.Join(dir, ".s.PGSQL.65535")) > maxSocketPath {
		var err error
		if dir, err = makeShortDir(server); err != nil {
			return "", err
		}
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the socket folder: %w", err)
	}
	if err := server.own(dir); err != nil {
		return "", fmt.Errorf("make the socket folder: %w", err)
	}
	return dir, nil
}

func makeShortDir(server account) (string, error) {
	var problems []error
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		parent, err := resolve(parent)
		if err == nil {
			err = checkReach(filepath.Join(parent, shortPrefix), server)
		}
		if err == nil && len(filepath.Join(parent, shortPrefix+"0123456789", ".s.PGSQL.65535")) > maxSocketPath {
			err = fmt.Errorf("%s is too long", parent)
		}
		var dir string
		if err == nil {
			dir, err = os.MkdirTemp(parent, shortPrefix)
		}
		if err == nil {
			return dir, nil
		}
		problems = append(problems, err)
	}
	return "", fmt.Errorf("find a short folder for the socket: %w", errors.Join(problems...))
}

func removeSocketDir(dir string) error {
	if isShortDir(dir) {
		removeShortDir(dir)
		return nil
	}
	return os.RemoveAll(dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
