package faults

import (
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-tasks/sluice/pkg/testkit/port"
)

// Proxy leads to a database.
type Proxy struct {
	t               testing.TB
	url             string
	network, target string // of the server
	port            *port.Kept
	closed          chan struct{}
	running         sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while the server is refused, and in the end
	sessions map[*session]struct{}
	rules    []*Armed
}

// Start begins a proxy to the database of target, a postgres:// URL. It ends with the test, and all connections with it.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	cfg, err := pgconn.ParseConfig(target)
	if err != nil {
		t.Fatal("faults: not a database URL") // err may show a password
	}
	p := &Proxy{t: t, closed: make(chan struct{}), sessions: map[*session]struct{}{}}
	p.network, p.target = pgconn.NetworkAddress(cfg.Host, cfg.Port)
	if p.port, err = port.Keep(); err != nil {
		t.Fatalf("faults: %v", err)
	}
	if err := p.listen(); err != nil {
		t.Fatalf("faults: %v", err)
	}
	t.Cleanup(p.close)
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: p.port.Addr,
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}
	if cfg.Password == "" {
		u.User = url.User(cfg.User)
	}
	p.url = u.String()
	return p
}

// URL leads through the proxy.
func (p *Proxy) URL() string { return p.url }

// Arm adds a rule. A request is broken by the first one, in the order of arming, that takes it.
func (p *Proxy) Arm(rule Rule) *Armed {
	a := &Armed{rule: rule, left: max(rule.Times, 1), released: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, a)
	return a
}

// ruleFor returns the rule that breaks the request; nil if it is to pass.
func (p *Proxy) ruleFor(r *request) *Armed {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.rules {
		if a.takes(r) {
			return a
		}
	}
	return nil
}

// Cut ends all connections as a broken network does: what is under way to either side is lost. New ones are welcome.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.sessions {
		s.cut()
	}
}

// Refuse is a server that is away: all connections end, and new ones are refused until back is called, or the test ends.
func (p *Proxy) Refuse() (back func()) {
	p.mu.Lock()
	listener := p.listener
	p.listener = nil
	p.mu.Unlock()
	if listener != nil {
		listener.Close()
	}
	p.Cut()
	return sync.OnceFunc(func() {
		if err := p.listen(); err != nil {
			p.t.Errorf("faults: %v", err)
		}
	})
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return nil
	default:
	}
	listener, err := p.port.Listen()
	if err != nil {
		return err
	}
	p.listener = listener
	p.running.Go(func() { p.accept(listener) })
	return nil
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // it was closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve leads one client to the server. A server that does not answer is none for the client either.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial(p.network, p.target)
	if err != nil {
		return
	}
	defer server.Close()
	s := newSession(p, client, server)
	if !p.add(s) {
		return
	}
	defer p.remove(s)
	s.run()
}

// add reports whether the session may begin: the server may be refused by now.
func (p *Proxy) add(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *Proxy) remove(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
}

func (p *Proxy) close() {
	p.mu.Lock()
	close(p.closed)
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.Cut()
	p.running.Wait()
	_ = p.port.Close()
}
