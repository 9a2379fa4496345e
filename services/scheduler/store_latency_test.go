package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// onDatabase begins a leadership on a real database.
func onDatabase(t *testing.T, db *pgxpool.Pool) *keeper {
	t.Helper()
	store := NewStore(db, time.Hour)
	seat, err := store.Take(t.Context(), Bid{Holder: "test", Steal: true})
	if err != nil || !seat.Taken {
		t.Fatalf("%+v, %v", seat, err)
	}
	return &keeper{epoch: seat.Epoch, db: store, log: slog.New(slog.DiscardHandler), m: newLatencies()}
}

// minuteNow is the present minute by the database's clock.
func minuteNow(t *testing.T, db *pgxpool.Pool) int64 {
	t.Helper()
	return pgtest.One[int64](t, db, `select `+clock) / minuteMicros
}

func TestMinutesAreStoredWholeAndReadBack(t *testing.T) {
	db := pgtest.New(t)
	k := onDatabase(t, db)
	now := minuteNow(t, db)
	for name, n := range map[string]int{`a "quoted" \ name`: 2, "b": 1} {
		for range n {
			k.m.at(now-1, name)
		}
	}
	k.m.at(now, "b")
	for range 3 { // again and again
		if err := k.keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.m.at(now, "b")
	}
	measured, err := k.db.LatestLatencies(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if measured.Rows[0].Begins != now*minuteMicros {
		t.Errorf("the first is not of the latest minute: %+v", measured.Rows[0])
	}
	got := map[figures]bool{}
	for _, f := range readably(t, measured.Rows) {
		got[f] = true
	}
	want := map[figures]bool{
		{minute: now - 1, name: `a "quoted" \ name`, ended: [3]int64{2, 0, 0}, run: "2 x 1s"}: true,
		{minute: now - 1, name: "b", ended: [3]int64{1, 0, 0}, run: "1 x 1s"}:                 true,
		{minute: now, name: "b", ended: [3]int64{3, 0, 0}, run: "3 x 1s"}:                     true,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(figures{})); diff != "" {
		t.Error(diff)
	}
}

func TestADeposedLeaderStoresNoLatencies(t *testing.T) {
	db := pgtest.New(t)
	first := onDatabase(t, db)
	first.m.at(100, "t")
	onDatabase(t, db)
	if err := first.keep(t.Context()); !errors.Is(err, ErrDeposed) {
		t.Errorf("minutes: %v", err)
	}
	if err := first.db.SaveHour(t.Context(), first.epoch, []LatencyRow{{Name: "t", Domain: task.DefaultDomain}}); !errors.Is(err, ErrDeposed) {
		t.Errorf("an hour: %v", err)
	}
	if n := pgtest.One[int](t, db, `select count(*)::int from task_latency_minute`); n != 0 {
		t.Errorf("%d rows are stored", n)
	}
}

// A tick that stands in the middle of its transaction holds its lock on the lease.
func TestStoringLatenciesAndTicksDoNotWaitForEachOther(t *testing.T) {
	db := pgtest.New(t)
	k := onDatabase(t, db)
	k.m.at(100, "t")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	tick, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tick.Rollback(ctx)
	if _, err := tick.Exec(ctx, `select scheduler_fence($1, '1 hour')`, k.epoch); err != nil {
		t.Fatal(err)
	}
	if err := k.keep(ctx); err != nil {
		t.Errorf("beside a tick: %v", err)
	}
	if err := tick.Rollback(ctx); err != nil {
		t.Fatal(err)
	}

	storing, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer storing.Rollback(ctx)
	if _, err := storing.Exec(ctx, `select from lease where epoch = $1 for key share`, k.epoch); err != nil {
		t.Fatal(err)
	}
	store := NewStore(db, time.Hour)
	if err := store.Renew(ctx, k.epoch); err != nil {
		t.Errorf("a renewal beside the storing: %v", err)
	}
	// Who takes over sees all that was stored: it can't before that is.
	if seat, err := store.Take(ctx, Bid{Holder: "other", Steal: true}); err != nil || seat.Taken {
		t.Errorf("a takeover beside the storing: %+v, %v", seat, err)
	}
}

func TestHoursAreAddedUpAndOldFiguresForgotten(t *testing.T) {
	db := pgtest.New(t)
	k := onDatabase(t, db)
	hour := minuteNow(t, db) / 60 * 60
	// Hours ago: the last minute of one, the first of the next, and some that no window of minutes reaches.
	for _, minute := range []int64{hour - 5*60 - 1, hour - 5*60, hour - 4*60 + 10, hour - 61, hour - 60, hour - 60, hour - 2} {
		k.m.at(minute, "t")
	}
	pgtest.Must(t, db, 2, `
		insert into task_latency_hour select now() - age, 't', 'default', 1, 0, 0, '', '', ''
		from unnest(array['32 days', '30 days']::interval[]) age`)
	// The clock stands some minutes after the hour, wherever it does.
	for range 2 {
		if err := errors.Join(k.keep(t.Context()), k.tidy(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	const byHour = `
		select coalesce(string_agg(((extract(epoch from begins) / 60 - $1) / 60)::int || ':' || completed, ' ' order by begins), '')
		from task_latency_hour where begins > now() - interval '1 day'`
	want := "-6:1 -5:1 -4:1 -2:1 -1:3"
	if minuteNow(t, db) == hour { // the last one is not over for long enough
		want = "-6:1 -5:1 -4:1 -2:1"
	}
	if got := pgtest.One[string](t, db, byHour, hour); got != want {
		t.Errorf("hours: %s, want %s", got, want)
	}
	if n := pgtest.One[int](t, db, `select count(*)::int from task_latency_minute where begins < now() - interval '3 hours 6 minutes'`); n != 0 {
		t.Errorf("%d minutes are left that no window reaches", n)
	}
	if n := pgtest.One[int](t, db, `select count(*)::int from task_latency_minute`); n != 3 {
		t.Errorf("%d minutes are left", n)
	}
	if n := pgtest.One[int](t, db, `select count(*)::int from task_latency_hour where begins < now() - interval '1 day'`); n != 1 {
		t.Errorf("%d old hours are left", n)
	}
}

// The session's time zone need not have whole hours.
func TestAnHourIsTheSameInEveryTimeZone(t *testing.T) {
	url := pgtest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["timezone"] = "Asia/Kathmandu"
	db, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	k := onDatabase(t, db)
	hour := minuteNow(t, db)/60*60 - 2*60
	k.m.at(hour+7, "t")
	if err := errors.Join(k.keep(t.Context()), k.tidy(t.Context())); err != nil {
		t.Fatal(err)
	}
	if at := pgtest.One[int64](t, db, `select extract(epoch from begins)::bigint from task_latency_hour`); at != hour*60 {
		t.Errorf("the hour begins at %d, not %d", at, hour*60)
	}
}
