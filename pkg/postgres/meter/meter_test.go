package meter_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, url string) *meter.Meter {
	t.Helper()
	m, err := meter.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func read(t *testing.T, m *meter.Meter) meter.Reading {
	t.Helper()
	r, err := m.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheMeterSeesWhatIsWritten(t *testing.T) {
	url := pgtest.URL(t)
	pool, m := pgtest.Open(t, url), open(t, url)
	if _, err := pool.Exec(t.Context(), `create table thing (n int)`); err != nil {
		t.Fatal(err)
	}
	before := read(t, m)
	const writes = 20
	for range writes {
		if _, err := pool.Exec(t.Context(), `insert into thing select generate_series(1, 100)`); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `select count(*) from thing`); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, m).Since(before)
	// A row takes about 60 bytes of the log.
	if got.Transactions < writes || got.WAL < writes*100*30 || got.WAL > writes*100*200 {
		t.Errorf("%d writing transactions and %d bytes, want at least %d and about %d", got.Transactions, got.WAL, writes, writes*100*60)
	}
}

func TestTheMeterSeesTheTimeOfProcessesThatHaveEnded(t *testing.T) {
	url := pgtest.URL(t)
	m := open(t, url)
	before := read(t, m)
	if !before.CPUKnown {
		t.Skip("the server is not on this machine, or hides its processes")
	}
	work := func(conn *pgx.Conn) {
		if _, err := conn.Exec(t.Context(), `select count(*) from generate_series(1, 3000000)`); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	work(conn)
	living := read(t, m).Since(before)
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := read(t, m).Since(before)
	if !living.CPUKnown || living.CPU <= 0 || ended.CPU < living.CPU/2 {
		t.Errorf("it took %s, and once the connection was closed %s", living.CPU, ended.CPU)
	}
}

func TestStatementsAreCountedOneByOne(t *testing.T) {
	var statements meter.Statements
	pool, err := postgres.Open(t.Context(), pgtest.URL(t), postgres.Options{Tracer: &statements})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	start := statements.Count()
	err = postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error { // begin and commit: 2
		if _, err := tx.Exec(t.Context(), `create table thing (n int)`); err != nil { // 3
			return err
		}
		batch := &pgx.Batch{}
		for range 5 {
			batch.Queue(`insert into thing values (1)`) // 8
		}
		if err := tx.SendBatch(t.Context(), batch).Close(); err != nil {
			return err
		}
		_, err := tx.CopyFrom(t.Context(), pgx.Identifier{"thing"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}})) // 9
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := statements.Count() - start; got != 9 {
		t.Errorf("counted %d statements, want 9", got)
	}
}

func TestACommitTakesTimeAndTheServerSettles(t *testing.T) {
	m := open(t, pgtest.URL(t))
	before := read(t, m)
	took, err := m.SerialCommit(t.Context(), 5)
	if err != nil || took <= 0 {
		t.Errorf("a commit takes %s, %v", took, err)
	}
	if got := read(t, m).Since(before).Transactions; got < 5 {
		t.Errorf("%d transactions wrote, want 5 at least", got)
	}
	// Without SLUICE_TEST_DATABASE_URL it is pgtest's, which does not sync.
	if durable, err := m.Durable(t.Context()); err != nil || durable && os.Getenv("SLUICE_TEST_DATABASE_URL") == "" {
		t.Errorf("durable: %t, %v", durable, err)
	}
	if err := m.Settle(t.Context()); err != nil {
		t.Error(err)
	}
}
