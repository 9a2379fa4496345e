package wire_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server notes what each connection says, line by line, and can say something on it.
type server struct {
	t        *testing.T
	listener net.Listener
	accepted chan *peer
	running  sync.WaitGroup
}

// peer is one end of a connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	// heard are the lines that came; it is closed at the end, the reason of which is in why.
	heard chan string
	why   error
}

func newPeer(t *testing.T, conn net.Conn, running *sync.WaitGroup) *peer {
	p := &peer{t: t, conn: conn, heard: make(chan string, 1000)}
	running.Go(func() {
		defer close(p.heard)
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				p.why = err
				return
			}
			p.heard <- strings.TrimSuffix(line, "\n")
		}
	})
	return p
}

func (p *peer) say(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if _, err := fmt.Fprintln(p.conn, line); err != nil {
			p.t.Errorf("say %s: %v", line, err)
		}
	}
}

// hears waits for lines, in order.
func (p *peer) hears(lines ...string) {
	p.t.Helper()
	for _, want := range lines {
		if got, more := <-p.heard; !more || got != want {
			p.t.Fatalf("heard %q (%v), want %q", got, p.why, want)
		}
	}
}

// ends waits for the end of what the other one says, and returns the reason.
func (p *peer) ends() error {
	p.t.Helper()
	if got, more := <-p.heard; more {
		p.t.Fatalf("heard %q, want no more", got)
	}
	return p.why
}

// silent checks that nothing was heard so far. What the others did before must be known to have had its effect.
func (p *peer) silent() {
	p.t.Helper()
	select {
	case got, more := <-p.heard:
		p.t.Errorf("heard %q, %t (%v), want nothing", got, more, p.why)
	default:
	}
}

func newServer(t *testing.T) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, listener: listener, accepted: make(chan *peer, 100)}
	s.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted <- newPeer(t, conn, &s.running)
		}
	})
	t.Cleanup(func() {
		listener.Close()
		for {
			select {
			case p := <-s.accepted:
				p.conn.Close()
				continue
			default:
			}
			break
		}
		s.running.Wait()
	})
	return s
}

// connected is a connection through a wire: both its ends.
func (s *server) connected(w *wire.Wire) (client, server *peer) {
	s.t.Helper()
	conn, err := net.Dial("tcp", w.Addr())
	if err != nil {
		s.t.Fatal(err)
	}
	client, server = newPeer(s.t, conn, &s.running), <-s.accepted
	s.t.Cleanup(func() {
		client.conn.Close()
		server.conn.Close()
	})
	return client, server
}

func begin(t *testing.T) (*server, *wire.Wire) {
	t.Helper()
	s := newServer(t)
	return s, wire.Start(t, s.listener.Addr().String())
}

// passesOn checks that a new connection is a good one.
func passesOn(w *wire.Wire, s *server) {
	s.t.Helper()
	client, server := s.connected(w)
	client.say("hello")
	server.hears("hello")
	server.say("welcome")
	client.hears("welcome")
}

func TestWhatIsSaidArrivesInOrderAndSoDoesTheEnd(t *testing.T) {
	s, w := begin(t)
	client, server := s.connected(w)
	var said []string
	for i := range 500 {
		said = append(said, fmt.Sprintf("line %d %s", i, strings.Repeat("x", i)))
	}
	client.say(said...)
	server.hears(said...)
	// Each end can go on when the other one has ended.
	if err := client.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := server.ends(); !errors.Is(err, io.EOF) {
		t.Errorf("the server sees %v, want the end", err)
	}
	server.say("and now you")
	client.hears("and now you")
	server.conn.Close()
	if err := client.ends(); !errors.Is(err, io.EOF) {
		t.Errorf("the client sees %v, want the end", err)
	}
	probe.Eventually(t, "the link is forgotten", func() bool { return w.Links() == 0 })
}

// Each way has its own state, whichever it is.
func TestAHeldWayLosesNothingAndTheOtherOnePasses(t *testing.T) {
	s, w := begin(t)
	client, server := s.connected(w)
	for range 3 {
		w.ToServer.Hold()
		client.say("one", "two")
		server.say("three")
		client.hears("three") // so the wire had time for the others
		server.silent()
		w.ToServer.Pass()
		server.hears("one", "two")

		w.ToClient.Hold()
		server.say("four")
		client.say("five")
		server.hears("five")
		client.silent()
		w.ToClient.Pass()
		client.hears("four")
	}
}

func TestAHeldWayHidesThatTheOtherEndDied(t *testing.T) {
	s, w := begin(t)
	client, server := s.connected(w)
	w.ToServer.Hold()
	client.say("last words")
	_ = client.conn.(*net.TCPConn).SetLinger(0)
	client.conn.Close()
	// It still takes what is said to it: nobody at this end can know.
	for range 100 {
		server.say("are you there")
	}
	server.silent()
	w.ToServer.Pass()
	for line := range server.heard {
		if line != "last words" {
			t.Errorf("heard %q", line)
		}
	}
	if server.why == nil {
		t.Error("the server does not learn of the end")
	}
}

func TestWhatIsDroppedNeverComesAndItsConnectionIsDeadForGood(t *testing.T) {
	s, w := begin(t)
	client, server := s.connected(w)
	idle, served := s.connected(w)
	w.ToServer.Hold()
	client.say("held")
	w.ToServer.Drop() // what was held is lost, too
	client.say("lost")
	server.say("still here")
	client.hears("still here")
	probe.Eventually(t, "all of it is lost", func() bool { return w.ToServer.Lost() == int64(len("held\nlost\n")) })
	w.ToServer.Pass()
	client.say("late")
	passesOn(w, s) // a new connection is as good as any
	idle.say("nothing of me was lost")
	served.hears("nothing of me was lost")
	server.silent()
	// Who closes such a connection breaks it for the other one, who waits for what was lost.
	client.conn.Close()
	if err := server.ends(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server sees %v, want a reset", err)
	}
}

func TestABlackHoleAcceptsAndSwallows(t *testing.T) {
	s, w := begin(t)
	w.Drop()
	client, server := s.connected(w)
	client.say("hello")
	client.conn.Close() // even this
	other, _ := s.connected(w)
	other.say("hello")
	probe.Eventually(t, "both are lost", func() bool { return w.ToServer.Lost() == int64(len("hello\nhello\n")) })
	server.silent()
	w.Pass()
	if err := server.ends(); err == nil {
		t.Error("the server does not see the end when the hole is gone")
	}
}

func TestADelayedWayBringsEverythingLater(t *testing.T) {
	const late = 50 * time.Millisecond
	s, w := begin(t)
	client, server := s.connected(w)
	w.ToServer.Delay(late)
	for range 3 {
		said := time.Now()
		client.say("one", "two")
		server.hears("one", "two")
		if took := time.Since(said); took < late {
			t.Errorf("it took %s, less than %s", took, late)
		}
		server.say("three")
		client.hears("three")
	}
	w.ToServer.Delay(time.Hour)
	client.say("four")
	server.say("five")
	client.hears("five")
	server.silent()
	w.ToServer.Pass() // counts for what was queued
	server.hears("four")
}

func TestADrippingWayIsSlow(t *testing.T) {
	s, w := begin(t)
	client, server := s.connected(w)
	const rate = 10_000
	w.ToServer.Drip(rate)
	text := strings.Repeat("x", 2000)
	said := time.Now()
	client.say(text)
	server.hears(text)
	// The first drop comes at once.
	if took, least := time.Since(said), 180*time.Millisecond; took < least {
		t.Errorf("2000 bytes took %s, less than %s", took, least)
	}
	w.ToServer.Drip(1)
	client.say(strings.Repeat("y", 1<<14))
	server.say("meanwhile")
	client.hears("meanwhile")
	server.silent()
	w.ToServer.Pass()
	server.hears(strings.Repeat("y", 1<<14))
}

func TestACutResetsAndAHangUpEndsAllThatThereAre(t *testing.T) {
	s, w := begin(t)
	for name, c := range map[string]struct {
		end  func()
		want error
	}{"cut": {w.Cut, syscall.ECONNRESET}, "hang up": {w.HangUp, io.EOF}} {
		var ends []*peer
		for range 3 {
			client, server := s.connected(w)
			ends = append(ends, client, server)
		}
		w.Hold() // makes no difference
		probe.Eventually(t, "the links are there", func() bool { return w.Links() == 3 })
		c.end()
		for _, end := range ends {
			if err := end.ends(); !errors.Is(err, c.want) {
				t.Errorf("%s: an end sees %v, want %v", name, err, c.want)
			}
		}
		w.Pass()
		passesOn(w, s)
		w.Cut()
		probe.Eventually(t, "no link is left", func() bool { return w.Links() == 0 })
	}
}

func TestARefusedConnectionIsRefusedUntilTheServerIsBack(t *testing.T) {
	s, w := begin(t)
	client, _ := s.connected(w)
	for range 3 {
		back := w.Refuse()
		if err := client.ends(); err == nil {
			t.Error("the connection that there was goes on")
		}
		if conn, err := net.Dial("tcp", w.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a new one is %v, %v, want that it is refused", conn, err)
		}
		back()
		back() // changes nothing
		client, _ = s.connected(w)
	}
	w.Refuse() // the test ends that way
}

func TestATargetThatIsNotThereResetsWhoWantsIt(t *testing.T) {
	s := newServer(t)
	w := wire.Start(t, s.listener.Addr().String())
	s.listener.Close()
	conn, err := net.Dial("tcp", w.Addr())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v, want a reset", err)
	}
}

// A wire that ends in the middle of everything leaves no goroutine: TestMain looks.
func TestAWireEndsInEveryState(t *testing.T) {
	for name, set := range map[string]func(*wire.Way){
		"pass": (*wire.Way).Pass, "hold": (*wire.Way).Hold, "drop": (*wire.Way).Drop,
		"delay": func(w *wire.Way) { w.Delay(time.Hour) }, "drip": func(w *wire.Way) { w.Drip(1) },
	} {
		t.Run(name, func(t *testing.T) {
			s, w := begin(t)
			client, server := s.connected(w)
			set(w.ToServer)
			set(w.ToClient)
			client.say(strings.Repeat("x", 10_000))
			server.say(strings.Repeat("x", 10_000))
		})
	}
}
