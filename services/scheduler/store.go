package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Store is the SQL of the scheduler.
type Store struct {
	pool *pgxpool.Pool
	// lease is how long a leadership lasts without being renewed.
	lease time.Duration
}

// NewStore makes a store whose leaderships last for lease.
func NewStore(pool *pgxpool.Pool, lease time.Duration) *Store {
	return &Store{pool: pool, lease: lease}
}

// fenced is the SQLSTATE that scheduler_fence raises.
const fenced = "SL001"

const takeLease = `
	update lease set holder = $1, epoch = epoch + 1, expires_at = now() + $2::interval
	where name = 'scheduler' and (expires_at < now() or $3)
	returning epoch`

// Take tries to become the leader. It reports false while another's lease lasts, unless steal is set. Stealing is safe, since
// the fence stops the one who was robbed; it is only right where no other can be alive.
func (s *Store) Take(ctx context.Context, holder string, steal bool) (epoch int64, taken bool, err error) {
	err = s.pool.QueryRow(ctx, takeLease, holder, s.lease, steal).Scan(&epoch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("take the scheduler's lease: %w", err)
	default:
		return epoch, true, nil
	}
}

// Yield gives the leadership up, so that a standby need not wait for the lease to end. Losing it before is no error.
func (s *Store) Yield(ctx context.Context, epoch int64) error {
	_, err := s.pool.Exec(ctx, `update lease set expires_at = '-infinity', holder = '' where name = 'scheduler' and epoch = $1`, epoch)
	if err != nil {
		return fmt.Errorf("yield the scheduler's lease: %w", err)
	}
	return nil
}

// taskColumns is what the leader keeps of a task.
const taskColumns = `
	t.seq, t.id::text, t.name, t.state, t.exclusive, t.shared, t.immediate, t.deferred, t.versions, t.created_at,
	t.unblocked_at is not null, coalesce(t.executor, ''), coalesce(t.incarnation::text, ''), t.claim`

// The unblocked come first: they hold their resources already. The rest queue behind them in the order of dispatch.
const loadLive = `
	select ` + taskColumns + `
	from task_live l join task t on t.id = l.task_id
	order by t.unblocked_at is null, t.seq`

// Load reads every task that is not final, in the order in which they must be admitted, and returns a snapshot from before the
// reading: what it could not see, the load may have missed.
func (s *Store) Load(ctx context.Context, epoch int64, admit func(Row)) (snapshot string, err error) {
	batch := &pgx.Batch{}
	batch.Queue(`select scheduler_fence($1, $2::interval)`, epoch, s.lease)
	batch.Queue(`select pg_current_snapshot()::text`).QueryRow(func(row pgx.Row) error { return row.Scan(&snapshot) })
	batch.Queue(loadLive).Query(func(rows pgx.Rows) error { return eachRow(rows, admit) })
	// A long load can outlast the lease. A standby that noticed waits for the lock that the fence took, and finds this.
	batch.Queue(`update lease set expires_at = clock_timestamp() + $2::interval where name = 'scheduler' and epoch = $1`, epoch, s.lease)
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return "", lost("load live tasks", err)
	}
	return snapshot, nil
}

// ownXact costs no id: the lock on the lease has taken it already. A snapshot's upper bound would not do in its place: it is
// one more than the last id that has *ended*, and transactions above it can be open.
const (
	ownXact    = `select pg_current_xact_id()::text::bigint`
	oldestOpen = `select pg_snapshot_xmin(pg_current_snapshot())::text::bigint`
)

// finishRuns ends runs. Whatever a run came to, a task that was to be canceled is canceled. The guard names claim and state;
// the leader knows how many rows must come back.
const finishRuns = `
	with ended as (
		select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[]) as e (seq, claim, state, result, error)
	), finished as (
		update task t set
			state       = case when t.state = 'canceling' then 'canceled' else e.state end,
			result      = case when t.state = 'running' and e.state = 'completed' then coalesce(e.result, 'null')::json end,
			error       = case when t.state = 'canceling' then $6::json else e.error::json end,
			finished_at = now(),
			updated_at  = now()
		from ended e
		where t.seq = e.seq and t.claim = e.claim and t.state in ('running', 'canceling')
		returning t.seq, t.state
	), gone as (
		delete from task_live l using finished f where l.seq = f.seq
	)
	select seq, state from finished`

// requeueRuns takes back assignments that never reached their executor. The start did not happen, so it does not count; the
// claim number stays used. One that was to be canceled meanwhile is canceled.
const requeueRuns = `
	with back as (
		select * from unnest($1::bigint[], $2::bigint[]) as b (seq, claim)
	), moved as (
		update task t set
			state       = case when t.state = 'canceling' then 'canceled' else 'waiting' end,
			error       = case when t.state = 'canceling' then $3::json end,
			finished_at = case when t.state = 'canceling' then now() end,
			started_at  = null,
			executor    = null,
			incarnation = null,
			attempt     = t.attempt - 1,
			updated_at  = now()
		from back b
		where t.seq = b.seq and t.claim = b.claim and t.state in ('running', 'canceling')
		returning t.seq, t.state
	), gone as (
		delete from task_live l using moved m where l.seq = m.seq and m.state = 'canceled'
	)
	select seq, state from moved`

// rejectTasks ends tasks that would not wait. One that was canceled meanwhile is final already and stays as it is.
const rejectTasks = `
	with rejected as (
		update task set state = 'canceled', error = $2::json, finished_at = now(), updated_at = now()
		where seq = any($1::bigint[]) and state = 'waiting'
		returning seq
	), gone as (
		delete from task_live l using rejected r where l.seq = r.seq
	)
	select seq from rejected`

const unblockTasks = `
	update task set unblocked_at = now(), updated_at = now()
	where seq = any($1::bigint[]) and state = 'waiting' and unblocked_at is null`

// claimTasks gives tasks away. One that is missing from the answer was canceled meanwhile.
const claimTasks = `
	update task t set
		state        = 'running',
		unblocked_at = coalesce(t.unblocked_at, now()),
		started_at   = now(),
		executor     = c.executor,
		incarnation  = c.incarnation::uuid,
		claim        = t.claim + 1,
		attempt      = t.attempt + 1,
		updated_at   = now()
	from unnest($1::bigint[], $2::text[], $3::text[]) as c (seq, executor, incarnation)
	where t.seq = c.seq and t.state = 'waiting'
	returning t.seq, t.claim, t.attempt, t.args::text, t.kwargs::text, t.correlation_id, t.traceparent, coalesce(t.group_id::text, '')`

const forgetCancels = `delete from task_cancel where seq = any($1::bigint[])`

// lookNew finds what came after the highest seq seen, and what filled a gap below it. Only the first part is limited: of the
// rest all must be seen before anything above it is.
const lookNew = `
	select ` + taskColumns + `
	from (
		(select seq, task_id from task_live where seq > $1 order by seq limit $4)
		union all
		select l.seq, l.task_id
		from unnest($2::bigint[], $3::bigint[]) as gap (low, high) join task_live l on l.seq between gap.low and gap.high
	) l join task t on t.id = l.task_id
	order by t.seq`

// lookLate also finds what a load could not see. It reads the whole list of the living, so it is used only until the
// transactions that were open at the takeover have ended.
const lookLate = `
	select ` + taskColumns + `
	from (
		(select seq, task_id from task_live where seq > $1 order by seq limit $4)
		union
		select l.seq, l.task_id
		from unnest($2::bigint[], $3::bigint[]) as gap (low, high) join task_live l on l.seq between gap.low and gap.high
		union
		select seq, task_id from task_live where seq <= $5 and not pg_visible_in_snapshot(xact, $6::text::pg_snapshot)
	) l join task t on t.id = l.task_id
	order by t.seq`

const lookCancels = `select seq from task_cancel order by seq limit $1`

// lookGone finds lives that are over. One that nobody knows, after a restore perhaps, counts as missing: it can't confirm a
// beat, and its tasks must not hang for ever.
const lookGone = `
	select o.incarnation, a.ended_at is not null and a.missing_at is null
	from unnest($1::text[]) as o (incarnation) left join app a on a.incarnation = o.incarnation::uuid
	where a.incarnation is null or a.missing_at is not null or a.ended_at is not null`

// Tick writes a plan and looks around, in one transaction of one round trip. After an error nothing is known: the
// transaction may or may not have been committed.
func (s *Store) Tick(ctx context.Context, epoch int64, plan *Plan) (*Report, error) {
	batch, report := &pgx.Batch{}, &Report{}
	batch.Queue(`select scheduler_fence($1, $2::interval)`, epoch, s.lease)
	batch.Queue(ownXact).QueryRow(func(row pgx.Row) error { return row.Scan(&report.Xact) })

	if n := len(plan.Finish); n > 0 {
		seqs, claims := make([]int64, n), make([]int64, n)
		states, results, causes := make([]string, n), make([]*string, n), make([]*string, n)
		for i, end := range plan.Finish {
			seqs[i], claims[i], states[i] = end.Seq, end.Claim, string(end.State)
			if end.Result != "" {
				results[i] = &end.Result
			}
			causes[i] = errorJSON(end.Error)
		}
		batch.Queue(finishRuns, seqs, claims, states, results, causes, canceledJSON()).Query(stateRows(&report.Finished))
	}
	if n := len(plan.Requeue); n > 0 {
		seqs, claims := make([]int64, n), make([]int64, n)
		for i, back := range plan.Requeue {
			seqs[i], claims[i] = back.Seq, back.Claim
		}
		batch.Queue(requeueRuns, seqs, claims, canceledJSON()).Query(stateRows(&report.Requeued))
	}
	if len(plan.Reject) > 0 {
		batch.Queue(rejectTasks, plan.Reject, *errorJSON(&task.Error{Reason: task.ReasonUnavailable})).Query(numberRows(&report.Rejected))
	}
	if len(plan.Unblock) > 0 {
		batch.Queue(unblockTasks, plan.Unblock)
	}
	if n := len(plan.Claim); n > 0 {
		seqs, executors, incarnations := make([]int64, n), make([]string, n), make([]string, n)
		for i, c := range plan.Claim {
			seqs[i], executors[i], incarnations[i] = c.Seq, c.Executor, c.Incarnation
		}
		batch.Queue(claimTasks, seqs, executors, incarnations).Query(func(rows pgx.Rows) error {
			var c Claimed
			_, err := pgx.ForEachRow(rows, []any{&c.Seq, &c.Claim, &c.Attempt, &c.Args, &c.Kwargs, &c.CorrelationID, &c.Traceparent, &c.GroupID}, func() error {
				report.Claimed = append(report.Claimed, c)
				return nil
			})
			return err
		})
	}
	if len(plan.ForgetCancels) > 0 {
		batch.Queue(forgetCancels, plan.ForgetCancels)
	}
	if plan.Look {
		lows, highs := make([]int64, len(plan.Gaps)), make([]int64, len(plan.Gaps))
		for i, gap := range plan.Gaps {
			lows[i], highs[i] = gap.From, gap.To
		}
		look, args := lookNew, []any{plan.After, lows, highs, plan.LookLimit}
		if plan.Late != nil {
			look, args = lookLate, append(args, plan.Late.High, plan.Late.Snapshot)
		}
		batch.Queue(oldestOpen).QueryRow(func(row pgx.Row) error { return row.Scan(&report.OldestOpen) })
		batch.Queue(look, args...).Query(func(rows pgx.Rows) error {
			return eachRow(rows, func(r Row) { report.New = append(report.New, r) })
		})
		batch.Queue(lookCancels, plan.LookLimit).Query(numberRows(&report.Cancels))
		batch.Queue(lookGone, plan.Owners).Query(func(rows pgx.Rows) error {
			var gone Gone
			_, err := pgx.ForEachRow(rows, []any{&gone.Incarnation, &gone.InOrder}, func() error {
				report.Gone = append(report.Gone, gone)
				return nil
			})
			return err
		})
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, lost("write a tick", err)
	}
	return report, nil
}

// Living reports whether the incarnation of an executor is registered and neither missing nor ended.
func (s *Store) Living(ctx context.Context, name, incarnation string) (bool, error) {
	var living bool
	err := s.pool.QueryRow(ctx, `
		select exists (select from app where incarnation = $1::text::uuid and name = $2 and kind = 'worker'
		                                 and missing_at is null and ended_at is null)`, incarnation, name).Scan(&living)
	if err != nil {
		return false, postgres.Away(fmt.Errorf("look up incarnation %s: %w", incarnation, err))
	}
	return living, nil
}

// lost marks an error of the fence as the end of a leadership.
func lost(what string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == fenced {
		return fmt.Errorf("%s: %w", what, ErrDeposed)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func eachRow(rows pgx.Rows, do func(Row)) error {
	defer rows.Close()
	for rows.Next() {
		// A fresh Row each time: slices and maps must not be shared.
		var r Row
		if err := rows.Scan(&r.Seq, &r.ID, &r.Name, &r.State, &r.Exclusive, &r.Shared, &r.Immediate, &r.Deferred, &r.Versions,
			&r.CreatedAt, &r.Unblocked, &r.Executor, &r.Incarnation, &r.Claim); err != nil {
			return fmt.Errorf("read a task: %w", err)
		}
		do(r)
	}
	return rows.Err()
}

// stateRows reads rows of seq and state.
func stateRows(into *map[int64]task.State) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		*into = map[int64]task.State{}
		var seq int64
		var state task.State
		_, err := pgx.ForEachRow(rows, []any{&seq, &state}, func() error {
			(*into)[seq] = state
			return nil
		})
		return err
	}
}

// numberRows reads rows of one number.
func numberRows(into *[]int64) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
			*into = append(*into, n)
			return nil
		})
		return err
	}
}

func errorJSON(e *task.Error) *string {
	if e == nil {
		return nil
	}
	text, err := json.Marshal(e)
	if err != nil {
		// Three strings always marshal.
		text = []byte(`{"reason":"unknown"}`)
	}
	s := string(text)
	return &s
}

func canceledJSON() string { return *errorJSON(&task.Error{Reason: task.ReasonCanceled}) }
