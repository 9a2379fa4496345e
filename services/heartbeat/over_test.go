package heartbeat_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// replace registers under a name, and says which life of before has stopped.
func (w *world) replace(t *testing.T, name string, kind heartbeatv1.Kind, replaces string) (string, error) {
	t.Helper()
	answer, err := w.client.Register(t.Context(), &heartbeatv1.RegisterRequest{
		Name: name, Kind: kind, Ttl: durationpb.New(10 * time.Second), Replaces: replaces,
	})
	return answer.GetIncarnation(), err
}

func (w *world) deregister(t *testing.T, incarnation string, dead bool) {
	t.Helper()
	if _, err := w.client.Deregister(t.Context(), &heartbeatv1.DeregisterRequest{Incarnation: incarnation, Dead: dead}); err != nil {
		t.Fatal(err)
	}
}

// state of a life: "open", "missing" or "ended".
func (w *world) state(t *testing.T, incarnation string) string {
	t.Helper()
	return pgtest.One[string](t, w, `
		select case when missing_at is not null and ended_at is not null then 'both' when missing_at is not null then 'missing'
		            when ended_at is not null then 'ended' else 'open' end from app where incarnation = $1::text::uuid`, incarnation)
}

// Whatever ends the life of an executor leaves a note of it, in the same transaction, and the scheduler is told.
func TestEveryEndOfAnExecutorIsNotedAndTold(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(t *testing.T, w *world, incarnation string)
		want string
	}{
		"said goodbye": {func(t *testing.T, w *world, i string) { w.deregister(t, i, false) }, "ended"},
		"is dead":      {func(t *testing.T, w *world, i string) { w.deregister(t, i, true) }, "missing"},
		"was replaced": {func(t *testing.T, w *world, i string) {
			if _, err := w.replace(t, "w1", heartbeatv1.Kind_KIND_WORKER, i); err != nil {
				t.Fatal(err)
			}
		}, "missing"},
		"was silent when its name was wanted": {func(t *testing.T, w *world, i string) {
			w.silence(t, i, "11 s")
			w.register(t, "w1")
		}, "missing"},
		"was silent when somebody looked": {func(t *testing.T, w *world, i string) {
			w.silence(t, i, "11 s")
			w.service.SweepNow()
			probe.Eventually(t, "it is missing", func() bool { return w.state(t, i) == "missing" })
		}, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			incarnation := w.register(t, "w1")
			w.register(t, "another")
			if n := w.hints.offers.Load(); n != 0 {
				t.Errorf("%d hints while nobody's life was over", n)
			}
			c.end(t, w, incarnation)
			if got := w.state(t, incarnation); got != c.want {
				t.Errorf("it is %s", got)
			}
			if diff := cmp.Diff([]string{"w1 " + c.want}, w.over(t)); diff != "" {
				t.Error(diff)
			}
			same := `select (select coalesce(missing_at, ended_at) from app where incarnation = $1::text::uuid) = noted_at from app_over`
			if !pgtest.One[bool](t, w, same, incarnation) {
				t.Error("the note is of another transaction than the end")
			}
			probe.Eventually(t, "the scheduler is told", func() bool { return w.hints.offers.Load() == 1 })
			// It is over once: who says so again changes nothing.
			w.deregister(t, incarnation, false)
			w.deregister(t, incarnation, true)
			if got := w.state(t, incarnation); got != c.want {
				t.Errorf("after it ended again it is %s", got)
			}
			if diff := cmp.Diff([]string{"w1 " + c.want}, w.over(t)); diff != "" {
				t.Error(diff)
			}
			if err := w.open(t).beat(t, incarnation); !errs.Is(err, errs.Fenced) {
				t.Errorf("its next beat is told %v", err)
			}
		})
	}
}

// What is no executor has no tasks: nobody need know that it is gone.
func TestEndOfAGatewayIsNotNoted(t *testing.T) {
	w := newWorld(t)
	for i, end := range []func(incarnation string){
		func(i string) { w.deregister(t, i, false) },
		func(i string) { w.deregister(t, i, true) },
		func(i string) {
			if _, err := w.replace(t, "api 2", heartbeatv1.Kind_KIND_API, i); err != nil {
				t.Fatal(err)
			}
		},
		func(i string) {
			w.silence(t, i, "11 s")
			w.service.SweepNow()
			probe.Eventually(t, "it is missing", func() bool { return w.state(t, i) == "missing" })
		},
	} {
		incarnation, err := w.tryRegister(t, fmt.Sprint("api ", i), heartbeatv1.Kind_KIND_API)
		if err != nil {
			t.Fatal(err)
		}
		end(incarnation)
	}
	if over := w.over(t); len(over) != 0 {
		t.Errorf("noted: %q", over)
	}
	// The first hint that comes is that of an executor.
	w.deregister(t, w.register(t, "w1"), false)
	probe.Eventually(t, "a hint", func() bool { return w.hints.offers.Load() > 0 })
	if n := w.hints.offers.Load(); n != 1 {
		t.Errorf("%d hints", n)
	}
}

func TestOnlyTheLifeThatHasTheNameIsReplaced(t *testing.T) {
	w := newWorld(t)
	mine, other := w.register(t, "w1"), w.register(t, "w2")
	api, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_API)
	if err != nil {
		t.Fatal(err)
	}
	for what, replaces := range map[string]string{"another name's": other, "another kind's": api, "an unknown one": unknownID, "none": ""} {
		if _, err := w.replace(t, "w1", heartbeatv1.Kind_KIND_WORKER, replaces); !errs.Is(err, errs.NameTaken) {
			t.Errorf("replacing %s: %v", what, err)
		}
	}
	for _, incarnation := range []string{mine, other, api} {
		if err := w.open(t).beat(t, incarnation); err != nil {
			t.Errorf("one that was not replaced is told %v", err)
		}
	}
	second, err := w.replace(t, "w1", heartbeatv1.Kind_KIND_WORKER, mine)
	if err != nil {
		t.Fatal(err)
	}
	// The same again: its answer was lost, perhaps. That life is over, and the name has a new owner.
	if _, err := w.replace(t, "w1", heartbeatv1.Kind_KIND_WORKER, mine); !errs.Is(err, errs.NameTaken) {
		t.Errorf("replacing the same one again: %v", err)
	}
	if err := w.open(t).beat(t, second); err != nil {
		t.Errorf("the successor is told %v", err)
	}
	w.deregister(t, second, false)
	if _, err := w.replace(t, "w1", heartbeatv1.Kind_KIND_WORKER, mine); err != nil {
		t.Errorf("replacing one that is over, when the name is free: %v", err)
	}
	if diff := cmp.Diff([]string{"w1 ended", "w1 missing"}, w.over(t)); diff != "" {
		t.Error(diff)
	}
}

// The name of a registration that nobody heard of must not be taken for a whole time to live.
func TestRegistrationWhoseCallerIsGoneIsTakenBack(t *testing.T) {
	w := newWorld(t)
	// What holds the name up is a registration of the same that is about to be taken back: ours waits for it.
	other := pgtest.Begin(t, pgtest.Open(t, w.url))
	pgtest.Must(t, other, 1, `insert into app (incarnation, name, kind, ttl) values (gen_random_uuid(), 'w1', 'worker', '1 h')`)
	gone := w.untilGone(t)
	ctx, leave := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := gone.Begin(ctx, heartbeat.App{Name: "w1", Kind: "worker", TTL: time.Hour}, "")
		answered <- err
	}()
	probe.Eventually(t, "the registration waits", func() bool {
		return pgtest.One[bool](t, w, `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`)
	})
	leave()
	other.Rollback(t)
	if err := <-answered; err == nil {
		t.Error("a caller who is gone was answered")
	}
	probe.Eventually(t, "the name is free", func() bool {
		_, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_WORKER)
		return err == nil
	})
}

// deafToGoodbyes runs statements to their end, whether somebody waits for them or not: as a server does whose word that it is
// done gets lost.
type deafToGoodbyes struct{ *heartbeat.Store }

func (d deafToGoodbyes) Insert(ctx context.Context, a heartbeat.App, replaces string, belief heartbeat.Belief) (heartbeat.Registered, error) {
	return d.Store.Insert(context.WithoutCancel(ctx), a, replaces, belief)
}

func (w *world) untilGone(t *testing.T) *heartbeat.Service {
	t.Helper()
	return heartbeat.New(heartbeat.Defaults(), deafToGoodbyes{w.store}, w.hints, quiet())
}

func TestManyEndsAreFewHints(t *testing.T) {
	w := newWorld(t)
	var ends []func()
	for i := range 200 {
		incarnation := w.register(t, fmt.Sprint("w", i))
		ends = append(ends, func() { w.deregister(t, incarnation, i%2 == 0) })
	}
	all(ends...)
	if n := len(w.over(t)); n != 200 {
		t.Errorf("%d notes", n)
	}
	// The last word is always said: another end is another hint.
	before := w.hints.offers.Load()
	w.deregister(t, w.register(t, "last"), false)
	probe.Eventually(t, "a hint for the last", func() bool { return w.hints.offers.Load() > before })
	if n := w.hints.offers.Load(); n > 100 {
		t.Errorf("%d hints for 201 ends", n)
	}
}

// A beat through either of two services counts, and so does the look of either.
func TestTwoServicesWorkOnOneDatabase(t *testing.T) {
	url := pgtest.URL(t)
	cfg := heartbeat.Config{FlushEvery: time.Millisecond, SweepEvery: time.Hour, KeepFor: time.Hour}
	first, second := worldWith(t, url, cfg), worldWith(t, url, cfg)
	const each = 20
	var beats []func()
	var alive, silent []string
	for i := range each {
		incarnation := first.register(t, fmt.Sprint("alive ", i))
		alive = append(alive, incarnation)
		silent = append(silent, second.register(t, fmt.Sprint("silent ", i)))
		first.silence(t, incarnation, "11 s")
		first.silence(t, silent[i], "11 s")
		for _, w := range []*world{first, second} {
			beats = append(beats, func() {
				if err := w.open(t).beat(t, incarnation); err != nil {
					t.Errorf("told %v", err)
				}
			})
		}
	}
	all(beats...)
	if _, err := second.tryRegister(t, "alive 0", heartbeatv1.Kind_KIND_WORKER); !errs.Is(err, errs.NameTaken) {
		t.Errorf("the name of one that beats elsewhere: %v", err)
	}
	first.service.SweepNow()
	second.service.SweepNow()
	probe.Eventually(t, "the silent are missing", func() bool { return len(first.over(t)) == each })
	for _, incarnation := range alive {
		if got := first.state(t, incarnation); got != "open" {
			t.Errorf("one that beats is %s", got)
		}
	}
	for _, incarnation := range silent {
		for _, w := range []*world{first, second} {
			if err := w.open(t).beat(t, incarnation); !errs.Is(err, errs.Fenced) {
				t.Errorf("one that is missing is told %v", err)
			}
		}
	}
	probe.Eventually(t, "the scheduler is told", func() bool { return first.hints.offers.Load()+second.hints.offers.Load() > 0 })
}

func TestDeafExecutorShowsUntilItHears(t *testing.T) {
	w := newWorld(t)
	worker, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_WORKER)
	if err != nil {
		t.Fatal(err)
	}
	api, err := w.tryRegister(t, "api", heartbeatv1.Kind_KIND_API)
	if err != nil {
		t.Fatal(err)
	}
	deaf := func() (names []string) {
		for _, a := range w.list(t, &heartbeatv1.ListAppsRequest{IncludeGone: true}) {
			if a.GetDeafSince() != nil {
				names = append(names, a.GetName())
			}
		}
		return names
	}
	since := func() time.Time {
		return pgtest.One[time.Time](t, w, `select deaf_since from app where name = 'w1'`)
	}
	heard := func(d time.Duration) *heartbeatv1.Hearing {
		return &heartbeatv1.Hearing{Epoch: 1, SilentFor: durationpb.New(d)}
	}
	gateway, l := w.open(t), w.open(t)
	for range 3 {
		if err := gateway.beat(t, api); err != nil {
			t.Fatal(err)
		}
	}
	say := func(l line, h *heartbeatv1.Hearing) {
		t.Helper()
		if err := l.Send(&heartbeatv1.BeatRequest{Incarnation: worker, Hearing: h}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	is := func(when string, want ...string) {
		t.Helper()
		if got := deaf(); !slices.Equal(got, want) {
			t.Errorf("%s: deaf are %q, want %q", when, got, want)
		}
	}
	say(l, nil)
	is("it just began")
	say(l, heard(time.Second))
	is("it hears")
	say(l, heard(31*time.Second))
	is("its line says nothing", "w1")
	first := since()
	say(l, nil)
	say(l, nil)
	is("it lost its line", "w1")
	l = w.open(t)
	say(l, nil)
	is("it beats on another stream", "w1")
	if !since().Equal(first) {
		t.Errorf("it is deaf since %s, and was since %s", since(), first)
	}
	say(l, heard(0))
	is("it hears again")
	say(l, nil)
	say(l, nil)
	is("it is deaf again", "w1")
	w.deregister(t, worker, true)
	is("its life is over")
}

// However full the table was when the plan was made, each beat is one look into the index of incarnations.
func TestPlanOfBeatsIsRightForTablesOfAnySize(t *testing.T) {
	for _, rows := range []int{0, 1, 3, 300} {
		w := newWorld(t)
		pgtest.Must(t, w, int64(rows), `insert into app (incarnation, name, kind, ttl) select gen_random_uuid(), 'w' || i, 'worker', '1 h' from generate_series(1, $1) i`, rows)
		if _, err := w.Exec(t.Context(), `analyze app`); err != nil {
			t.Fatal(err)
		}
		body := pgtest.One[string](t, w, `select prosrc from pg_proc where proname = 'heartbeat_beat'`)
		_, body, _ = strings.Cut(body, "return query")
		body, _, _ = strings.Cut(body, ";")
		body = strings.NewReplacer("unnest(incarnations, hearing)", "unnest($1::uuid[], $2::integer[])").Replace(body)
		tx := pgtest.Begin(t, pgtest.Open(t, w.url))
		for _, set := range []string{"enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off", "plan_cache_mode = force_generic_plan"} {
			if _, err := tx.Exec(t.Context(), "set local "+set); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tx.Exec(t.Context(), "prepare beat(uuid[], integer[]) as "+strings.NewReplacer("$1::uuid[]", "$1", "$2::integer[]", "$2").Replace(body)); err != nil {
			t.Fatal(err)
		}
		plan := pgtest.One[string](t, tx, `explain (costs off, format json) execute beat('{}', '{}')`)
		if !strings.Contains(plan, "app_pkey") || strings.Contains(plan, "app_living") || strings.Contains(plan, "Seq Scan") || !strings.Contains(plan, "Index Cond") {
			t.Errorf("with %d rows:\n%s", rows, plan)
		}
		tx.Rollback(t)
	}
}
