package faults

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
)

// session is one connection of a client and the one to the server that belongs to it.
type session struct {
	p              *Proxy
	client, server net.Conn
	fromClient     *bufio.Reader
	fromServer     *bufio.Reader
	serverEnded    chan struct{} // closed when the server has closed its side, and so is through with everything

	mu        sync.Mutex
	ending    bool     // a fault ends it, and tells the client when it is through
	open      bool     // a transaction is, as far as the server has answered
	statement []string // of that transaction
	asked     []*exchange
}

// exchange is a request that was sent on, and what is to become of its answer.
type exchange struct {
	swallow bool
	// keeper holds the answer when it is complete.
	keeper *Armed
	kept   []byte

	executions int           // how many are asked for before the commit
	executed   chan struct{} // closed when those are answered, or one has failed
	answered   chan struct{} // closed at ReadyForQuery
}

func newExchange() *exchange {
	return &exchange{executed: make(chan struct{}), answered: make(chan struct{})}
}

func newSession(p *Proxy, client, server net.Conn) *session {
	return &session{
		p: p, client: client, server: server, fromClient: bufio.NewReader(client), fromServer: bufio.NewReader(server),
		serverEnded: make(chan struct{}),
	}
}

// cut ends both connections. What was written and not delivered may be lost.
func (s *session) cut() {
	s.client.Close()
	s.server.Close()
}

// run returns when both connections have ended.
func (s *session) run() {
	if !s.login() {
		return
	}
	var answers sync.WaitGroup
	answers.Go(s.answers)
	s.requests()
	s.cut()
	answers.Wait()
}

// login sends on what a client begins with, and reports whether a session follows.
func (s *session) login() bool {
	for {
		first, err := readFirst(s.fromClient)
		if err != nil || len(first.body()) < 4 {
			return false
		}
		switch binary.BigEndian.Uint32(first.body()) {
		case sslRequest, gssRequest:
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return false
			}
		case cancelRequest:
			// The server closes the connection when it has passed the wish on.
			if _, err := s.server.Write(first.raw); err == nil {
				_, _ = io.Copy(io.Discard, s.server)
			}
			return false
		default:
			s.ask(newExchange()) // the answer to a login ends with ReadyForQuery, too
			_, err := s.server.Write(first.raw)
			return err == nil
		}
	}
}

// ask adds an exchange whose request is about to be sent.
func (s *session) ask(e *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, e)
}

// requests sends on what the client says, one request at a time, until either side has ended or is cut off.
func (s *session) requests() {
	var messages []message
	split := false
	for {
		m, err := readMessage(s.fromClient)
		if err != nil {
			return
		}
		switch m.kind {
		case msgParse, msgBind, msgDescribe, msgExecute, msgClose:
			messages = append(messages, m)
		case msgQuery, msgSync:
			r := s.request(append(messages, m))
			r.split = split
			messages, split = nil, false
			if !s.pass(r) {
				return
			}
		default:
			// A flush wants answers to what came so far. Passwords, the data of a copy and the goodbye are no requests.
			split = split || m.kind == msgFlush
			if _, err := s.server.Write(joined(append(messages, m))); err != nil || m.kind == msgTerminate {
				return
			}
			messages = nil
		}
	}
}

// request is made of messages, and of what the transaction has seen before.
func (s *session) request(messages []message) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.statement = nil
	}
	r := newRequest(messages, s.open, s.statement)
	s.statement = r.Transaction
	return r
}

// pass sends a request on, or breaks it. It reports whether the session goes on.
func (s *session) pass(r *request) bool {
	armed := s.p.ruleFor(r)
	if armed == nil {
		s.ask(newExchange())
		return s.send(r.messages)
	}
	if armed.rule.Fault.aboutCommits() && r.commit < 0 {
		s.p.t.Errorf("faults: the commit in %q is in the middle of a message", r.Statements)
		return false
	}
	if armed.rule.Fault != HoldAnswer { // which ends in answer
		defer armed.end()
	}
	switch armed.rule.Fault {
	case Pass:
		armed.fire()
		s.ask(newExchange())
		return s.send(r.messages)
	case HoldRequest:
		armed.fire()
		if !armed.hold(s.p.closed) {
			return false
		}
		s.ask(newExchange())
		return s.send(r.messages)
	case CutBefore:
		s.endServer()
		armed.fire()
		return false
	case CutBeforeCommit:
		s.upToCommit(r, true)
		s.endServer()
		armed.fire()
		return false
	case HoldCommit:
		s.upToCommit(r, false)
		armed.fire()
		return armed.hold(s.p.closed) && s.send(r.messages[r.commit:])
	case CommitLate:
		e := s.upToCommit(r, true)
		armed.fire() // before anybody can ask for it
		s.client.Close()
		if armed.hold(s.p.closed) && s.send(r.messages[r.commit:]) {
			s.wait(e.answered)
		}
		return false
	case HoldAnswer:
		e := newExchange()
		e.keeper = armed
		s.ask(e)
		return s.send(r.messages)
	case LoseAnswer:
		e := newExchange()
		e.swallow = true
		s.ask(e)
		if s.send(r.messages) && s.wait(e.answered) {
			armed.fire()
		}
		return false
	default:
		s.p.t.Errorf("faults: there is no %s", armed.rule.Fault)
		return false
	}
}

func (s *session) send(messages []message) bool {
	_, err := s.server.Write(joined(messages))
	return err == nil
}

// upToCommit has the server execute what comes before the commit, and returns when it has. The commit is to be sent.
func (s *session) upToCommit(r *request, swallow bool) *exchange {
	before := r.messages[:r.commit]
	e := newExchange()
	e.swallow, e.executions = swallow, executions(before)
	s.ask(e)
	if e.executions == 0 {
		return e // they were earlier requests of the transaction
	}
	if _, err := s.server.Write(append(joined(before), flushed()...)); err == nil {
		s.wait(e.executed) // or the server is gone, which the next write finds out
	}
	return e
}

// endServer ends the session at the server, and returns when the server has undone what was open in it.
func (s *session) endServer() {
	s.mu.Lock()
	s.ending = true
	for _, e := range s.asked {
		e.swallow = true // the client learns nothing of it
	}
	if len(s.asked) == 0 {
		farewell := newExchange()
		farewell.swallow = true
		s.asked = append(s.asked, farewell)
	}
	s.mu.Unlock()
	if half, ok := s.server.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		select {
		case <-s.serverEnded:
		case <-s.p.closed:
		}
	}
}

// wait returns when what is waited for has happened, or false when it will not.
func (s *session) wait(happened <-chan struct{}) bool {
	select {
	case <-happened:
		return true
	case <-s.serverEnded:
		return false
	case <-s.p.closed:
		return false
	}
}

// answers sends on what the server says, or keeps it, until either side has ended. A client that is gone keeps nobody from
// hearing the server out.
func (s *session) answers() {
	defer s.serverIsGone()
	client := bufio.NewWriter(s.client)
	for {
		m, err := readMessage(s.fromServer)
		if err != nil {
			_ = client.Flush() // the client may be gone as well
			return
		}
		send := s.answer(m)
		_, _ = client.Write(send)
		if s.fromServer.Buffered() == 0 || m.kind == msgReady {
			_ = client.Flush()
		}
	}
}

func (s *session) serverIsGone() {
	close(s.serverEnded)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.client.Close() // lets requests end
	}
}

// answer notes what a message of the server means, and returns what is to be sent to the client now.
func (s *session) answer(m message) []byte {
	s.mu.Lock()
	if len(s.asked) == 0 {
		s.mu.Unlock()
		return m.raw // nobody asked: a notice, or a farewell
	}
	e := s.asked[0]
	switch m.kind {
	case msgCommandComplete, msgEmptyQuery, msgSuspended:
		e.executions--
		if e.executions == 0 {
			close(e.executed)
		}
	case msgError:
		if e.executions > 0 {
			close(e.executed)
		}
		e.executions = 0
	case msgReady:
		s.open = len(m.body()) > 0 && m.body()[0] != idle
		s.asked = slices.Delete(s.asked, 0, 1)
		close(e.answered)
	}
	swallow := e.swallow
	s.mu.Unlock()
	switch {
	case swallow:
		return nil
	case e.keeper == nil:
		return m.raw
	}
	e.kept = append(e.kept, m.raw...)
	if m.kind != msgReady {
		return nil
	}
	e.keeper.fire()
	defer e.keeper.end()
	if !e.keeper.hold(s.p.closed) {
		return nil
	}
	return e.kept
}
