package meter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-tasks/sluice/pkg/postgres"
)

// Reading is what the server has spent since it was made.
type Reading struct {
	// CPU is processor time, if CPUKnown.
	CPU      time.Duration
	CPUKnown bool
	// WAL is in bytes.
	WAL int64
	// Transactions are those that got an id, which is all that changed anything.
	Transactions int64
}

// Since is the difference to an earlier reading.
func (r Reading) Since(before Reading) Reading {
	return Reading{
		CPU: r.CPU - before.CPU, CPUKnown: r.CPUKnown && before.CPUKnown,
		WAL: r.WAL - before.WAL, Transactions: r.Transactions - before.Transactions,
	}
}

// Meter reads what one server spends.
type Meter struct {
	pool *postgres.Pool
	// postmaster is the process that all others of the server are children of, 0 if it is not to be seen from here.
	postmaster int
}

// Open connects a meter. The caller closes it.
func Open(ctx context.Context, url string) (*Meter, error) {
	pool, err := postgres.Open(ctx, url, postgres.Options{ApplicationName: "sluice meter", MaxConns: 1})
	if err != nil {
		return nil, err
	}
	m := &Meter{pool: pool}
	var (
		backend int
		since   time.Time
	)
	if err := pool.QueryRow(ctx, `select pg_backend_pid(), pg_postmaster_start_time()`).Scan(&backend, &since); err != nil {
		pool.Close()
		return nil, fmt.Errorf("ask for the server's process: %w", err)
	}
	m.postmaster = findPostmaster(backend, since)
	return m, nil
}

// Close ends the connection.
func (m *Meter) Close() { m.pool.Close() }

// Read reads the meter.
func (m *Meter) Read(ctx context.Context) (Reading, error) {
	var r Reading
	err := m.pool.QueryRow(ctx, `
		select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint`,
	).Scan(&r.WAL, &r.Transactions)
	if err != nil {
		return Reading{}, fmt.Errorf("read what the server has written: %w", err)
	}
	if m.postmaster != 0 {
		r.CPU, r.CPUKnown = spent(m.postmaster)
	}
	return r, nil
}

// Connections is how many clients are connected to the database, this meter not counted.
func (m *Meter) Connections(ctx context.Context) (n int, err error) {
	err = m.pool.QueryRow(ctx, `
		select count(*) from pg_stat_activity
		where backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid()`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the connections: %w", err)
	}
	return n, nil
}

// Durable reports whether the server keeps what it has committed, through a crash of the machine too. One that does not is
// several times faster, and its figures are about something else.
func (m *Meter) Durable(ctx context.Context) (bool, error) {
	var durable bool
	err := m.pool.QueryRow(ctx, `
		select current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on'
		   and current_setting('synchronous_commit') not in ('off', 'local')`).Scan(&durable)
	if err != nil {
		return false, fmt.Errorf("ask whether the server is durable: %w", err)
	}
	return durable, nil
}

// SerialCommit is how long one small transaction takes here from beginning to commit, one after the other: the median of n.
// It writes a few bytes to the log of changes and nothing else.
func (m *Meter) SerialCommit(ctx context.Context, n int) (time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		if _, err := m.pool.Exec(ctx, `select pg_logical_emit_message(true, 'sluice meter', 'x')`); err != nil {
			return 0, fmt.Errorf("measure a commit: %w", err)
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[n/2], nil
}

// Settle lets the server do now what it would do some time later, in the middle of a measurement: vacuum what was just
// filled, and write a checkpoint. It takes a superuser.
func (m *Meter) Settle(ctx context.Context) error {
	for _, sql := range []string{`vacuum (analyze)`, `checkpoint`} {
		if _, err := m.pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("settle the server: %s: %w", sql, err)
		}
	}
	return nil
}
