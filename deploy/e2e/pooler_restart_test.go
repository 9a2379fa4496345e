package e2e

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// TestNothingIsLostWhenPgBouncerIsRestarted ends the pooler that all services reach their database through, under load, and
// starts it again. What it cut off may have been committed or not.
func TestNothingIsLostWhenPgBouncerIsRestarted(t *testing.T) {
	t.Parallel()
	pooler := bouncer.Run(t, pgtest.EmptyURL(t), bouncer.Servers)
	v := newServices(t, pooler.URL())
	v.database = pooler.URL() // and nothing in between
	s := v.migrate(t).start(t)
	for _, c := range []struct {
		says string
		end  func()
	}{
		{"it is killed", pooler.Kill},
		{"it is stopped in good order", pooler.Stop},
	} {
		t.Run(c.says, func(t *testing.T) {
			s := s.under(t)
			l := s.load()
			for range some(1, make([]int, 3)) {
				l.goesOn()
				c.end()
				pooler.Start()
				l.recovers(t, c.says)
			}
			l.goesOn()
			l.settle(s)
		})
	}
}
