package wire

import (
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-tasks/sluice/pkg/testkit/port"
)

// Wire leads to a target.
type Wire struct {
	// ToServer and ToClient are its two directions; who connects is the client.
	ToServer, ToClient *Way

	t               testing.TB
	network, target string
	port            *port.Kept
	running         sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused, and in the end
	links    map[*link]struct{}
	closed   bool
}

// Start begins a wire to target, host:port or the path of a Unix socket. Nobody needs to listen there yet. It ends with the test,
// and all connections with it.
func Start(t testing.TB, target string) *Wire {
	t.Helper()
	w := &Wire{ToServer: newWay(), ToClient: newWay(), t: t, network: "tcp", target: target, links: map[*link]struct{}{}}
	if strings.HasPrefix(target, "/") {
		w.network = "unix"
	}
	var err error
	if w.port, err = port.Keep(); err != nil {
		t.Fatalf("wire: %v", err)
	}
	if err := w.listen(); err != nil {
		t.Fatalf("wire: %v", err)
	}
	t.Cleanup(w.close)
	return w
}

// Database begins a wire to the server of a postgres:// URL, and returns the URL that leads through it.
func Database(t testing.TB, target string) (*Wire, string) {
	t.Helper()
	cfg, err := pgconn.ParseConfig(target)
	if err != nil {
		t.Fatal("wire: not a database URL") // err may show a password
	}
	_, addr := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	w := Start(t, addr)
	through := url.URL{
		Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: w.Addr(), Path: "/" + cfg.Database,
		RawQuery: "sslmode=disable",
	}
	if cfg.Password == "" {
		through.User = url.User(cfg.User)
	}
	return w, through.String()
}

// Addr is where clients connect, host:port.
func (w *Wire) Addr() string { return w.port.Addr }

// Pass heals both ways.
func (w *Wire) Pass() { w.ToServer.Pass(); w.ToClient.Pass() }

// Hold holds both ways.
func (w *Wire) Hold() { w.ToServer.Hold(); w.ToClient.Hold() }

// Drop drops on both ways.
func (w *Wire) Drop() { w.ToServer.Drop(); w.ToClient.Drop() }

// Cut resets all connections. What is under way is lost. New ones are welcome.
func (w *Wire) Cut() { w.endAll(true) }

// HangUp ends all connections as a peer does that closes. What is under way is lost. New ones are welcome.
func (w *Wire) HangUp() { w.endAll(false) }

func (w *Wire) endAll(abrupt bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.links {
		l.end(abrupt)
	}
}

// Refuse is a server that is not there: all connections are reset, and new ones are refused until back is called, or the test
// ends.
func (w *Wire) Refuse() (back func()) {
	w.mu.Lock()
	listener := w.listener
	w.listener = nil
	w.mu.Unlock()
	if listener != nil {
		listener.Close()
	}
	w.Cut()
	return sync.OnceFunc(func() {
		if err := w.listen(); err != nil {
			w.t.Errorf("wire: %v", err)
		}
	})
}

// Links is how many connections there are.
func (w *Wire) Links() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.links)
}

func (w *Wire) listen() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	listener, err := w.port.Listen()
	if err != nil {
		return err
	}
	w.listener = listener
	w.running.Go(func() { w.accept(listener) })
	return nil
}

func (w *Wire) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // it was closed
		}
		w.running.Go(func() { w.serve(client) })
	}
}

func (w *Wire) serve(client net.Conn) {
	server, err := net.Dial(w.network, w.target)
	if err != nil {
		l := &link{client: client, server: client, over: make(chan struct{})}
		l.end(true)
		return
	}
	l := &link{client: client, server: server, over: make(chan struct{})}
	if !w.add(l) {
		l.end(true)
		return
	}
	defer w.remove(l)
	l.run(w)
}

// add reports whether the link may begin: connections may be refused by now.
func (w *Wire) add(l *link) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listener == nil {
		return false
	}
	w.links[l] = struct{}{}
	return true
}

func (w *Wire) remove(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, l)
}

func (w *Wire) close() {
	w.mu.Lock()
	w.closed = true
	if w.listener != nil {
		w.listener.Close()
		w.listener = nil
	}
	w.mu.Unlock()
	w.Cut()
	w.running.Wait()
	_ = w.port.Close()
}
