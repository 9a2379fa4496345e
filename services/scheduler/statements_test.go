package scheduler_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// The plans of the functions are kept. They are made on a small database whose statistics say that nothing waits, and must not
// read more than their arguments name when it has grown.
func TestKeptPlansReadOnlyWhatTheyAreAskedFor(t *testing.T) {
	url := pgtest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1 // plans are kept for each connection
	db, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	const most = 55 // five times ten: a stamp, three claims, one taken back, a retry that looks three times, a finish that looks twice
	first := waiting(t, db, 5)
	for range 7 { // after five times a plan for all cases is made
		if read := round(t, db, first); read > most {
			t.Errorf("on a small database five tasks read %d rows", read)
		}
	}
	if _, err := db.Exec(t.Context(), `update task set state = 'canceled', error = '{}', finished_at = now() where state = 'waiting'`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `vacuum (analyze) task, task_live`); err != nil {
		t.Fatal(err)
	}
	round(t, db, waiting(t, db, 5)) // makes the plans again
	waiting(t, db, 20_000)
	if read := round(t, db, waiting(t, db, 5)); read > most {
		t.Errorf("on a grown database five tasks read %d rows", read)
	}
}

// waiting stores tasks and returns their numbers.
func waiting(t *testing.T, db *pgxpool.Pool, n int) []int64 {
	t.Helper()
	return pgtest.One[[]int64](t, db, `
		with new as (
			insert into task (id, domain_id, name) select gen_random_uuid(), gen_random_uuid(), 't' from generate_series(1, $1) returning seq, id
		), live as (
			insert into task_live (seq, task_id) select seq, id from new
		)
		select array_agg(seq order by seq) from new`, n)
}

// round stamps tasks as unblocked, claims them, takes them back, claims them again, puts them back, claims them again and finishes them, counts how many rows that read, and undoes it.
func round(t *testing.T, db *pgxpool.Pool, seqs []int64) (read int) {
	t.Helper()
	tx := pgtest.Begin(t, db)
	defer tx.Rollback(t)
	n := len(seqs)
	names, lives, states, causes := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	zeros, ones, twos, threes := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i := range seqs {
		names[i], lives[i], states[i], causes[i] = "x", "00000000-0000-7000-8000-000000000001", "completed", "{}"
		ones[i], twos[i], threes[i] = 1, 2, 3
	}
	before := rowsRead(t, tx)
	give := func() int {
		return pgtest.One[int](t, tx, `select count(*) from scheduler_claim_2($1::bigint[], $2::text[], $3::text[], $4::bigint[])`,
			postgres.Bigints(seqs), postgres.Texts(names), postgres.Texts(lives), postgres.Bigints(zeros))
	}
	if _, err := tx.Exec(t.Context(), `select scheduler_unblock($1::bigint[], $2::bigint[])`, postgres.Bigints(seqs), postgres.Bigints(zeros)); err != nil {
		t.Fatal(err)
	}
	stamped := rowsRead(t, tx) - before
	if found := pgtest.One[int](t, tx, `select count(*) from task where seq = any($1) and unblocked_at is not null`, seqs); found != n {
		t.Fatalf("%d of %d stamped", found, n)
	}
	before = rowsRead(t, tx) - stamped
	given := give()
	back := pgtest.One[int](t, tx, `select count(*) from scheduler_requeue($1::bigint[], $2::bigint[], '{}')`, postgres.Bigints(seqs), postgres.Bigints(ones))
	given += give()
	retried := pgtest.One[int](t, tx, `select count(*) from scheduler_retry($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], '{}')`,
		postgres.Bigints(seqs), postgres.Bigints(twos), postgres.Bigints(zeros), postgres.Texts(causes))
	given += give()
	ended := pgtest.One[int](t, tx, `select count(*) from scheduler_finish($1::bigint[], $2::bigint[], $3::text[], $4::text[], $4::text[], '{}')`,
		postgres.Bigints(seqs), postgres.Bigints(threes), postgres.Texts(states), postgres.TextsOrNull(make([]*string, len(seqs))))
	if given != 3*n || back != n || retried != n || ended != n {
		t.Fatalf("%d tasks given, %d taken back, %d put back and %d ended of %d", given, back, retried, ended, n)
	}
	return rowsRead(t, tx) - before
}

// rowsRead is what the session has read of the tables and not yet reported: that grows within a transaction.
func rowsRead(t *testing.T, tx pgtest.Tx) int {
	t.Helper()
	return pgtest.One[int](t, tx, `
		select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_user_tables where relname in ('task', 'task_live')`)
}
