package heartbeat_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// The clock of the server of a test can't be set. What can: everything that was written by it before, and what the service
// remembers of it.
func (w *world) setClock(t *testing.T, by time.Duration) {
	t.Helper()
	w.service.ThinksTheClockWas(-by)
	if _, err := w.Exec(t.Context(), `update app set registered_at = registered_at - $1::interval, last_beat_at = last_beat_at - $1::interval`, by); err != nil {
		t.Fatal(err)
	}
}

func TestDatabaseWhoseClockIsSetDeclaresNobodyMissingWhoBeats(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, 24 * time.Hour, -time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			w := newWorld(t)
			beating, silent := w.register(t, "beating"), w.register(t, "silent")
			w.silence(t, silent, "9 s")
			w.silence(t, beating, "2 s")
			w.setClock(t, by)
			if _, err := w.tryRegister(t, "silent", heartbeatv1.Kind_KIND_WORKER); !errs.Is(err, errs.NameTaken) {
				t.Errorf("a name of somebody who was silent for 9 of 10 s: %v", err)
			}
			w.service.SweepNow()
			l := w.open(t)
			for range 3 {
				if err := l.beat(t, beating); err != nil {
					t.Fatal(err)
				}
				w.service.SweepNow()
			}
			// Nobody's last beat stays in the future, or his silence would not end.
			probe.Eventually(t, "beats are in the past", func() bool {
				return pgtest.One[bool](t, w, `select bool_and(last_beat_at <= clock_timestamp()) from app`)
			})
			if since := w.service.Belief().Since; time.Since(since).Abs() > time.Minute {
				t.Errorf("silence counts from %s, %s ago", since, time.Since(since))
			}
			for name, incarnation := range map[string]string{"beating": beating, "silent": silent} {
				if got := w.state(t, incarnation); got != "open" {
					t.Errorf("%s is %s", name, got)
				}
			}
			// Ten seconds later: what counts is silence since the clock was set.
			w.service.HasKnownTheClockFor(11 * time.Second)
			w.silence(t, silent, "11 s")
			w.service.SweepNow()
			probe.Eventually(t, "the silent one is missing", func() bool { return w.state(t, silent) == "missing" })
			if got := w.state(t, beating); got != "open" {
				t.Errorf("the one that beats is %s", got)
			}
		})
	}
}

// What a look decides, and a registration under the same name, for each belief.
func TestSilenceIsJudgedByWhatIsBelieved(t *testing.T) {
	w := newWorld(t)
	now := func() time.Time { return pgtest.One[time.Time](t, w, `select now()`) }
	for name, c := range map[string]struct {
		silent  string // for how long, of 10 s
		belief  func() heartbeat.Belief
		missing bool
		next    time.Duration // about
	}{
		"silent":                 {"11 s", func() heartbeat.Belief { return heartbeat.Belief{now().Add(time.Hour), now().Add(-time.Hour)} }, true, 0},
		"not yet":                {"8 s", func() heartbeat.Belief { return heartbeat.Belief{now().Add(time.Hour), now().Add(-time.Hour)} }, false, 2 * time.Second},
		"nothing is known":       {"1 h", func() heartbeat.Belief { return heartbeat.Belief{} }, false, 10 * time.Second},
		"the clock was just set": {"1 h", func() heartbeat.Belief { return heartbeat.Belief{now().Add(time.Hour), now()} }, false, 10 * time.Second},
		"it was, a while ago":    {"1 h", func() heartbeat.Belief { return heartbeat.Belief{now().Add(time.Hour), now().Add(-11 * time.Second)} }, true, 0},
		"it seems to be set forward": {"1 h", func() heartbeat.Belief {
			return heartbeat.Belief{now().Add(-59*time.Minute - 58*time.Second), now().Add(-2 * time.Hour)}
		}, false, 8 * time.Second},
		"a beat from the future": {"-1 h", func() heartbeat.Belief { return heartbeat.Belief{now().Add(time.Hour), now().Add(-time.Hour)} }, false, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := w.Exec(t.Context(), `truncate app, app_over`); err != nil {
				t.Fatal(err)
			}
			incarnation := w.register(t, "w1")
			w.silence(t, incarnation, c.silent)
			swept, err := w.store.Sweep(t.Context(), c.belief())
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Equal(swept.Missing, []string{"worker w1"}); got != c.missing || swept.Alive == c.missing {
				t.Errorf("missing %q, alive %v", swept.Missing, swept.Alive)
			}
			if swept.Alive && (swept.Next-c.next).Abs() > time.Second {
				t.Errorf("the next look in %s, want about %s", swept.Next, c.next)
			}
			if off := time.Since(swept.At); off.Abs() > time.Minute {
				t.Errorf("its clock is off by %s", off)
			}
			// Whoever wants the name is judged by the same.
			if _, err := w.Exec(t.Context(), `truncate app, app_over`); err != nil {
				t.Fatal(err)
			}
			w.silence(t, w.register(t, "w1"), c.silent)
			made, err := w.store.Insert(t.Context(), heartbeat.App{
				Incarnation: unknownID, Name: "w1", Kind: "worker", TTL: time.Second, Versions: map[string]string{},
			}, "", c.belief())
			if err != nil || made.Taken == c.missing || made.Ended != c.missing || time.Since(made.At).Abs() > time.Minute {
				t.Errorf("a successor: %+v, %v", made, err)
			}
		})
	}
}

func TestSweepSaysWhenTheNextLifeCanBeOver(t *testing.T) {
	w := newWorld(t)
	if swept, err := w.store.Sweep(t.Context(), w.known()); err != nil || swept.Alive {
		t.Errorf("nobody lives: %v, %v", swept, err)
	}
	for i, silent := range []string{"1 s", "7 s", "4 s", "11 s"} {
		w.silence(t, w.register(t, fmt.Sprint("w", i)), silent)
	}
	w.deregister(t, w.register(t, "over"), false)
	for _, missing := range [][]string{{"worker w3"}, {}} {
		swept, err := w.store.Sweep(t.Context(), w.known())
		if err != nil || !swept.Alive || swept.Next > 3*time.Second || swept.Next < time.Second {
			t.Errorf("the next life can be over in %s, %v; want a bit less than 3 s", swept.Next, err)
		}
		if diff := cmp.Diff(missing, swept.Missing); diff != "" {
			t.Error(diff)
		}
	}
}

func TestBeatsAnswerWhoLivesAndForHowLong(t *testing.T) {
	w := newWorld(t)
	var beats []heartbeat.Beat
	var want []time.Duration
	for i, ttl := range []string{"1 s", "1.5 s", "1 h", "30 s"} {
		incarnation := uuid.MustParse(w.register(t, fmt.Sprint("w", i)))
		pgtest.Must(t, w, 1, `update app set ttl = $2::text::interval where incarnation = $1::text::uuid`, incarnation.String(), ttl)
		d := []time.Duration{time.Second, 1500 * time.Millisecond, time.Hour, 0}[i]
		if i == 3 {
			w.deregister(t, incarnation.String(), false)
		}
		beats, want = append(beats, heartbeat.Beat{Incarnation: incarnation, Hearing: heartbeat.Hears}), append(want, d)
	}
	beats, want = append(beats, heartbeat.Beat{Incarnation: uuid.MustParse(unknownID)}), append(want, 0)
	got, err := w.store.Beat(t.Context(), beats)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.TTLs); diff != "" {
		t.Error(diff)
	}
	if off := time.Since(got.At); off.Abs() > time.Minute {
		t.Errorf("its clock is off by %s", off)
	}
	if got, err := w.store.Beat(t.Context(), beats[3:]); err != nil || !slices.Equal(got.TTLs, []time.Duration{0, 0}) {
		t.Errorf("beats of the dead: %v, %v", got, err)
	}
}

// Beats are what ten thousand idle executors cost: each may change its page, and nothing else.
func TestBeatsAreHOT(t *testing.T) {
	w := newWorld(t)
	const lives = 500
	pgtest.Must(t, w, lives, `insert into app (incarnation, name, kind, ttl, versions)
		select gen_random_uuid(), 'executor-' || i, 'worker', '30 s', '{"core": "3.2", "sluice": "0.5.0"}' from generate_series(1, $1) i`, lives)
	if _, err := w.Exec(t.Context(), `vacuum app`); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Open(t, w.url)
	var updates, hot int64
	for round := range 20 {
		tx := pgtest.Begin(t, pool)
		// Other ones each time, as in life, and now and then one that is deaf.
		pgtest.Must(t, tx, 1, `
			select heartbeat_beat(array_agg(incarnation order by incarnation), array_agg(case when mod(n, 7) = 0 then -1 else 1 end order by incarnation))
			from (select incarnation, row_number() over (order by incarnation) as n from app) a where mod(n + $1, 5) < 2`, round)
		err := tx.QueryRow(t.Context(), `select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'app'`).Scan(&updates, &hot)
		if err != nil {
			t.Fatal(err)
		}
		tx.Commit(t)
		if updates == 0 || hot != updates { // they are counted up until the session publishes them
			t.Errorf("round %d: %d of %d updates are HOT", round, hot, updates)
		}
	}
}
