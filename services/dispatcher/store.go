package dispatcher

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/run"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Store is the SQL of the dispatcher.
type Store struct{ pool *pgxpool.Pool }

// NewStore makes a store.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// insertTasks is a function of the schema, where PostgreSQL keeps its plan; what it does stands in the migrations. The call itself is
// read and planned each time, so it is short.
const insertTasks = `select * from dispatcher_insert_4($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`

// insertKnown is the same for tasks of which some have request ids or files: the others are not to pay for them.
const insertKnown = `
	select asked, id, seq, created_at, differs from dispatcher_insert_3($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
		$7::text[], $8::boolean[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
		$17::text[], $18::text[], $19::text[])`

// tries bounds how often one transaction is tried that PostgreSQL undid because of another one.
// tryPause is half the bound of the first pause between tries.
const (
	tries    = 5
	tryPause = 5 * time.Millisecond
)

// tryAgain runs a transaction, and runs it again when it was undone because of another one: nothing is left of it then. The error is
// that of the last run.
func tryAgain(ctx context.Context, undone func(error) bool, once func() error) error {
	for try := 1; ; try++ {
		err := once()
		if !undone(err) || try == tries {
			return err
		}
		// From nothing to the bound: with less spread the two would come back together.
		if !run.Pause(ctx, rand.N(tryPause<<try)) {
			return ctx.Err()
		}
	}
}

// Insert stores tasks, all or none; those with a request id that is known already are not stored again. Their ids, places in
// the order and times are set in them.
func (s *Store) Insert(ctx context.Context, tasks []*New) error {
	fresh, again := apart(tasks)
	if slices.ContainsFunc(again, func(r repeat) bool { return r.task.Reused != "" }) {
		return ErrReused
	}
	statement, args, err := insertion(fresh)
	if err != nil {
		return err
	}
	// Two dispatchers that are given the same request ids at the same moment wait for each other in the index; the next try finds
	// what the other one stored.
	met := func(err error) bool { return postgres.IsRetryable(err) || postgres.Constraint(err) == requestIndex }
	err = tryAgain(ctx, met, func() error { return s.insert(ctx, fresh, statement, args) })
	if err != nil {
		return inserted(err)
	}
	if slices.ContainsFunc(fresh, func(t *New) bool { return t.Reused != "" }) {
		return ErrReused
	}
	for _, r := range again {
		r.task.ID, r.task.Seq, r.task.CreatedAt, r.task.Repeated = r.first.ID, r.first.Seq, r.first.CreatedAt, true
	}
	return nil
}

// repeat is a task whose request id another one in the same transaction has.
type repeat struct{ task, first *New }

// apart takes out the tasks that repeat others of the list.
func apart(tasks []*New) (fresh []*New, again []repeat) {
	byRequest := map[[2]string]*New{}
	fresh = make([]*New, 0, len(tasks))
	for _, t := range tasks {
		t.Repeated, t.Reused = false, ""
		key := [2]string{t.DomainID, t.RequestID}
		first := byRequest[key]
		switch {
		case t.RequestID == "":
		case first != nil:
			t.Reused = first.difference(t)
			again = append(again, repeat{t, first})
			continue
		default:
			byRequest[key] = t
		}
		fresh = append(fresh, t)
	}
	return fresh, again
}

// insertion is the statement that stores tasks, with its arguments.
func insertion(tasks []*New) (statement string, args []any, err error) {
	n := len(tasks)
	columns := make([][]string, 15)
	for i := range columns {
		columns[i] = make([]string, n)
	}
	immediate, deferred := make([]bool, n), make([]bool, n)
	var linked, files []string
	statement = insertTasks
	for i, t := range tasks {
		versions := "{}"
		if len(t.Versions) > 0 {
			text, err := json.Marshal(t.Versions)
			if err != nil {
				return "", nil, fmt.Errorf("encode versions of task %s: %w", t.ID, err)
			}
			versions = string(text)
		}
		options, err := t.Options.Text()
		if err != nil {
			return "", nil, fmt.Errorf("store task %s: %w", t.ID, err)
		}
		for c, value := range [...]string{
			t.ID, t.DomainID, t.Name, t.Args, t.Kwargs, postgres.Texts(t.Reserved.Exclusive), postgres.Texts(t.Reserved.Shared),
			versions, t.ParentID, t.GroupID, t.CorrelationID, t.Traceparent, t.Tracestate, options, t.RequestID,
		} {
			columns[c][i] = value
		}
		immediate[i], deferred[i] = t.Immediate, t.Deferred
		for _, file := range t.Options.Files {
			linked, files = append(linked, t.ID), append(files, file)
		}
		if t.RequestID != "" || len(t.Options.Files) > 0 {
			statement = insertKnown
		}
	}
	if statement == insertTasks {
		columns = columns[:14]
	}
	args = make([]any, 0, len(columns)+4)
	for i, column := range columns {
		if i == 7 {
			args = append(args, postgres.Booleans(immediate), postgres.Booleans(deferred))
		}
		args = append(args, postgres.Texts(column))
	}
	if statement == insertKnown {
		args = append(args, postgres.Texts(linked), postgres.Texts(files))
	}
	return statement, args, nil
}

// insert runs the statement once.
func (s *Store) insert(ctx context.Context, tasks []*New, statement string, args []any) error {
	if statement == insertTasks {
		return s.insertFresh(ctx, tasks, args)
	}
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	byID := make(map[string]*New, len(tasks))
	for _, t := range tasks {
		byID[t.ID] = t
	}
	type answer struct {
		t       *New
		id      string
		seq     int64
		created time.Time
		differs string
	}
	var asked string
	var got answer
	answers := make([]answer, 0, len(tasks))
	_, err = pgx.ForEachRow(rows, []any{&asked, &got.id, &got.seq, &got.created, &got.differs}, func() error {
		got.t = byID[asked]
		answers = append(answers, got)
		return nil
	})
	if err := cmp.Or(err, rows.Err()); err != nil {
		return err
	}
	// Only now: what failed is tried again, by the ids that were asked for. And so is what shared a transaction with a task that
	// reuses a request id.
	if slices.ContainsFunc(answers, func(a answer) bool { return a.differs != "" }) {
		for _, a := range answers {
			a.t.Reused = a.differs
		}
		return nil
	}
	for _, a := range answers {
		a.t.Repeated = a.id != a.t.ID
		a.t.ID, a.t.Seq, a.t.CreatedAt, a.t.UpdatedAt = a.id, a.seq, a.created, a.created
	}
	return nil
}

// insertFresh stores tasks of which none can be there already.
func (s *Store) insertFresh(ctx context.Context, tasks []*New, args []any) error {
	var numbers []int64
	var at time.Time
	if err := s.pool.QueryRow(ctx, insertTasks, args...).Scan(&numbers, &at); err != nil {
		return err
	}
	if len(numbers) != len(tasks) {
		return fmt.Errorf("the database numbered %d tasks of %d", len(numbers), len(tasks))
	}
	for i, t := range tasks {
		t.Seq, t.CreatedAt, t.UpdatedAt = numbers[i], at, at
	}
	return nil
}

// namesNothing are the constraints that say that a task names something that does not exist.
var namesNothing = []string{"task_parent_id_fkey", "task_group_id_fkey", "task_file_file_id_fkey"}

// requestIndex is where two tasks with the same request id meet.
const requestIndex = "task_request"

// inserted says of an error what it means for the rows.
func inserted(err error) error {
	err = fmt.Errorf("insert tasks: %w", err)
	switch constraint := postgres.Constraint(err); {
	case slices.Contains(namesNothing, constraint):
		return fmt.Errorf("%w: %w", ErrMissing, err)
	case constraint == requestIndex || postgres.IsRetryable(err):
		return fmt.Errorf("%w: %w", ErrRefused, errs.Away(errs.DatabaseAway, err, "others store the same tasks at this moment: dispatch again"))
	case postgres.IsUnavailable(err):
		// Also where it comes as an answer: a pooler says so of a server that it lost after the commit. And what is away for
		// all need not be asked again for each.
		return postgres.Away(err)
	case postgres.Answered(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	default:
		return err
	}
}

// Missing tells which of the tasks name a parent, or a group, that does not exist, by their places in the list.
func (s *Store) Missing(ctx context.Context, tasks []*New) (parents, groups map[int]bool, err error) {
	ids := [2][]string{make([]string, len(tasks)), make([]string, len(tasks))}
	for i, t := range tasks {
		ids[0][i], ids[1][i] = t.ParentID, t.GroupID
	}
	found := [2]map[int]bool{{}, {}}
	for i, table := range []string{"task", "task_group"} {
		rows, err := s.pool.Query(ctx, `
			select place - 1 from unnest($1::text[]) with ordinality as named (id, place)
			where named.id <> '' and not exists (select from `+table+` t where t.id = named.id::uuid)`, postgres.Texts(ids[i]))
		if err != nil {
			return nil, nil, postgres.Away(fmt.Errorf("look for missing rows of %s: %w", table, err))
		}
		var place int
		_, err = pgx.ForEachRow(rows, []any{&place}, func() error { found[i][place] = true; return nil })
		if err := cmp.Or(err, rows.Err()); err != nil {
			return nil, nil, postgres.Away(fmt.Errorf("look for missing rows of %s: %w", table, err))
		}
	}
	return found[0], found[1], nil
}

// Known tells which of the tasks have the request id of a task that is stored, by their places in the list.
func (s *Store) Known(ctx context.Context, tasks []*New) (map[int]bool, error) {
	if !slices.ContainsFunc(tasks, func(t *New) bool { return t.RequestID != "" }) {
		return nil, nil
	}
	domains, requests := make([]string, len(tasks)), make([]string, len(tasks))
	for i, t := range tasks {
		domains[i], requests[i] = t.DomainID, t.RequestID
	}
	rows, err := s.pool.Query(ctx, `
		select place - 1 from unnest($1::text[], $2::text[]) with ordinality as named (domain, request, place)
		where named.request <> '' and exists (select from task t where t.domain_id = named.domain::uuid and t.request_id = named.request)`,
		postgres.Texts(domains), postgres.Texts(requests))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look for request ids: %w", err))
	}
	known := map[int]bool{}
	var place int
	_, err = pgx.ForEachRow(rows, []any{&place}, func() error { known[place] = true; return nil })
	if err := cmp.Or(err, rows.Err()); err != nil {
		return nil, postgres.Away(fmt.Errorf("look for request ids: %w", err))
	}
	return known, nil
}

// MissingFiles tells which of the tasks' files do not exist, or are not complete: by the places of the tasks in the list, the
// places in their lists of files.
func (s *Store) MissingFiles(ctx context.Context, tasks []*New) (map[int][]int, error) {
	var ids []string
	var places [][2]int
	for i, t := range tasks {
		for j, id := range t.Options.Files {
			ids, places = append(ids, id), append(places, [2]int{i, j})
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, `
		select place - 1 from unnest($1::text[]) with ordinality as named (id, place)
		where not exists (select from temporary_file f where f.id = named.id::uuid and f.state = 'complete')
		order by place`, postgres.Texts(ids))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("look for missing files: %w", err))
	}
	missing := map[int][]int{}
	var place int
	_, err = pgx.ForEachRow(rows, []any{&place}, func() error {
		at := places[place]
		missing[at[0]] = append(missing[at[0]], at[1])
		return nil
	})
	if err := cmp.Or(err, rows.Err()); err != nil {
		return nil, postgres.Away(fmt.Errorf("look for missing files: %w", err))
	}
	return missing, nil
}

// nothing reports whether a query found no row.
func nothing(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// cancelTask is guarded by the state. Its outcome is read from the row: no row changed means that it was final, or is
// canceling already, or is not there.
const cancelTask = `
	with hit as (
		update task set
			state       = case state when 'waiting' then 'canceled' else 'canceling' end,
			finished_at = case state when 'waiting' then now() end,
			error       = case state when 'waiting' then $2::text::json end,
			updated_at  = now()
		where id = $1::text::uuid and state in ('waiting', 'running')
		returning *
	), gone as (
		delete from task_live l using hit where l.seq = hit.seq and hit.state = 'canceled'
	), wish as (
		insert into task_cancel (seq, task_id) select seq, id from hit on conflict do nothing
	)
	select ` + postgres.TaskColumns + ` from hit`

// Cancel asks a task to stop. changed tells whether it was this call that did.
func (s *Store) Cancel(ctx context.Context, id string) (t *task.Task, changed bool, err error) {
	cause, err := json.Marshal(task.Error{Reason: task.ReasonCanceled})
	if err != nil {
		return nil, false, fmt.Errorf("encode the reason: %w", err)
	}
	t, err = postgres.ScanTask(s.pool.QueryRow(ctx, cancelTask, id, string(cause)))
	if err == nil {
		return t, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, false, postgres.Away(fmt.Errorf("cancel task %s: %w", id, err))
	}
	t, err = s.Get(ctx, id)
	return t, false, err
}

// Get reads one task.
func (s *Store) Get(ctx context.Context, id string) (*task.Task, error) {
	t, err := postgres.ScanTask(s.pool.QueryRow(ctx, `select `+postgres.TaskColumns+` from task where id = $1::text::uuid`, id))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errs.NotFound(errs.TaskNotFound, "no task %s", id)
	case err != nil:
		return nil, postgres.Away(fmt.Errorf("read task %s: %w", id, err))
	}
	return t, nil
}

// GetAll reads tasks by their ids; those that are not there are not in the answer.
func (s *Store) GetAll(ctx context.Context, ids []string) (map[string]*task.Task, error) {
	rows, err := s.pool.Query(ctx, `select `+postgres.TaskColumns+` from task where id = any($1::text[]::uuid[])`, postgres.Texts(ids))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	defer rows.Close()
	found := make(map[string]*task.Task, len(ids))
	for rows.Next() {
		t, err := postgres.ScanTask(rows)
		if err != nil {
			return nil, fmt.Errorf("read %d tasks: %w", len(ids), err)
		}
		found[t.ID] = t
	}
	if err := rows.Err(); err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d tasks: %w", len(ids), err))
	}
	return found, nil
}

// selectUnstarted reads what the traces of canceled tasks need. It looks at the tasks one by one, whatever the statistics say.
const selectUnstarted = `
	select t.id::text, t.name, t.correlation_id, t.exclusive, t.shared, t.attempt, t.created_at, t.unblocked_at, t.finished_at,
	       (select max(a.ended_at) from task_attempt a where a.task_id = t.id), t.traceparent, t.tracestate
	from unnest($1::bigint[]) as asked (seq)
	cross join lateral (select * from task k where k.seq = asked.seq offset 0) t
	where t.state = 'canceled' and t.started_at is null and t.traceparent <> ''`

// Unstarted reads those of some tasks that were canceled while they waited, and have a trace.
func (s *Store) Unstarted(ctx context.Context, seqs []int64) ([]*Unstarted, error) {
	rows, err := s.pool.Query(ctx, selectUnstarted, postgres.Bigints(seqs))
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d canceled tasks: %w", len(seqs), err))
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Unstarted, error) {
		t := &Unstarted{Task: task.Task{Domain: task.DefaultDomain}}
		return t, row.Scan(&t.ID, &t.Name, &t.CorrelationID, &t.Reserved.Exclusive, &t.Reserved.Shared, &t.Attempt, &t.CreatedAt,
			&t.UnblockedAt, &t.FinishedAt, &t.FailedAt, &t.Traceparent, &t.Tracestate)
	})
	if err != nil {
		return nil, postgres.Away(fmt.Errorf("read %d canceled tasks: %w", len(seqs), err))
	}
	return found, nil
}

// Delete removes a finished task. deleted is false if it is not there or not finished, or has children that are not: a delete
// changes the children's rows too, and those of live tasks are the scheduler's, which locks them in an order of its own.
func (s *Store) Delete(ctx context.Context, id string) (deleted bool, err error) {
	err = tryAgain(ctx, postgres.IsRetryable, func() error {
		tag, err := s.pool.Exec(ctx, `
			delete from task t where id = $1::text::uuid and state in ('completed', 'failed', 'canceled', 'skipped')
			and not exists (select from task c where c.parent_id = t.id and c.state in ('waiting', 'running', 'canceling'))`, id)
		deleted = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, removed(fmt.Errorf("delete task %s: %w", id, err))
	}
	return deleted, nil
}

// Reject cancels a task that would not wait, if it still does. rejected is false if it started or ended meanwhile.
func (s *Store) Reject(ctx context.Context, id string) (rejected bool, err error) {
	cause, err := json.Marshal(task.Error{Reason: task.ReasonUnavailable})
	if err != nil {
		return false, fmt.Errorf("encode the reason: %w", err)
	}
	tag, err := s.pool.Exec(ctx, `
		with hit as (
			update task set state = 'canceled', finished_at = now(), error = $2::text::json, updated_at = now()
			where id = $1::text::uuid and state = 'waiting'
			returning seq, id
		), gone as (
			delete from task_live l using hit where l.seq = hit.seq
		)
		insert into task_cancel (seq, task_id) select seq, id from hit on conflict do nothing`, id, string(cause))
	if err != nil {
		return false, postgres.Away(fmt.Errorf("reject task %s: %w", id, err))
	}
	return tag.RowsAffected() == 1, nil
}

// Purge removes some tasks that ended before a time and are in one of the states, of at most most tasks that come after a place
// in the order. next is the place to go on from, nil when there is nothing more to look at. What is locked is passed over, and
// so is a task with children that are not final.
func (s *Store) Purge(ctx context.Context, before time.Time, states []task.State, after int64, most int) (deleted map[task.State]int64, next *int64, err error) {
	words := make([]string, len(states))
	for i, state := range states {
		words[i] = string(state)
	}
	// A parent's end changes its children, which others may be deleting, and theirs in turn may wait here.
	err = tryAgain(ctx, postgres.IsRetryable, func() (err error) {
		deleted, next, err = s.purge(ctx, before, words, after, most)
		return err
	})
	if err != nil {
		return nil, nil, removed(fmt.Errorf("purge tasks: %w", err))
	}
	return deleted, next, nil
}

// purge runs the statement once.
func (s *Store) purge(ctx context.Context, before time.Time, states []string, after int64, most int) (deleted map[task.State]int64, next *int64, err error) {
	rows, err := s.pool.Query(ctx, `select part, coalesce(state, ''), count from dispatcher_purge($1::timestamptz, $2::text[], $3::bigint, $4::integer)`,
		before, postgres.Texts(states), after, most)
	if err != nil {
		return nil, nil, err
	}
	deleted = map[task.State]int64{}
	var part int
	var state task.State
	var count *int64
	_, err = pgx.ForEachRow(rows, []any{&part, &state, &count}, func() error {
		if part == 0 {
			next, count = count, nil // the next row must not be scanned into it
			return nil
		}
		deleted[state] = *count
		return nil
	})
	return deleted, next, cmp.Or(err, rows.Err())
}

// PurgeGroups removes some groups that were made before a time and have no members, of at most most groups with higher ids than after.
// next is the id to go on after, empty when there is nothing more to look at. What is locked is passed over.
func (s *Store) PurgeGroups(ctx context.Context, before time.Time, after string, most int) (deleted int64, next string, err error) {
	err = tryAgain(ctx, postgres.IsRetryable, func() error {
		return s.pool.QueryRow(ctx, `select deleted, coalesce(next, '') from dispatcher_purge_groups($1::timestamptz, $2, $3::integer)`,
			before, after, most).Scan(&deleted, &next)
	})
	if err != nil {
		return 0, "", removed(fmt.Errorf("purge task groups: %w", err))
	}
	return deleted, next, nil
}

// removed says of an error what it means for who deletes.
func removed(err error) error {
	if postgres.IsRetryable(err) {
		return errs.Away(errs.DatabaseAway, err, "others delete the same tasks at this moment: try again")
	}
	return postgres.Away(err)
}
