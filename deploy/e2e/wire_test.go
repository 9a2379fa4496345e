package e2e

import (
	"net"
	"sync"
	"testing"
)

// wire leads to an address, and holds what is on its way when a test wants it to, for as long as it wants. It knows nothing of
// what that is. Whoever is at its ends takes it for a slow network, up to the ten seconds after which gRPC takes it for a dead one.
type wire struct {
	addr               string
	toServer, toClient *valve

	listener net.Listener
	target   string
	running  sync.WaitGroup
	mu       sync.Mutex
	ends     []net.Conn
	closed   bool
}

// newWire ends with the test.
func newWire(t testing.TB, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: listener.Addr().String(), toServer: newValve(), toClient: newValve(), listener: listener, target: target}
	w.running.Go(w.accept)
	t.Cleanup(w.close)
	return w
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return // it was closed
		}
		server, err := net.Dial("tcp", w.target)
		if err != nil {
			client.Close()
			continue
		}
		if !w.add(client, server) {
			return
		}
		w.running.Go(func() { w.toServer.pump(client, server) })
		w.running.Go(func() { w.toClient.pump(server, client) })
	}
}

// add reports whether the wire is still there.
func (w *wire) add(ends ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends = append(w.ends, ends...)
	if w.closed {
		for _, end := range ends {
			end.Close()
		}
	}
	return !w.closed
}

func (w *wire) close() {
	w.toServer.release()
	w.toClient.release()
	w.mu.Lock()
	w.closed = true
	for _, end := range w.ends {
		end.Close()
	}
	w.mu.Unlock()
	w.listener.Close()
	w.running.Wait()
}

// valve is one direction of a wire.
type valve struct {
	mu   sync.Mutex
	open chan struct{} // closed while everything passes
}

func newValve() *valve {
	v := &valve{open: make(chan struct{})}
	close(v.open)
	return v
}

// hold lets nothing through from now on.
func (v *valve) hold() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
		v.open = make(chan struct{})
	default:
	}
}

// release lets everything through, what was held first.
func (v *valve) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

// pump passes on what one end says until either has ended.
func (v *valve) pump(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		v.mu.Lock()
		open := v.open
		v.mu.Unlock()
		<-open
		if _, wrong := to.Write(buffer[:n]); wrong != nil || err != nil {
			return
		}
	}
}
