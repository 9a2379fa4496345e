package postgres_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// upTo are the migrations of this binary up to one of them.
func upTo(t *testing.T, last string) fs.FS {
	t.Helper()
	names, err := fs.Glob(postgres.BuiltIn(), "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	some := fstest.MapFS{}
	for _, name := range names {
		text, err := fs.ReadFile(postgres.BuiltIn(), name)
		if err != nil {
			t.Fatal(err)
		}
		some[name] = &fstest.MapFile{Data: text}
		if name == last {
			return some
		}
	}
	t.Fatalf("there is no %s among %q", last, names)
	return nil
}

// An upgrade meets tasks in every state, and processes of the version before that go on working for a while.
func TestTasksOutliveTheMigrationOfExecutors(t *testing.T) {
	url := pgtest.EmptyURL(t)
	if err := postgres.MigrateFiles(t.Context(), url, upTo(t, "00003_statements.sql"), quiet()); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Open(t, url)
	const (
		insert = `select count(*) from dispatcher_insert(array[$1::text], array[$2::text], array['n'], array['[1]'], array['{}'], array['{x}'], array['{}'],
			array[false], array[true], array['{}'], array[''], array[''], array['c'], array[''], array[''])`
		// The rows of claims are numbered as the tasks are: 1, 2, ...
		claim = `select count(*) from scheduler_tick(1, '1 hour', claim_seqs => array[$1::bigint], claim_executors => array['e'],
			claim_incarnations => array[$2::text], claim_unblocked => array[0::bigint])`
		finish = `select count(*) from scheduler_tick(1, '1 hour', finish_seqs => array[$1::bigint], finish_claims => array[1::bigint],
			finish_states => array['failed'], finish_results => array[null], finish_errors => array['{"reason": "r"}'], canceled => '{"reason": "c"}')`
	)
	pgtest.Must(t, pool, 1, `update lease set epoch = 1`)
	const id = "00000000-0000-7000-8000-00000000000"
	dispatched := func(n string) { pgtest.One[int](t, pool, insert, id+n, task.DefaultDomainID) }
	for _, n := range []string{"1", "2", "3", "4"} {
		dispatched(n)
	}
	for _, seq := range []int{2, 3, 4} {
		pgtest.One[int](t, pool, claim, seq, id+"9")
	}
	pgtest.Must(t, pool, 1, `update task set state = 'canceling' where seq = 3`)
	pgtest.One[int](t, pool, finish, 4)

	if err := postgres.Migrate(t.Context(), url, quiet()); err != nil {
		t.Fatal(err)
	}
	want := map[string]task.State{"1": task.Waiting, "2": task.Running, "3": task.Canceling, "4": task.Failed}
	for n, state := range want {
		got, err := postgres.ScanTask(pool.QueryRow(t.Context(), `select `+postgres.TaskColumns+` from task where id = $1::text::uuid`, id+n))
		if err != nil {
			t.Fatal(err)
		}
		if got.State != state || !got.Options.Empty() || got.RetryAt != nil {
			t.Errorf("task %s is %s with %+v, want %s", n, got.State, got.Options, state)
		}
	}
	const look = `select string_agg(format('%s %s %s', seq, state, options), ', ' order by seq) from scheduler_look_2(0, '{}', '{}', 10, null, '')`
	if got := pgtest.One[string](t, pool, look); got != "1 waiting , 2 running , 3 canceling " {
		t.Errorf("the live ones: %q", got)
	}

	// Those of before: they dispatch, claim and finish.
	dispatched("5")
	if got := pgtest.One[int](t, pool, claim, 1, id+"9"); got != 2 {
		t.Errorf("a claim of the version before: %d rows", got)
	}
	for seq, end := range map[int]string{1: "failed", 3: "canceled"} {
		pgtest.One[int](t, pool, finish, seq)
		if got := pgtest.One[string](t, pool, `select state from task where seq = $1`, seq); got != end {
			t.Errorf("task %d is %s, want %s", seq, got, end)
		}
	}
	// And ours goes on with what they began.
	const retry = `select state from scheduler_retry(array[2::bigint], array[1::bigint], array[1000::bigint], array['{"reason": "r"}'], '{}')`
	if got := pgtest.One[string](t, pool, retry); got != "waiting" {
		t.Errorf("a retry of what the version before began: %s", got)
	}
	const attempt = `select format('%s %s %s', attempt, claim, executor) from task_attempt`
	if got := pgtest.One[string](t, pool, attempt); got != "1 1 e" {
		t.Errorf("the attempt is noted as %q", got)
	}
}
