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
	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
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

// taskColumns is what the leader keeps of a task.
const taskColumns = `
	t.seq, t.id::text, t.name, t.state, t.exclusive, t.shared, t.immediate, t.deferred, t.versions, t.created_at,
	t.unblocked_at is not null, coalesce(t.executor, ''), coalesce(t.incarnation::text, ''), t.claim, t.attempt, t.retry_at,
	coalesce(t.options::text, ''),
	coalesce((extract(epoch from t.unblocked_at) * 1000000)::bigint, 0), coalesce((extract(epoch from t.started_at) * 1000000)::bigint, 0),
	case when t.state <> 'waiting' then t.correlation_id else '' end, case when t.state <> 'waiting' then t.traceparent else '' end,
	case when t.state <> 'waiting' then t.tracestate else '' end`

// Those that were unblocked come first: they hold their resources already. The rest queue behind them in the order of
// dispatch. Not every unblocked row says so yet; the order of dispatch is right for those.
const loadLive = `
	select ` + taskColumns + `
	from task_live l join task t on t.id = l.task_id
	order by t.unblocked_at is null, t.seq`

// Load reads every task that is not final, in the order in which they must be admitted. It does not lock the lease, so that
// the lease can be renewed however long it takes: when the epoch was taken, every transaction of an earlier one had ended.
func (s *Store) Load(ctx context.Context, epoch int64, admit func(Row)) (Loaded, error) {
	if err := s.Renew(ctx, epoch); err != nil {
		return Loaded{}, err
	}
	var loaded Loaded
	batch := &pgx.Batch{}
	batch.Queue(`select pg_current_snapshot()::text, ` + clock).QueryRow(func(row pgx.Row) error { return row.Scan(&loaded.Snapshot, &loaded.Now) })
	batch.Queue(loadLive).Query(func(rows pgx.Rows) error { return eachRow(rows, admit) })
	batch.Queue(highest).QueryRow(func(row pgx.Row) error { return row.Scan(&loaded.High) })
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return Loaded{}, fmt.Errorf("load live tasks: %w", err)
	}
	return loaded, s.Renew(ctx, epoch)
}

// highest asks the sequence and not the table: what has ended can be deleted, and a dispatcher's word of it still be on its way.
// Numbers whose transactions are open are below it, too. They are not visible in the snapshot, so they are looked for.
const highest = `select case when is_called then last_value else 0 end from task_seq_seq`

// clock is when the transaction began, in microseconds since 1970.
const clock = `(extract(epoch from now()) * 1000000)::bigint`

// tickOnce is the first statement of a tick. Like all that every task pays for it is a function of the schema, where PostgreSQL keeps its
// plan; what it does stands in the migrations. The call itself is read and planned each time: it is as short as can be.
//
// It returns the transaction's own id. A snapshot's upper bound would not do in its place: it is one more than the last id
// that has ended, and transactions above it can be open.
//
// What it carries is said at its end, for who reads the server's log.
const (
	tickOnce   = `select * from scheduler_tick_3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`
	tickEnds   = tickOnce + ` -- ends`
	tickClaims = tickOnce + ` -- claims`
	tickBoth   = tickOnce + ` -- ends and claims`
)

// tickStatement is the one for a plan.
func tickStatement(plan *Plan) string {
	switch ends, claims := len(plan.Finish) > 0, len(plan.Claim) > 0; {
	case ends && claims:
		return tickBoth
	case ends:
		return tickEnds
	case claims:
		return tickClaims
	default:
		return tickOnce
	}
}

// tickArgs are its arguments.
func tickArgs(epoch int64, lease time.Duration, plan *Plan) []any {
	var renewal any // null: the fence alone, see scheduler_fence
	if !plan.Beside {
		renewal = lease
	}
	const none = "{}"
	args := []any{epoch, renewal, none, none, none, none, none, none, none, none, none, none}
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
		args[2], args[3], args[4] = postgres.Bigints(seqs), postgres.Bigints(claims), postgres.Texts(states)
		args[5], args[6], args[7] = postgres.TextsOrNull(results), postgres.TextsOrNull(causes), canceledJSON()
	}
	if n := len(plan.Claim); n > 0 {
		seqs, times, executors, incarnations := make([]int64, n), make([]int64, n), make([]string, n), make([]string, n)
		for i, c := range plan.Claim {
			seqs[i], times[i], executors[i], incarnations[i] = c.Seq, c.Unblocked, c.Executor, c.Incarnation
		}
		args[8], args[9], args[10], args[11] = postgres.Bigints(seqs), postgres.Texts(executors), postgres.Texts(incarnations), postgres.Bigints(times)
	}
	return args
}

// tickRows reads what the first statement of a tick answers.
func tickRows(report *Report, plan *Plan) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		report.Finished = make(map[int64]task.State, len(plan.Finish))
		report.Claimed = make(map[int64]*Claimed, len(plan.Claim))
		for _, end := range plan.Finish { // but for those of which a row says otherwise
			report.Finished[end.Seq] = end.State
		}
		ended := 0
		var part int
		var seq, claim int64
		var attempt int32
		var args, kwargs, correlation, traceparent, tracestate, group, options *string
		_, err := pgx.ForEachRow(rows, []any{
			&part, &seq, &claim, &attempt, &args, &kwargs, &correlation, &traceparent, &tracestate, &group, &options,
		}, func() error {
			switch part {
			case 0:
				report.Now, report.Xact, ended = seq, uint64(claim), int(attempt)
			case 1:
				report.Finished[seq] = task.State(*args)
			default:
				asked, err := task.ParseOptions(or(options, ""))
				if err != nil {
					return fmt.Errorf("read task with seq %d: %w", seq, err)
				}
				report.Claimed[seq] = &Claimed{
					Seq: seq, Claim: claim, Attempt: attempt, Args: or(args, "[]"), Kwargs: or(kwargs, "{}"),
					CorrelationID: or(correlation, ""), Traceparent: or(traceparent, ""), Tracestate: or(tracestate, ""),
					GroupID: or(group, ""), Options: asked,
				}
			}
			return nil
		})
		if err == nil && ended != len(plan.Finish) {
			return fmt.Errorf("finish runs: %d of %d changed", ended, len(plan.Finish))
		}
		return err
	}
}

// or is a text, or what stands for none.
func or(text *string, none string) string {
	if text == nil {
		return none
	}
	return *text
}

// requeueRuns takes back assignments that did not begin.
const requeueRuns = `select seq, state from scheduler_requeue($1::bigint[], $2::bigint[], $3::json)`

// retryTasks puts back tasks whose attempt failed, and records the attempts.
const retryTasks = `select seq, state from scheduler_retry($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::json)`

// rejectTasks ends tasks that would not wait. One that was canceled meanwhile is final already and stays as it is.
const rejectTasks = `
	with rejected as (
		update task set state = 'canceled', error = $2::json, finished_at = now(), updated_at = now()
		where seq = any($1::bigint[]) and state = 'waiting'
		returning seq
	)
	delete from task_live where seq = any(array(select seq from rejected))`

// unblockTasks writes when a task was unblocked, which was decided some ticks before. This process's clock had a part in it, so
// the times around it bound it.
const unblockTasks = `select scheduler_unblock($1::bigint[], $2::bigint[])`

const forgetCancels = `delete from task_cancel where seq = any($1::bigint[])`

// lookNew finds what came after the highest seq seen, what filled a gap below it, and, as long as there is a window, what the
// load could not see. Only the first part is limited: of the rest all must be seen before anything above it is.
const lookNew = `
	select seq, id, name, state, exclusive, shared, immediate, deferred, versions, created_at, unblocked, executor, incarnation, claim,
	       attempt, retry_at, options, 0, 0, '', '', ''
	from scheduler_look_2($1, $2::bigint[], $3::bigint[], $4::integer, $5, $6)`

// oldestOpen returns the oldest transaction that may still bring a task. The oldest of all will do if it is above $1, what is
// asked for. If not, it may be a stranger's, of any database on the server, and stay open for hours: who has taken a number
// has a lock on the table that it is the number of, and keeps it until what he wrote can be seen.
const oldestOpen = `
	select case when open.oldest >= $1 then open.oldest else open.own - greatest(0, (
		with locks as materialized (select * from pg_locks where granted)
		select max(age(x.transactionid)) from locks x
		where x.locktype = 'transactionid' and x.mode = 'ExclusiveLock' and x.virtualtransaction in (
			select l.virtualtransaction from locks l
			where l.locktype = 'relation' and l.relation = 'task'::regclass and l.mode not in ('AccessShareLock', 'RowShareLock')
			  and l.database = (select oid from pg_database where datname = current_database()))
	)) end
	from (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest, pg_current_xact_id()::text::bigint as own) open`

const forgetLives = `delete from app_over where incarnation = any($1::text[]::uuid[])`

// glance asks whether there is anything to look for, and keeps the lease.
const glance = `select clock, stirs, due from scheduler_glance_2($1, $2::interval, $3, $4::text[])`

// fire dispatches what is due.
const fire = `
	select schedule_id, name, coalesce(task_id, ''), task_name, problem, due, next, correlation, exclusive, shared,
		made_traceparent, made_tracestate, coalesce(last_traceparent, ''), coalesce(last_tracestate, '')
	from scheduler_fire_2($1, $2::interval, $3::text[], $4::text[], $5::text[], $6::text[])`

// nextDue says when the next schedule is due, and what time it is.
const nextDue = `select (extract(epoch from scheduler_due()) * 1000000)::bigint, ` + clock

// lookCancels finds wishes to cancel, all or those of the last minute.
const lookCancels = `select * from scheduler_wishes($1, $2)`

// lookOver finds the notes that the heartbeat service leaves of lives that are over.
const lookOver = `select incarnation::text, not missing from app_over order by incarnation limit $1`

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
	batch.Queue(tickStatement(plan), tickArgs(epoch, s.lease, plan)...).Query(tickRows(report, plan))

	if n := len(plan.Requeue); n > 0 {
		seqs, claims := make([]int64, n), make([]int64, n)
		for i, back := range plan.Requeue {
			seqs[i], claims[i] = back.Seq, back.Claim
		}
		batch.Queue(requeueRuns, postgres.Bigints(seqs), postgres.Bigints(claims), canceledJSON()).Query(stateRows(&report.Requeued))
	}
	if n := len(plan.Retry); n > 0 {
		seqs, claims, pauses, failures := make([]int64, n), make([]int64, n), make([]int64, n), make([]string, n)
		for i, a := range plan.Retry {
			seqs[i], claims[i], pauses[i], failures[i] = a.Seq, a.Claim, a.Pause, *errorJSON(a.Error)
		}
		batch.Queue(retryTasks, postgres.Bigints(seqs), postgres.Bigints(claims), postgres.Bigints(pauses), postgres.Texts(failures),
			canceledJSON()).Query(stateRows(&report.Retried))
	}
	if len(plan.Reject) > 0 {
		batch.Queue(rejectTasks, plan.Reject, *errorJSON(&task.Error{Reason: task.ReasonUnavailable}))
	}
	if n := len(plan.Unblock); n > 0 {
		seqs, times := make([]int64, n), make([]int64, n)
		for i, stamp := range plan.Unblock {
			seqs[i], times[i] = stamp.Seq, stamp.At
		}
		batch.Queue(unblockTasks, postgres.Bigints(seqs), postgres.Bigints(times))
	}
	if len(plan.ForgetCancels) > 0 {
		batch.Queue(forgetCancels, plan.ForgetCancels)
	}
	if len(plan.ForgetLives) > 0 {
		batch.Queue(forgetLives, postgres.Texts(plan.ForgetLives))
	}
	if plan.Look {
		lows, highs := make([]int64, len(plan.Gaps)), make([]int64, len(plan.Gaps))
		for i, gap := range plan.Gaps {
			lows[i], highs[i] = gap.From, gap.To
		}
		var late *int64
		var seen string
		if plan.Late != nil {
			late, seen = &plan.Late.High, plan.Late.Snapshot
		}
		batch.Queue(oldestOpen, plan.until()).QueryRow(func(row pgx.Row) error { return row.Scan(&report.OldestOpen) })
		batch.Queue(lookNew, plan.After, lows, highs, plan.LookLimit, late, seen).Query(func(rows pgx.Rows) error {
			return eachRow(rows, func(r Row) { report.New = append(report.New, r) })
		})
		batch.Queue(lookCancels, plan.LookLimit, plan.Thorough).Query(numberRows(&report.Cancels))
		batch.Queue(lookOver, plan.LookLimit).Query(goneRows(report, Gone{Noted: true}))
		if plan.Thorough {
			batch.Queue(lookGone, postgres.Texts(plan.Owners)).Query(goneRows(report, Gone{}))
		}
		if plan.Due {
			batch.Queue(nextDue).QueryRow(func(row pgx.Row) error { return row.Scan(&report.Due, nil) })
		}
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, lost("write a tick", err)
	}
	return report, nil
}

// Glance is a look that reads nothing: it says whether there is a task above high, a wish to cancel, a note of a life that is over,
// or whether one of the owners' lives is; owners is nil for a glance that is not thorough. It also says when the next schedule is due,
// and keeps the lease. ErrDeposed:
// another has taken it.
func (s *Store) Glance(ctx context.Context, epoch, high int64, owners []string) (Glimpse, error) {
	var lives any
	if owners != nil {
		lives = postgres.Texts(owners)
	}
	var g Glimpse
	if err := s.pool.QueryRow(ctx, glance, epoch, s.lease, high, lives).Scan(&g.Now, &g.Stirs, &g.Due); err != nil {
		return Glimpse{}, lost("look for something to do", err)
	}
	return g, nil
}

// Fire dispatches the tasks of as many schedules as there is something fresh for, those first that have been due for longest, and moves their
// next times. One that can't be dispatched does not hold up the others. ErrDeposed: another leads, and nothing was done.
// After any other error it may have been done or not.
func (s *Store) Fire(ctx context.Context, epoch int64, fresh []Fresh) (Firing, error) {
	columns := make([][]string, 4)
	for _, f := range fresh {
		for i, value := range [...]string{f.TaskID, f.CorrelationID, f.Traceparent, f.Tracestate} {
			columns[i] = append(columns[i], value)
		}
	}
	args := []any{epoch, s.lease}
	for _, column := range columns {
		args = append(args, postgres.Texts(column))
	}
	var firing Firing
	batch := &pgx.Batch{}
	batch.Queue(fire, args...).Query(func(rows pgx.Rows) (err error) {
		firing.Fired, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Fired, err error) {
			var made, madeState, last, lastState string
			err = row.Scan(&f.ScheduleID, &f.Name, &f.TaskID, &f.TaskName, &f.Problem, &f.Due, &f.Next, &f.CorrelationID, &f.Exclusive, &f.Shared,
				&made, &madeState, &last, &lastState)
			f.Made, f.Last = tasktrace.Parse(made, madeState), tasktrace.Parse(last, lastState)
			return f, err
		})
		return err
	})
	batch.Queue(nextDue).QueryRow(func(row pgx.Row) error { return row.Scan(&firing.Due, &firing.Now) })
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return Firing{}, lost("dispatch scheduled tasks", err)
	}
	return firing, nil
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
		var options string
		if err := rows.Scan(&r.Seq, &r.ID, &r.Name, &r.State, &r.Exclusive, &r.Shared, &r.Immediate, &r.Deferred, &r.Versions,
			&r.CreatedAt, &r.Unblocked, &r.Executor, &r.Incarnation, &r.Claim, &r.Attempt, &r.RetryAt, &options,
			&r.UnblockedAt, &r.StartedAt, &r.CorrelationID, &r.Traceparent, &r.Tracestate); err != nil {
			return fmt.Errorf("read a task: %w", err)
		}
		asked, err := task.ParseOptions(options)
		if err != nil {
			return fmt.Errorf("read task %s: %w", r.ID, err)
		}
		r.Retry = asked.Retry
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

// goneRows reads rows of incarnation and whether it ended in order.
func goneRows(report *Report, gone Gone) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&gone.Incarnation, &gone.InOrder}, func() error {
			report.Gone = append(report.Gone, gone)
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
