package executor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// lateRegister answers each registration that much later.
type lateRegister struct {
	*register

	late []time.Duration
}

func (g *lateRegister) Register(ctx context.Context, r *heartbeatv1.RegisterRequest, options ...grpc.CallOption) (*heartbeatv1.RegisterResponse, error) {
	late := g.late[0]
	g.late = g.late[1:]
	<-time.After(late)
	return g.register.Register(ctx, r, options...)
}

// A network stood still while an executor registered, and brought the answer when most of the lease was over. The executor said hello, was
// given tasks, and lost them a moment later, because its first beat could not be confirmed in time.
func TestALifeThatWasRegisteredTooLateDoesNotBegin(t *testing.T) {
	const ttl = 30 * time.Second // of stationOf
	for name, c := range map[string]struct {
		late []time.Duration
		want []string
	}{
		"in time":         {[]time.Duration{ttl / 3}, []string{"register instead of ", "A until 22.5s", "A says goodbye", "over"}},
		"too late":        {[]time.Duration{ttl/3 + 1, 0}, []string{"register instead of ", "A says goodbye", "register instead of ", "B until ", "B says goodbye", "over"}},
		"too late, twice": {[]time.Duration{ttl / 2, ttl / 2, 0}, []string{"register instead of ", "A says goodbye", "register instead of ", "B says goodbye", "register instead of ", "C until ", "C says goodbye", "over"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &lateRegister{&register{began: time.Now()}, c.late}
				s := stationOf(t, &scene{act: func(*run) *taskv1.Outcome { return completed("1") }, exit: func() {}}, nil)
				s.peers, s.line = Peers{Heartbeat: g, Scheduler: away{}}, nil
				s.clock = func() time.Duration { return time.Since(g.began) }
				s.witness = g.register
				began := make(chan struct{})
				s.prepare = func() error { close(began); return nil }
				ended := make(chan error, 1)
				go func() { ended <- s.run() }()
				<-began
				synctest.Wait()
				s.stop(AtOnce, errStopping)
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if len(g.notes) != len(c.want) {
					t.Fatalf("heard %q, want %q", g.notes, c.want)
				}
				for i, want := range c.want { // when a later one began depends on the pauses
					if got := g.notes[i]; got != want && !(strings.HasSuffix(want, " until ") && strings.HasPrefix(got, want)) {
						t.Error(cmp.Diff(c.want, g.notes))
						break
					}
				}
			})
		})
	}
}
