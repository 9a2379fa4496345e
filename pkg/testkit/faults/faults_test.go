package faults_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is a table that is written through a proxy and looked at beside it.
type world struct {
	*faults.Proxy

	t       *testing.T
	through *pgxpool.Pool
	direct  *pgxpool.Pool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	target := pgtest.EmptyURL(t)
	w := &world{t: t, Proxy: faults.Start(t, target), direct: pgtest.Open(t, target)}
	w.through = pgtest.Open(t, w.URL())
	pgtest.Must(t, w.direct, 0, `create table entry (n int)`)
	pgtest.Must(t, w.direct, 0, `create sequence started`)
	return w
}

// rows are those that are committed.
func (w *world) rows() int { return pgtest.One[int](w.t, w.direct, `select count(*) from entry`) }

// executed reports whether an insert was executed, committed or not.
func (w *world) executed() bool {
	return pgtest.One[bool](w.t, w.direct, `select is_called from started`)
}

const insert = `insert into entry select $1::int from nextval('started')`

// ways are those in which a transaction of two rows can be sent.
var ways = map[string]func(context.Context, *pgxpool.Pool) error{
	"one statement": func(ctx context.Context, pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, insert+` union all select $2::int`, 1, 2)
		return err
	},
	"a batch": func(ctx context.Context, pool *pgxpool.Pool) error {
		return pool.SendBatch(ctx, twoRows()).Close()
	},
	"a batch that begins and commits": func(ctx context.Context, pool *pgxpool.Pool) error {
		batch := &pgx.Batch{}
		batch.Queue(`begin`)
		batch.QueuedQueries = append(batch.QueuedQueries, twoRows().QueuedQueries...)
		batch.Queue(`commit`)
		return pool.SendBatch(ctx, batch).Close()
	},
	"a transaction of several requests": func(ctx context.Context, pool *pgxpool.Pool) error {
		return postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
			for n := range 2 {
				if _, err := tx.Exec(ctx, insert, n); err != nil {
					return err
				}
			}
			return nil
		})
	},
}

func twoRows() *pgx.Batch {
	batch := &pgx.Batch{}
	batch.Queue(insert, 1)
	batch.Queue(insert, 2)
	return batch
}

func TestACutLeavesBehindWhatItsNameSays(t *testing.T) {
	for _, c := range []struct {
		fault    faults.Fault
		executed bool
		rows     int
	}{
		{faults.CutBefore, false, 0},
		{faults.CutBeforeCommit, true, 0},
		{faults.LoseAnswer, true, 2},
	} {
		for way, write := range ways {
			t.Run(fmt.Sprint(c.fault, " of ", way), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				match := faults.Committing("INSERT into\n entry", "$1")
				if c.fault == faults.CutBefore {
					match = faults.Saying("insert into entry")
				}
				armed := w.Arm(faults.Rule{Fault: c.fault, Match: match})
				if err := write(t.Context(), w.through); !postgres.IsUnavailable(err) {
					t.Errorf("the client got the error %v, want that the database is away", err)
				}
				if n, executed := w.rows(), w.executed(); n != c.rows || executed != c.executed {
					t.Errorf("%d rows, executed: %t; want %d, %t", n, executed, c.rows, c.executed)
				}
				if n := armed.Fired(); n != 1 {
					t.Errorf("it says that it happened %d times", n)
				}
				if err := write(t.Context(), w.through); err != nil {
					t.Errorf("once more: %v", err)
				}
				if n := w.rows(); n != c.rows+2 {
					t.Errorf("once more: %d rows, want %d", n, c.rows+2)
				}
			})
		}
	}
}

func TestWhatIsHeldIsAsFarAsItsNameSays(t *testing.T) {
	for _, c := range []struct {
		fault    faults.Fault
		executed bool
		rows     int // while it is held
		cut      bool
	}{
		{faults.HoldRequest, false, 0, false},
		{faults.HoldCommit, true, 0, false},
		{faults.CommitLate, true, 0, true},
		{faults.HoldAnswer, true, 2, false},
	} {
		for way, write := range ways {
			t.Run(fmt.Sprint(c.fault, " of ", way), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				match := faults.Committing("insert into entry")
				if c.fault == faults.HoldRequest {
					match = faults.Saying("insert into entry")
				}
				armed := w.Arm(faults.Rule{Fault: c.fault, Match: match})
				done := make(chan error, 1)
				go func() { done <- write(t.Context(), w.through) }()
				armed.Wait(t, 1)
				if c.cut {
					if err := <-done; !postgres.IsUnavailable(err) {
						t.Errorf("the client got the error %v, want that the database is away", err)
					}
				}
				if n, executed := w.rows(), w.executed(); n != c.rows || executed != c.executed {
					t.Errorf("while it is held: %d rows, executed: %t; want %d, %t", n, executed, c.rows, c.executed)
				}
				select {
				case err := <-done:
					t.Errorf("the client went on while it was held: %v", err)
				default:
				}
				armed.Release()
				armed.Over(t, 1)
				if !c.cut {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := w.rows(); n != 2 {
					t.Errorf("%d rows when it is over, want 2", n)
				}
			})
		}
	}
}

func TestWhatPassesIsOnlyCounted(t *testing.T) {
	w := newWorld(t)
	armed := w.Arm(faults.Rule{Fault: faults.Pass, Match: faults.Saying("insert"), Times: faults.Always})
	for _, write := range ways {
		if err := write(t.Context(), w.through); err != nil {
			t.Error(err)
		}
	}
	// One of the ways is two requests.
	if n := armed.Fired(); n != len(ways)+1 || w.rows() != 2*len(ways) {
		t.Errorf("%d passed, %d rows", n, w.rows())
	}
}

func TestWhatIsHeldForATimeGoesOnByItself(t *testing.T) {
	w := newWorld(t)
	for _, fault := range []faults.Fault{faults.HoldRequest, faults.HoldCommit, faults.HoldAnswer} {
		armed := w.Arm(faults.Rule{Fault: fault, Match: faults.Saying("insert"), For: time.Millisecond})
		if err := ways["a batch"](t.Context(), w.through); err != nil {
			t.Error(err)
		}
		if n := armed.Fired(); n != 1 {
			t.Errorf("%s: it happened %d times", fault, n)
		}
	}
	if n := w.rows(); n != 6 {
		t.Errorf("%d rows, want 6", n)
	}
}

func TestARuleMeetsWhatItMatchesAsOftenAsItSays(t *testing.T) {
	write := func(w *world, n int) (failed string) {
		for range n {
			if err := ways["one statement"](w.t.Context(), w.through); err != nil {
				failed += "x"
			} else {
				failed += "."
			}
		}
		return failed
	}
	for name, c := range map[string]struct {
		rule faults.Rule
		want string
	}{
		"once":             {faults.Rule{Match: faults.Any}, "x....."},
		"three times":      {faults.Rule{Match: faults.Any, Times: 3}, "xxx..."},
		"always":           {faults.Rule{Match: faults.Any, Times: faults.Always}, "xxxxxx"},
		"every second":     {faults.Rule{Match: faults.Every(2, faults.Saying("insert")), Times: faults.Always}, ".x.x.x"},
		"every second one": {faults.Rule{Match: faults.Every(2, faults.Any)}, ".x...."},
		"another":          {faults.Rule{Match: faults.Saying("insert", "update"), Times: faults.Always}, "......"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.rule.Fault = faults.CutBefore
			armed := w.Arm(c.rule)
			if got := write(w, 6); got != c.want {
				t.Errorf("of six requests these were cut: %s, want %s", got, c.want)
			}
			if got, want := armed.Fired(), strings.Count(c.want, "x"); got != want {
				t.Errorf("it says that it happened %d times, want %d", got, want)
			}
			armed.Disarm()
			if got := write(w, 3); got != "..." {
				t.Errorf("disarmed, these were cut: %s", got)
			}
		})
	}
}

func TestACommitThatRollsBackIsNoCommit(t *testing.T) {
	w := newWorld(t)
	armed := w.Arm(faults.Rule{Fault: faults.LoseAnswer, Match: faults.Committing("insert"), Times: faults.Always})
	mine := errors.New("mine")
	err := postgres.InTx(t.Context(), w.through, func(tx pgx.Tx) error {
		pgtest.Must(t, tx, 1, insert, 1)
		return mine
	})
	if !errors.Is(err, mine) || armed.Fired() != 0 {
		t.Errorf("the error is %v, the answer was lost %d times", err, armed.Fired())
	}
	// The next transaction on the connection does not inherit the statement.
	pgtest.One[int](t, w.through, `select 1`)
	if armed.Fired() != 0 {
		t.Error("the answer to another transaction was lost")
	}
}

func TestCutEndsWhatIsUnderWayAndNothingElse(t *testing.T) {
	w := newWorld(t)
	held := w.Arm(faults.Rule{Fault: faults.HoldCommit, Match: faults.Any})
	done := make(chan error)
	go func() { done <- ways["a batch"](t.Context(), w.through) }()
	held.Wait(t, 1)
	w.Cut()
	if err := <-done; !postgres.IsUnavailable(err) {
		t.Errorf("the client got the error %v, want that the database is away", err)
	}
	if err := ways["a batch"](t.Context(), w.through); err != nil {
		t.Error(err)
	}
	held.Release()
	if n := w.rows(); n != 2 {
		t.Errorf("%d rows, want the 2 of the second", n)
	}
}

func TestRefusedIsAwayUntilItIsBack(t *testing.T) {
	w := newWorld(t)
	ping := func() error { return w.through.Ping(t.Context()) }
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		back := w.Refuse()
		if err := ping(); !postgres.IsUnavailable(err) {
			t.Errorf("while it is away the client gets %v", err)
		}
		back()
		if err := ping(); err != nil {
			t.Errorf("when it is back the client gets %v", err)
		}
		back() // a second time is no harm
	}
	w.Refuse() // the end of the test is soon enough
}

func TestAllElsePassesAsItIs(t *testing.T) {
	w := newWorld(t)
	w.Arm(faults.Rule{Fault: faults.CutBefore, Match: faults.Saying("no such thing"), Times: faults.Always})
	long := strings.Repeat("ü", 1<<20)
	if got := pgtest.One[string](t, w.through, `select $1::text || $1`, long); got != long+long {
		t.Errorf("a long text came back with %d bytes", len(got))
	}
	if _, err := w.through.CopyFrom(t.Context(), pgx.Identifier{"entry"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}, {3}})); err != nil {
		t.Error(err)
	}
	if n := w.rows(); n != 3 {
		t.Errorf("%d rows were copied", n)
	}
	if _, err := w.through.Exec(t.Context(), `select 1/0`); err == nil || !strings.Contains(err.Error(), "division by zero") {
		t.Errorf("an error of the server came as %v", err)
	}
	conn, err := pgx.Connect(t.Context(), w.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Prepare(t.Context(), "mine", `select 41 + $1::int`); err != nil { //nolint:forbidigo // others may
		t.Error(err)
	}
	if got := pgtest.One[int](t, conn, "mine", 1); got != 42 {
		t.Errorf("a prepared statement gave %d", got)
	}
}

func TestAWishToCancelReachesTheServer(t *testing.T) {
	w := newWorld(t)
	conn, err := pgx.Connect(t.Context(), w.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	done := make(chan error)
	go func() {
		_, err := conn.Exec(t.Context(), `select pg_sleep(600)`)
		done <- err
	}()
	probe.Eventually(t, "it sleeps", func() bool {
		return pgtest.One[bool](t, w.direct, `select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database())`)
	})
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "canceling statement") {
		t.Errorf("it ended with %v", err)
	}
}

func TestItStandsInFrontOfAPoolerToo(t *testing.T) {
	target := pgtest.EmptyURL(t)
	p := faults.Start(t, bouncer.Start(t, target, 2))
	direct, through := pgtest.Open(t, target), pgtest.Open(t, p.URL())
	pgtest.Must(t, direct, 0, `create table entry (n int)`)
	for _, fault := range []faults.Fault{faults.CutBefore, faults.CutBeforeCommit, faults.LoseAnswer} {
		p.Arm(faults.Rule{Fault: fault, Match: faults.Saying("insert")})
		if _, err := through.Exec(t.Context(), `insert into entry values ($1)`, int(fault)); !postgres.IsUnavailable(err) {
			t.Errorf("%s: the client got %v", fault, err)
		}
	}
	if n := pgtest.One[int](t, direct, `select count(*) from entry where n = $1`, int(faults.LoseAnswer)); n != 1 {
		t.Errorf("%d rows of the one whose answer was lost", n)
	}
	if n := pgtest.One[int](t, direct, `select count(*) from entry`); n != 1 {
		t.Errorf("%d rows in all, want 1", n)
	}
}

// heard is a test that is told of failures and does not fail.
type heard struct {
	*testing.T

	errors chan string
}

func (h *heard) Errorf(format string, args ...any) { h.errors <- fmt.Sprintf(format, args...) }

func TestACommitThatCanNotBeHeldFailsTheTest(t *testing.T) {
	h := &heard{T: t, errors: make(chan string, 1)}
	p := faults.Start(h, pgtest.EmptyURL(t))
	pool := pgtest.Open(t, p.URL())
	pgtest.Must(t, pool, 0, `create table entry (n int)`)
	p.Arm(faults.Rule{Fault: faults.HoldCommit, Match: faults.Saying("insert")})
	if _, err := pool.Exec(t.Context(), `begin; insert into entry values (1); commit`); !postgres.IsUnavailable(err) {
		t.Errorf("the client got %v", err)
	}
	if said := <-h.errors; !strings.Contains(said, "begin; insert") {
		t.Errorf("it said %q", said)
	}
}
