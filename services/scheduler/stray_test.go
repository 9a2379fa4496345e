package scheduler_test

import (
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// clockWentBack makes the lease end as much later as a clock that was set back by that would.
const clockWentBack = `update lease set expires_at = expires_at + interval '5 minutes'`

func TestALeaderRenewsALeaseThatTheClockRanAwayFrom(t *testing.T) {
	db := pgtest.New(t)
	store := scheduler.NewStore(db, time.Second)
	epoch := take(t, store, "one").Epoch
	for how, renew := range map[string]func() error{
		"with a tick": func() error {
			_, err := store.Tick(t.Context(), epoch, &scheduler.Plan{Look: true})
			return err
		},
		"with a glance": func() error {
			_, err := store.Glance(t.Context(), epoch, 0, nil)
			return err
		},
	} {
		pgtest.Must(t, db, 1, clockWentBack)
		if err := renew(); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if seat := bid(t, store, "two"); seat.Taken || seat.Left > time.Second {
			t.Errorf("%s: the other one found %+v, want a lease that lasts a second at most", how, seat)
		}
	}
}

func TestALeaderThatDiedBeforeTheClockWentBackIsReplacedAllTheSame(t *testing.T) {
	url := pgtest.URL(t)
	db := pgtest.Open(t, url)
	dead := take(t, scheduler.NewStore(db, time.Second), "dead")
	pgtest.Must(t, db, 1, clockWentBack)
	start(t, url, config()).awaitLeading(t)
	if epoch := pgtest.One[int64](t, db, `select epoch from lease`); epoch != dead.Epoch+1 {
		t.Errorf("the epoch is %d, after %d", epoch, dead.Epoch)
	}
}

// A standby has three looks' time to see that the leader lives.
func TestALeaderThatLivesIsNotRobbedWhenTheClockWentBack(t *testing.T) {
	url := pgtest.URL(t)
	first := start(t, url, config())
	first.awaitLeading(t)
	db := pgtest.Open(t, url)
	epoch := pgtest.One[int64](t, db, `select epoch from lease`)
	start(t, url, config())
	for range 3 {
		pgtest.Must(t, db, 1, clockWentBack)
		probe.Eventually(t, "the lease is renewed", func() bool {
			return pgtest.One[bool](t, db, `select expires_at <= now() + interval '1 second' from lease`)
		})
	}
	first.awaitLeading(t)
	if now := pgtest.One[int64](t, db, `select epoch from lease`); now != epoch {
		t.Errorf("the epoch was %d and is %d", epoch, now)
	}
}
