package pgtest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestRecordKeepsWhatIsSentAloneAndInABatch(t *testing.T) {
	pool, sent := pgtest.Record(t, pgtest.EmptyURL(t))
	sent.Take()
	pgtest.One[int](t, pool, `select $1::int`, 1)
	var batch pgx.Batch
	batch.Queue(`select $1::int + 1`, 2)
	if err := pool.SendBatch(t.Context(), &batch).Close(); err != nil {
		t.Fatal(err)
	}
	want := []pgtest.Statement{{SQL: `select $1::int`, Args: []any{1}}, {SQL: `select $1::int + 1`, Args: []any{2}}}
	if diff := cmp.Diff(want, sent.Take()); diff != "" {
		t.Error(diff)
	}
	if again := sent.Take(); len(again) != 0 {
		t.Errorf("taken twice: %v", again)
	}
}

func TestPlanTellsASearchFromALookup(t *testing.T) {
	db := pgtest.Open(t, pgtest.EmptyURL(t))
	for _, sql := range []string{
		`create table thing (id int primary key, name text)`,
		`insert into thing select n, 'n' || n from generate_series(1, 10000) n`,
		`analyze thing`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		sql  string
		arg  any
		want []string
	}{
		{`select name from thing where id = $1`, 1, []string{"Index Scan thing_pkey of thing"}},
		{`delete from thing where id = $1`, 1, []string{"Index Scan thing_pkey of thing"}},
		{`select id from thing where name = $1`, "n1", []string{"Seq Scan of thing"}},
		{`select $1::int`, 1, nil},
	} {
		reads := pgtest.Plan(t, db, pgtest.Statement{SQL: c.sql, Args: []any{c.arg}})
		if diff := cmp.Diff(c.want, reads); diff != "" {
			t.Errorf("%s: %s", c.sql, diff)
		}
	}
}

func TestATransactionDoesNotOutliveItsTest(t *testing.T) {
	db := pgtest.New(t)
	count := func() int { return pgtest.One[int](t, db, `select count(*) from task_group`) }
	const insert = `insert into task_group (id, domain_id) select gen_random_uuid(), $1::text::uuid`
	t.Run("left open", func(t *testing.T) { pgtest.Must(t, pgtest.Begin(t, db), 1, insert, task.DefaultDomainID) })
	if n := count(); n != 0 {
		t.Errorf("%d rows of a transaction that was left open", n)
	}
	tx := pgtest.Begin(t, db)
	pgtest.Must(t, tx, 1, insert, task.DefaultDomainID)
	tx.Commit(t)
	if n := count(); n != 1 {
		t.Errorf("%d rows after the commit, want 1", n)
	}
}

func TestADatabaseIsAwayUntilItIsBack(t *testing.T) {
	url := pgtest.URL(t)
	db := pgtest.Open(t, url)
	back := pgtest.Away(t, url)
	if err := db.Ping(t.Context()); err == nil {
		t.Error("it can be reached while it is away")
	}
	back()
	pgtest.One[int](t, db, `select 1`)
}
