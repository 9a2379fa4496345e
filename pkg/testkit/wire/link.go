package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// A queue is at most so many parcels of at most so many bytes: more than a TCP window on a loopback interface needs.
	queued = 64
	parcel = 16 << 10
)

// link is one connection through the wire.
type link struct {
	client, server net.Conn
	over           chan struct{} // closed when both ends are
	once           sync.Once
}

// end closes both ends. If it is abrupt, they see a reset.
func (l *link) end(abrupt bool) {
	l.once.Do(func() {
		for _, conn := range []net.Conn{l.client, l.server} {
			if tcp, isTCP := conn.(*net.TCPConn); isTCP && abrupt {
				_ = tcp.SetLinger(0) // it is closed next; a Unix socket knows no reset
			}
			_ = conn.Close() // what was not sent is lost, as it is meant to be
		}
		close(l.over)
	})
}

// run passes on what both ends say until both have ended.
func (l *link) run(w *Wire) {
	var both sync.WaitGroup
	for _, f := range []*flow{
		{link: l, from: l.client, to: l.server, way: w.ToServer, back: w.ToClient, queue: make(chan piece, queued)},
		{link: l, from: l.server, to: l.client, way: w.ToClient, back: w.ToServer, queue: make(chan piece, queued)},
	} {
		both.Go(f.read)
		both.Go(f.write)
	}
	both.Wait()
	l.end(false)
}

// piece is something that an end said.
type piece struct {
	bytes []byte
	came  time.Time
	// last: it says no more. reset: because it was reset.
	last, reset bool
}

// flow is one direction of a link.
type flow struct {
	link      *link
	from, to  net.Conn
	way, back *Way
	queue     chan piece
	torn      bool // something was lost, so nothing of it passes any more
}

func (f *flow) read() {
	buffer := make([]byte, parcel)
	for {
		n, err := f.from.Read(buffer)
		p := piece{bytes: bytes.Clone(buffer[:n]), came: time.Now(), last: err != nil, reset: err != nil && !errors.Is(err, io.EOF)}
		select {
		case f.queue <- p:
		case <-f.link.over:
			return
		}
		if p.last {
			return
		}
	}
}

func (f *flow) write() {
	for {
		select {
		case p := <-f.queue:
			if f.deliver(p); p.last {
				return
			}
		case <-f.link.over:
			return
		}
	}
}

// deliver returns when the piece is where the way lets it, or when the link is over.
func (f *flow) deliver(p piece) {
	for {
		s, changed := f.way.now()
		if s.lost && len(p.bytes) > 0 {
			f.torn = true
		}
		if f.torn {
			f.way.lose(len(p.bytes))
			p.bytes = nil
		}
		switch {
		case len(p.bytes) == 0 && !p.last:
			return
		case s.held || s.lost:
			if !f.wait(changed, nil) {
				return
			}
		case time.Until(p.came.Add(s.late)) > 0:
			timer := time.NewTimer(time.Until(p.came.Add(s.late)))
			goesOn := f.wait(changed, timer.C)
			timer.Stop()
			if !goesOn {
				return
			}
		case s.rate > 0 && len(p.bytes) > 0:
			n := min(len(p.bytes), s.rate/wake)
			if !f.say(p.bytes[:n]) {
				return
			}
			p.bytes = p.bytes[n:]
			timer := time.NewTimer(time.Second / wake)
			goesOn := f.wait(changed, timer.C)
			timer.Stop()
			if !goesOn {
				return
			}
		case len(p.bytes) > 0:
			if !f.say(p.bytes) {
				return
			}
			p.bytes = nil
		default:
			f.goodbye(p)
			return
		}
	}
}

// wait reports whether the link is still there when something has happened.
func (f *flow) wait(changed <-chan struct{}, later <-chan time.Time) bool {
	select {
	case <-changed:
	case <-later:
	case <-f.link.over:
		return false
	}
	return true
}

// say reports whether the other end takes it. That it does not is news which this end gets when the way back brings it.
func (f *flow) say(what []byte) bool {
	_, err := f.to.Write(what)
	if err == nil {
		return true
	}
	for {
		s, changed := f.back.now()
		if !s.held && !s.lost {
			f.link.end(true)
			return false
		}
		if !f.wait(changed, nil) {
			return false
		}
	}
}

// goodbye tells the other end that this one has ended. One that has missed something is told that the connection is broken.
func (f *flow) goodbye(p piece) {
	half, canHalf := f.to.(interface{ CloseWrite() error })
	if p.reset || f.torn || !canHalf || half.CloseWrite() != nil {
		f.link.end(true)
	}
}
