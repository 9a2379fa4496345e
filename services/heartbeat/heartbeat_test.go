package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

func TestRegisterBeginsALife(t *testing.T) {
	w := newWorld(t)
	incarnation := w.register(t, "w1")
	if id, err := uuid.Parse(incarnation); err != nil || id.Version() != 7 {
		t.Errorf("incarnation %q is no UUID of version 7", incarnation)
	}
	got := pgtest.One[string](t, w, `select concat_ws(' ', name, kind, versions, ttl, missing_at is null and ended_at is null) from app where incarnation = $1::text::uuid`, incarnation)
	if want := `w1 worker {"core": "3.2"} 00:00:10 t`; got != want {
		t.Errorf("stored %q, want %q", got, want)
	}
	if err := w.open(t).beat(t, incarnation); err != nil {
		t.Errorf("its first beat: %v", err)
	}
}

func TestNameIsTakenWhileItsOwnerLives(t *testing.T) {
	w := newWorld(t)
	incarnation := w.register(t, "w1")
	if _, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_WORKER); !errs.Is(err, errs.NameTaken) || !strings.Contains(err.Error(), `"w1"`) {
		t.Errorf("a second one: %v", err)
	}
	// Silent, but not for longer than its time to live.
	w.silence(t, incarnation, "8 s")
	if _, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_WORKER); !errs.Is(err, errs.NameTaken) {
		t.Errorf("while it may still be alive: %v", err)
	}
	if err := w.open(t).beat(t, incarnation); err != nil {
		t.Errorf("the owner was harmed: %v", err)
	}
	if _, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_API); err != nil {
		t.Errorf("another kind of that name: %v", err)
	}
	if _, err := w.tryRegister(t, "w2", heartbeatv1.Kind_KIND_WORKER); err != nil {
		t.Errorf("another name: %v", err)
	}
}

func TestSilentOwnerOfANameIsTakenOverAndFenced(t *testing.T) {
	w := newWorld(t)
	first := w.register(t, "w1")
	w.silence(t, first, "11 s")
	second := w.register(t, "w1")
	if first == second {
		t.Error("the successor got the same incarnation")
	}
	if !pgtest.One[bool](t, w, `select missing_at is not null and ended_at is null from app where incarnation = $1::text::uuid`, first) {
		t.Error("the predecessor was not declared missing")
	}
	if err := w.open(t).beat(t, first); !errs.Is(err, errs.Fenced) {
		t.Errorf("the predecessor is told %v", err)
	}
	if err := w.open(t).beat(t, second); err != nil {
		t.Errorf("the successor is told %v", err)
	}
}

func TestNameIsFreeAfterAGoodEnd(t *testing.T) {
	w := newWorld(t)
	first := w.register(t, "w1")
	for range 2 { // again changes nothing
		if _, err := w.client.Deregister(t.Context(), &heartbeatv1.DeregisterRequest{Incarnation: first}); err != nil {
			t.Fatal(err)
		}
	}
	ended := pgtest.One[time.Time](t, w, `select ended_at from app where incarnation = $1::text::uuid`, first)
	w.register(t, "w1")
	if _, err := w.client.Deregister(t.Context(), &heartbeatv1.DeregisterRequest{Incarnation: first}); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.One[time.Time](t, w, `select ended_at from app where incarnation = $1::text::uuid`, first); !got.Equal(ended) {
		t.Error("a life ended twice")
	}
	if n := pgtest.One[int](t, w, `select count(*) from app where ended_at is null`); n != 1 {
		t.Errorf("%d are alive after the late goodbye of the predecessor", n)
	}
}

func TestOneOfManyThatRegisterAtOnceGetsTheName(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent owner: %v", silent), func(t *testing.T) {
			w := newWorld(t)
			if silent {
				w.silence(t, w.register(t, "w1"), "1 min")
			}
			var won, refused atomic.Int32
			all(slices.Repeat([]func(){func() {
				switch _, err := w.tryRegister(t, "w1", heartbeatv1.Kind_KIND_WORKER); {
				case err == nil:
					won.Add(1)
				case errs.Is(err, errs.NameTaken):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}}, 10)...)
			if won.Load() != 1 || refused.Load() != 9 {
				t.Errorf("%d got the name, %d were refused", won.Load(), refused.Load())
			}
		})
	}
}

func TestBeatIsWrittenWithTheTimeOfTheDatabase(t *testing.T) {
	w := newWorld(t)
	incarnation := w.register(t, "w1")
	w.silence(t, incarnation, "5 s")
	l := w.open(t)
	for range 3 {
		before := pgtest.One[time.Time](t, w, `select now()`)
		if err := l.beat(t, incarnation); err != nil {
			t.Fatal(err)
		}
		if got := pgtest.One[time.Time](t, w, `select last_beat_at from app where incarnation = $1::text::uuid`, incarnation); got.Before(before) {
			t.Errorf("confirmed, but the last beat in the database is from %s before", before.Sub(got))
		}
	}
	if err := l.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a stream that was closed in good order ends with %v", err)
	}
}

func TestLivesThatAreOverAreFenced(t *testing.T) {
	w := newWorld(t)
	ended, missing := w.register(t, "ended"), w.register(t, "missing")
	pgtest.Must(t, w, 1, `update app set ended_at = now() where incarnation = $1::text::uuid`, ended)
	pgtest.Must(t, w, 1, `update app set missing_at = now() where incarnation = $1::text::uuid`, missing)
	for name, incarnation := range map[string]string{"ended": ended, "missing": missing, "unknown": unknownID} {
		l := w.open(t)
		if err := l.beat(t, incarnation); !errs.Is(err, errs.Fenced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := pgtest.One[int](t, w, `select count(*) from app where last_beat_at > registered_at`); n != 0 {
		t.Errorf("%d beats of the dead were written", n)
	}
}

func TestBeatsOfManyProcessesAreOneStatement(t *testing.T) {
	const processes = 40
	url := pgtest.URL(t)
	statements := pgtest.LogStatements(t, url)
	// The pause between two writes is also the time that a write may take: long enough for a busy machine.
	w := worldWith(t, url, heartbeat.Config{FlushEvery: 1500 * time.Millisecond, SweepEvery: time.Hour, KeepFor: time.Hour})
	var incarnations []string
	for i := range processes {
		incarnations = append(incarnations, w.register(t, fmt.Sprint("w", i)))
	}
	// A lock on the first one's row holds the first write up until all the others wait for the second.
	other := pgtest.Begin(t, pgtest.Open(t, url))
	pgtest.Must(t, other, 1, `select from app where incarnation = $1::text::uuid for update`, incarnations[0])
	var confirmed sync.WaitGroup
	send := func(incarnation string) {
		l := w.open(t)
		confirmed.Go(func() {
			if err := l.beat(t, incarnation); err != nil {
				t.Error(err)
			}
		})
	}
	send(incarnations[0])
	probe.Eventually(t, "the first beat waits for the lock", func() bool {
		return pgtest.One[bool](t, w, `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`)
	})
	for _, incarnation := range incarnations[1:] {
		send(incarnation)
	}
	probe.Eventually(t, "the others wait for the next write", func() bool { return w.service.Pending() == processes-1 })
	other.Commit(t)
	confirmed.Wait()
	var writes int
	for _, s := range statements() {
		if strings.Contains(s, "heartbeat_beat(") {
			writes++
		}
	}
	if writes != 2 {
		t.Errorf("%d beats took %d statements, want 2", processes, writes)
	}
	if n := pgtest.One[int](t, w, `select count(*) from app where last_beat_at > registered_at`); n != processes {
		t.Errorf("%d beats are in the database", n)
	}
}

func TestSweepDeclaresTheSilentMissingExactlyOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		incarnation := w.register(t, fmt.Sprintf("w%02d", i))
		if i < 10 {
			w.silence(t, incarnation, "10.5 s")
		} else {
			w.silence(t, incarnation, "5 s")
		}
	}
	ended := w.register(t, "ended")
	pgtest.Must(t, w, 1, `update app set ended_at = now() where incarnation = $1::text::uuid`, ended)
	w.silence(t, ended, "1 hour")
	// Several services sweep at the same time.
	var mu sync.Mutex
	var declared []string
	all(slices.Repeat([]func(){func() {
		swept, err := w.store.Sweep(t.Context(), w.known())
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		declared = append(declared, swept.Missing...)
	}}, 6)...)
	slices.Sort(declared)
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprintf("worker w%02d", i))
	}
	if diff := cmp.Diff(want, declared); diff != "" {
		t.Error(diff)
	}
	if again, err := w.store.Sweep(t.Context(), w.known()); err != nil || len(again.Missing) != 0 {
		t.Errorf("a later sweep declares %v, %v", again.Missing, err)
	}
}

// A beat and a sweep that meet at the same row: the sweep passes it by, the beat waits and sees what the sweep wrote.
func TestBeatAndSweepThatMeetNeverBothWin(t *testing.T) {
	url := pgtest.URL(t)
	w := worldWith(t, url, heartbeat.Config{FlushEvery: 20 * time.Second, SweepEvery: time.Hour, KeepFor: time.Hour})
	locked := func() bool {
		return pgtest.One[bool](t, w, `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`)
	}
	t.Run("the beat was first", func(t *testing.T) {
		incarnation := w.register(t, "w1")
		w.silence(t, incarnation, "11 s")
		beat := pgtest.Begin(t, pgtest.Open(t, url))
		pgtest.Must(t, beat, 1, `update app set last_beat_at = now() where incarnation = $1::text::uuid`, incarnation)
		for _, when := range []string{"while its beat is being stored", "after its beat was stored"} {
			if swept, err := w.store.Sweep(t.Context(), w.known()); err != nil || len(swept.Missing) != 0 {
				t.Errorf("declared missing %s: %v, %v", when, swept.Missing, err)
			}
			if when == "while its beat is being stored" {
				beat.Commit(t)
			}
		}
	})
	t.Run("the sweep was first", func(t *testing.T) {
		incarnation := w.register(t, "w2")
		w.silence(t, incarnation, "11 s")
		sweep := pgtest.Begin(t, pgtest.Open(t, url))
		pgtest.Must(t, sweep, 1, `update app set missing_at = now() where incarnation = $1::text::uuid`, incarnation)
		l, told := w.open(t), make(chan error, 1)
		go func() { told <- l.beat(t, incarnation) }()
		probe.Eventually(t, "the beat waits for the row", locked)
		sweep.Commit(t)
		if err := <-told; !errs.Is(err, errs.Fenced) {
			t.Errorf("the one declared missing is told %v", err)
		}
	})
}

// Nobody tells it to look, and it would by itself only in an hour: but it knows when the life can be over.
func TestServiceLooksWhenALifeCanBeOver(t *testing.T) {
	w := worldWith(t, pgtest.URL(t), heartbeat.Config{FlushEvery: time.Millisecond, SweepEvery: time.Hour, KeepFor: time.Hour})
	for _, beats := range []bool{false, true} {
		answer, err := w.client.Register(t.Context(), &heartbeatv1.RegisterRequest{
			Name: fmt.Sprint("beats: ", beats), Kind: heartbeatv1.Kind_KIND_WORKER, Ttl: durationpb.New(time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		if beats {
			if err := w.open(t).beat(t, answer.GetIncarnation()); err != nil {
				t.Fatal(err)
			}
		}
		probe.Eventually(t, "the silent one is declared missing", func() bool { return w.state(t, answer.GetIncarnation()) == "missing" })
	}
	if n := pgtest.One[int](t, w, `select count(*) from app where missing_at < last_beat_at + ttl`); n != 0 {
		t.Errorf("%d are missing before their time was over", n)
	}
}

func TestBeatsFailWhileTheDatabaseIsAwayAndGoOnAfterwards(t *testing.T) {
	w := newWorld(t)
	incarnation := w.register(t, "w1")
	back := pgtest.Away(t, w.url)
	if err := w.open(t).beat(t, incarnation); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a beat: %v", err)
	}
	if _, err := w.tryRegister(t, "w2", heartbeatv1.Kind_KIND_WORKER); !errs.Is(err, errs.DatabaseAway) || err.Error() != "the database can't be reached" {
		t.Errorf("a registration: %v", err)
	}
	if _, err := w.client.ListApps(t.Context(), &heartbeatv1.ListAppsRequest{}); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a list: %v", err)
	}
	if _, err := w.client.Deregister(t.Context(), &heartbeatv1.DeregisterRequest{Incarnation: incarnation}); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a goodbye: %v", err)
	}
	if _, err := w.store.Sweep(t.Context(), w.known()); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("a sweep: %v", err)
	}
	back()
	if err := w.open(t).beat(t, incarnation); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// A database that takes the statement and never answers is as good as away.
func TestBeatThatTheDatabaseDoesNotAnswerFails(t *testing.T) {
	w := newWorld(t)
	incarnation := w.register(t, "w1")
	other := pgtest.Begin(t, pgtest.Open(t, w.url))
	pgtest.Must(t, other, 1, `select from app where incarnation = $1::text::uuid for update`, incarnation)
	if err := w.open(t).beat(t, incarnation); !errs.Is(err, errs.DatabaseAway) {
		t.Errorf("told %v", err)
	}
	other.Rollback(t)
	if err := w.open(t).beat(t, incarnation); err != nil {
		t.Errorf("when it answers again: %v", err)
	}
}

// runs stores tasks in the hands of a life and returns their ids in order.
func (w *world) runs(t *testing.T, incarnation string, n int) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `
		with new as (
			insert into task (id, domain_id, name, state, executor, incarnation, unblocked_at, started_at, claim)
			select gen_random_uuid(), gen_random_uuid(), 'n', 'running', 'e', $1::text::uuid, now(), now(), 1 from generate_series(1, $2)
			returning seq, id
		), live as (insert into task_live (seq, task_id) select seq, id from new)
		select array_agg(id::text order by seq) from new`, incarnation, n)
}

func (w *world) list(t *testing.T, r *heartbeatv1.ListAppsRequest) []*heartbeatv1.App {
	t.Helper()
	answer, err := w.client.ListApps(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetApps()
}

func names(apps []*heartbeatv1.App) (names []string) {
	for _, a := range apps {
		names = append(names, a.GetName())
	}
	return names
}

func TestListShowsEachLifeWithTheTasksThatItRuns(t *testing.T) {
	w := newWorld(t)
	busy := w.register(t, "busy")
	running := w.runs(t, busy, 3)
	// One that ended is not among them any more; nor are those of another.
	pgtest.Must(t, w, 1, `with done as (update task set state = 'completed', finished_at = now() where id = $1::text::uuid returning seq)
		delete from task_live l using done where l.seq = done.seq`, running[1])
	w.runs(t, w.register(t, "crowded"), 120)
	if _, err := w.tryRegister(t, "api", heartbeatv1.Kind_KIND_API); err != nil {
		t.Fatal(err)
	}

	got := w.list(t, &heartbeatv1.ListAppsRequest{})
	if diff := cmp.Diff([]string{"api", "busy", "crowded"}, names(got)); diff != "" {
		t.Fatal(diff)
	}
	want := &heartbeatv1.App{
		Incarnation: busy, Name: "busy", Kind: heartbeatv1.Kind_KIND_WORKER, Versions: map[string]string{"core": "3.2"}, Online: true,
		RegisteredAt: got[1].GetRegisteredAt(), LastBeatAt: got[1].GetRegisteredAt(), RunningTaskIds: []string{running[0], running[2]},
		Ttl: durationpb.New(10 * time.Second),
	}
	if diff := cmp.Diff(want, got[1], protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if n := len(got[2].GetRunningTaskIds()); n != 100 {
		t.Errorf("%d of 120 running tasks are listed, want 100", n)
	}
	if n := len(got[0].GetRunningTaskIds()); n != 0 {
		t.Errorf("the idle one runs %d", n)
	}
}

func TestListOfAKindAndOfThePast(t *testing.T) {
	w := newWorld(t)
	if _, err := w.tryRegister(t, "api", heartbeatv1.Kind_KIND_API); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, end string }{
		{"ended", `update app set ended_at = now() where incarnation = $1::text::uuid`},
		{"missing", `update app set missing_at = now() where incarnation = $1::text::uuid`},
		{"long gone", `update app set ended_at = now() - interval '25 hours' where incarnation = $1::text::uuid`},
		{"alive", `update app set last_beat_at = now() where incarnation = $1::text::uuid`},
	} {
		pgtest.Must(t, w, 1, c.end, w.register(t, c.name))
	}
	w.register(t, "ended") // in its second life
	for _, c := range []struct {
		request *heartbeatv1.ListAppsRequest
		want    []string
	}{
		{&heartbeatv1.ListAppsRequest{}, []string{"alive", "api", "ended"}},
		{&heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_API}, []string{"api"}},
		{&heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER}, []string{"alive", "ended"}},
		{&heartbeatv1.ListAppsRequest{IncludeGone: true}, []string{"alive", "api", "ended", "ended", "missing"}},
		{&heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: true}, []string{"alive", "ended", "ended", "missing"}},
	} {
		got := w.list(t, c.request)
		if diff := cmp.Diff(c.want, names(got)); diff != "" {
			t.Errorf("%v: %s", c.request, diff)
		}
		for i, a := range got {
			second := i > 0 && got[i-1].GetName() == a.GetName()
			if want := a.GetName() != "missing" && !second; a.GetOnline() != want {
				t.Errorf("%v: %s is online: %v; the latest of a name comes first", c.request, a.GetName(), a.GetOnline())
			}
			if a.GetMissing() != (a.GetName() == "missing") {
				t.Errorf("%s is missing: %v", a.GetName(), a.GetMissing())
			}
		}
	}
}

func TestForgetKeepsTheLivingTheRecentAndThoseThatStillOwnTasks(t *testing.T) {
	w := newWorld(t)
	const over = `update app set missing_at = now() - interval '2 hours' where incarnation = $1::text::uuid`
	w.silence(t, w.register(t, "living, long silent"), "3 hours")
	pgtest.Must(t, w, 1, `update app set ended_at = now() - interval '59 minutes' where incarnation = $1::text::uuid`, w.register(t, "recent"))
	owner := w.register(t, "owner")
	tasks := w.runs(t, owner, 1)
	pgtest.Must(t, w, 1, over, owner)
	pgtest.Must(t, w, 1, over, w.register(t, "missing"))
	pgtest.Must(t, w, 1, `update app set ended_at = now() - interval '2 hours' where incarnation = $1::text::uuid`, w.register(t, "ended"))
	left := func() []string { return pgtest.One[[]string](t, w, `select array_agg(name order by name) from app`) }

	if err := w.store.Forget(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"living, long silent", "owner", "recent"}, left()); diff != "" {
		t.Error(diff)
	}
	// The scheduler has found its task: then it may go.
	pgtest.Must(t, w, 1, `with done as (update task set state = 'failed', error = '{}', finished_at = now() where id = $1::text::uuid returning seq)
		delete from task_live l using done where l.seq = done.seq`, tasks[0])
	if err := w.store.Forget(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"living, long silent", "recent"}, left()); diff != "" {
		t.Error(diff)
	}
}

func TestServiceIsAlwaysReady(t *testing.T) {
	if err := heartbeat.New(heartbeat.Defaults(), nil, nil, quiet()).Ready(context.Background()); err != nil {
		t.Error(err)
	}
}
