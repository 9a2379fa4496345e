package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
)

const (
	// resolveEvery is the time between looks at what a name stands for.
	resolveEvery = 5 * time.Second
	// askAgain is the least time between two attempts to watch a scheduler; the most is twice that.
	askAgain = 100 * time.Millisecond
)

var (
	errNoLeader = errs.Away(errs.NotLeading, nil, "no scheduler leads")
	errMoved    = errs.Away(errs.NotLeading, nil, "another scheduler leads now")
)

// Dialer is Dial or DialRaw.
type Dialer func(target string, extra ...grpc.DialOption) (*grpc.ClientConn, error)

// Leader is a connection to whichever of several schedulers leads. It watches all of them, and sends every call to the one
// with the highest epoch. While none leads, calls fail at once with UNAVAILABLE and reason NOT_LEADING. Those that say
// WaitForReady wait for a leader, and so do executors' lines (Acquire): an executor has nothing to do without one, and its own
// attempts, which come further and further apart, would find a new one up to a second late.
//
// The epoch, and not a scheduler's own word that it leads, decides, because that word can be old: a process that was stopped
// (SIGSTOP) keeps its connections, and gRPC pings them every ten seconds at most. When a higher epoch shows up, calls that are
// open at an earlier leader are cut, since it may never answer them; a leader that goes in good order ends its calls itself.
//
// gRPC's own health checking would need no more than a service config, but knows only "serving": of two that say so it takes
// both, and it never cuts a call.
type Leader struct {
	dial Dialer
	stop context.CancelFunc
	runs sync.WaitGroup

	mu         sync.Mutex
	asked      bool                  // every address was looked up once
	candidates map[string]*candidate // by resolved address
	reign      *reign                // nil while none leads
	latest     *reign                // the last one, whether or not it lasts
	changed    chan struct{}         // closed and replaced when any of this changes
}

// candidate is one scheduler.
type candidate struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	// heard is set once it has answered, or was found not to.
	heard bool
	epoch int64
	ready bool
}

// reign is one leadership, as seen from here.
type reign struct {
	by    *candidate
	epoch int64
	// over is ended when another leadership has come.
	over context.Context
	end  context.CancelFunc
}

// DialLeader prepares a connection to the leader among schedulers. Each address is HOST:PORT; a name may stand for several
// schedulers, and for others as time goes by. It lasts until Close, which must be called, and not only as long as ctx.
func DialLeader(ctx context.Context, dial Dialer, addrs ...string) (*Leader, error) {
	for _, addr := range addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("must have the form host:port, is %q", addr)
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("must have the form host:port, is empty")
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &Leader{dial: dial, stop: stop, candidates: map[string]*candidate{}, changed: make(chan struct{})}
	l.runs.Go(func() { l.resolve(ctx, addrs) })
	return l, nil
}

// SplitAddrs reads a list of addresses with commas between them.
func SplitAddrs(list string) []string {
	var addrs []string
	for addr := range strings.SplitSeq(list, ",") {
		if addr = strings.TrimSpace(addr); addr != "" {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// Close cuts all calls.
func (l *Leader) Close() error {
	l.stop()
	l.runs.Wait()
	return nil
}

// resolve keeps a candidate for each address that the names stand for.
func (l *Leader) resolve(ctx context.Context, addrs []string) {
	known := map[string][]string{} // by name: its last answer counts while there is none
	for {
		var all []string
		names := false
		for _, addr := range addrs {
			host, port, _ := net.SplitHostPort(addr)
			if net.ParseIP(host) != nil {
				all = append(all, addr)
				continue
			}
			names = true
			if ips, err := net.DefaultResolver.LookupHost(ctx, host); err == nil {
				known[addr] = nil
				for _, ip := range ips {
					known[addr] = append(known[addr], net.JoinHostPort(ip, port))
				}
			}
			all = append(all, known[addr]...)
		}
		l.keep(ctx, all)
		if !names {
			return
		}
		if !run.Pause(ctx, resolveEvery) {
			return
		}
	}
}

// keep watches exactly these schedulers. One that is on the list no more, but still answers, may lead until it stops: a name
// server forgets a process that is about to end before it has ended.
func (l *Leader) keep(ctx context.Context, addrs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	listed := make(map[string]bool, len(addrs))
	for _, addr := range addrs {
		listed[addr] = true
		if l.candidates[addr] != nil {
			continue
		}
		conn, err := l.dial("passthrough:///" + addr)
		if err != nil {
			continue // not for an address of this form
		}
		watchCtx, cancel := context.WithCancel(ctx)
		p := &candidate{conn: conn, cancel: cancel}
		l.candidates[addr] = p
		l.runs.Go(func() { l.watch(watchCtx, p) })
	}
	for addr, p := range l.candidates {
		if !listed[addr] && p.epoch == 0 {
			p.cancel()
			delete(l.candidates, addr)
		}
	}
	l.asked = true
	l.announce()
}

// watch keeps what is known of one scheduler up to date.
func (l *Leader) watch(ctx context.Context, p *candidate) {
	defer func() { _ = p.conn.Close() }() // it only fails when closed twice
	client := schedulerv1.NewSchedulerServiceClient(p.conn)
	for {
		stream, err := client.WatchLeadership(ctx, &schedulerv1.WatchLeadershipRequest{})
		for err == nil {
			var now *schedulerv1.WatchLeadershipResponse
			if now, err = stream.Recv(); err == nil {
				l.note(ctx, p, now.GetEpoch(), now.GetReady())
			}
		}
		l.note(ctx, p, 0, false)
		if !run.Pause(ctx, askAgain+rand.N(askAgain)) {
			return
		}
	}
}

// note takes in what a scheduler says, or that it says nothing, and works out who leads.
func (l *Leader) note(ctx context.Context, p *candidate, epoch int64, ready bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.heard && p.epoch == epoch && p.ready == ready {
		return
	}
	p.heard, p.epoch, p.ready = true, epoch, ready

	var highest *candidate
	for _, other := range l.candidates {
		// Behind several gateways the same leadership is found several times: calls stay where they are.
		current := l.latest != nil && l.latest.by == other
		if other.epoch > 0 && (highest == nil || other.epoch > highest.epoch || other.epoch == highest.epoch && current) {
			highest = other
		}
	}
	switch {
	case highest == nil || !highest.ready:
		l.reign = nil
	case l.latest != nil && l.latest.by == highest && l.latest.epoch == highest.epoch:
		l.reign = l.latest // it was out of reach for a moment
	default:
		if l.latest != nil {
			l.latest.end()
		}
		over, end := context.WithCancel(context.WithoutCancel(ctx))
		l.latest = &reign{by: highest, epoch: highest.epoch, over: over, end: end}
		l.reign = l.latest
	}
	l.announce()
}

// announce wakes those who wait for a leader. It must be called with mu held.
func (l *Leader) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// find returns the present leadership. Not knowing yet is not the same as there being none: until every scheduler has
// answered, or was found not to, it waits.
func (l *Leader) find(ctx context.Context, wait bool) (*reign, error) {
	for {
		l.mu.Lock()
		found, known, changed := l.reign, l.asked, l.changed
		for _, p := range l.candidates {
			known = known && p.heard
		}
		l.mu.Unlock()
		switch {
		case found != nil:
			return found, nil
		case known && !wait:
			return nil, errNoLeader
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// waits reports whether a call would rather wait than fail.
func waits(opts []grpc.CallOption) bool {
	wait := false
	for _, o := range opts {
		if failFast, is := o.(grpc.FailFastCallOption); is {
			wait = !failFast.FailFast
		}
	}
	return wait
}

// begin finds the leader for one call, which must run under the context and with the options that it returns.
func (l *Leader) begin(ctx context.Context, method string, opts []grpc.CallOption) (*grpc.ClientConn, context.Context, []grpc.CallOption, error) {
	r, err := l.find(ctx, waits(opts) || method == schedulerv1.SchedulerService_Acquire_FullMethodName)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cut := context.WithCancelCause(ctx)
	release := context.AfterFunc(r.over, func() { cut(errMoved) })
	ended := grpc.OnFinish(func(error) {
		release()
		cut(nil)
	})
	return r.by.conn, ctx, append(opts[:len(opts):len(opts)], ended), nil
}

// why says that a call was cut, and not canceled by its caller.
func why(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errMoved) && status.Code(err) == codes.Canceled {
		return errMoved
	}
	return err
}

// Invoke makes a unary call.
func (l *Leader) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, ctx, opts, err := l.begin(ctx, method, opts)
	if err != nil {
		return err
	}
	return why(ctx, conn.Invoke(ctx, method, args, reply, opts...))
}

// NewStream opens a stream.
func (l *Leader) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	conn, ctx, opts, err := l.begin(ctx, method, opts)
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, why(ctx, err)
	}
	return leaderStream{stream, ctx}, nil
}

// leaderStream says what a stream was cut for.
type leaderStream struct {
	grpc.ClientStream
	bound context.Context // the stream's own, which knows the cause
}

func (s leaderStream) RecvMsg(m any) error { return why(s.bound, s.ClientStream.RecvMsg(m)) }

func (s leaderStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, why(s.bound, err)
}
