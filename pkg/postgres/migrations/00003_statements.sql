-- +goose Up

-- The statements that each task pays for, as functions. We use no named prepared statements, so that every server connection
-- of a pooler will do; then PostgreSQL would analyse and plan these anew each time, which takes longer than running them for
-- a few tasks. What a function contains it plans once for each connection and keeps by itself. A later version of a
-- statement gets a new name, so that old and new processes can work on one database.
--
-- A plan that is kept was made for the tables as they were. On a small database it would read whole tables, and go on doing so
-- when they have grown; and when statistics say that next to nothing is waiting, it would begin with those. The settings, which
-- hold inside the function only, and `= any (array[x])`, which unlike `= x` allows no merge and so no walk along an index, leave
-- nothing but one look into an index for each row of the arguments. That is right for any size.

-- Ends runs. Whatever a run came to, a task that was to be canceled is canceled. The guard names claim and state; the leader
-- knows how many rows must come back.
-- +goose StatementBegin
create function scheduler_finish(seqs bigint[], claims bigint[], states text[], results text[], errors text[], canceled json)
returns table (seq bigint, state text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with finished as (
        update task t set
            state       = case when t.state = 'canceling' then 'canceled' else e.state end,
            result      = case when t.state = 'running' and e.state = 'completed' then coalesce(e.result, 'null')::json end,
            error       = case when t.state = 'canceling' then canceled else e.error::json end,
            finished_at = now(),
            updated_at  = now()
        from unnest(seqs, claims, states, results, errors) as e (seq, claim, state, result, error)
        where t.seq = any (array[e.seq]) and t.claim = e.claim and t.state in ('running', 'canceling')
        returning t.seq, t.state
    ), gone as (
        delete from task_live l using finished f where l.seq = any (array[f.seq])
    )
    select f.seq, f.state from finished f;
end
$$;
-- +goose StatementEnd

-- Gives tasks away. One that is missing from the answer was canceled meanwhile. When a task was unblocked was decided some
-- ticks before, with the scheduler's clock having a part in it (microseconds since 1970, 0 for now), so the times around it
-- bound it.
-- +goose StatementBegin
create function scheduler_claim(seqs bigint[], executors text[], incarnations text[], unblocked bigint[])
returns table (seq bigint, claim bigint, attempt integer, args text, kwargs text, correlation_id text, traceparent text, group_id text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    update task t set
        state        = 'running',
        unblocked_at = coalesce(t.unblocked_at, case when c.at > 0 then
            least(greatest('epoch'::timestamptz + c.at * interval '1 microsecond', t.created_at), now()) else now() end),
        started_at   = now(),
        executor     = c.executor,
        incarnation  = c.incarnation::uuid,
        claim        = t.claim + 1,
        attempt      = t.attempt + 1,
        updated_at   = now()
    from unnest(seqs, executors, incarnations, unblocked) as c (seq, executor, incarnation, at)
    where t.seq = any (array[c.seq]) and t.state = 'waiting'
    returning t.seq, t.claim, t.attempt, t.args::text, t.kwargs::text, t.correlation_id, t.traceparent, coalesce(t.group_id::text, '');
end
$$;
-- +goose StatementEnd

-- Heads every transaction of the leader: the fence, then what most ticks write, in one statement, because each more costs as much
-- as it does. The first row (part 0) has the transaction's own id as claim, which costs none, since the lock on the lease has
-- taken it already, and the database's clock in microseconds since 1970 as seq. The rows of part 1 are what became of runs, those
-- of part 2 what was given away.
-- +goose StatementBegin
create function scheduler_tick(
    my_epoch bigint, ttl interval,
    finish_seqs bigint[] default '{}', finish_claims bigint[] default '{}', finish_states text[] default '{}',
    finish_results text[] default '{}', finish_errors text[] default '{}', canceled json default null,
    claim_seqs bigint[] default '{}', claim_executors text[] default '{}', claim_incarnations text[] default '{}',
    claim_unblocked bigint[] default '{}')
returns table (part integer, seq bigint, claim bigint, attempt integer, state text, args text, kwargs text,
               correlation_id text, traceparent text, group_id text) language plpgsql as $$
#variable_conflict use_column
begin
    perform scheduler_fence(my_epoch, ttl);
    part := 0;
    seq := (extract(epoch from now()) * 1000000)::bigint;
    claim := pg_current_xact_id()::text::bigint;
    return next;
    if cardinality(finish_seqs) > 0 then
        return query select 1, f.seq, null::bigint, null::integer, f.state, null::text, null::text, null::text, null::text, null::text
            from scheduler_finish(finish_seqs, finish_claims, finish_states, finish_results, finish_errors, canceled) f;
    end if;
    if cardinality(claim_seqs) > 0 then
        return query select 2, c.seq, c.claim, c.attempt, null::text, c.args, c.kwargs, c.correlation_id, c.traceparent, c.group_id
            from scheduler_claim(claim_seqs, claim_executors, claim_incarnations, claim_unblocked) c;
    end if;
end
$$;
-- +goose StatementEnd

-- Stores tasks. It reads its transaction id before the first row takes its seq: the scheduler relies on it to know, by the ids
-- of the transactions that are still open, when a number that it does not see will never come. The rows take their numbers in
-- the order of the arrays. A list of lists must be rectangular to be an array, so the resources and the versions of each task
-- come as the text of one.
-- +goose StatementBegin
create function dispatcher_insert(
    ids text[], domains text[], names text[], argses text[], kwargses text[], exclusives text[], shareds text[],
    immediates boolean[], deferreds boolean[], versionses text[], parents text[], groups text[], correlations text[],
    traceparents text[], tracestates text[])
returns table (seq bigint, id text, created_at timestamptz) language plpgsql as $$
#variable_conflict use_column
begin
    perform pg_current_xact_id();
    return query
    with new as (
        insert into task (id, domain_id, name, args, kwargs, exclusive, shared, immediate, deferred, versions,
                          parent_id, group_id, correlation_id, traceparent, tracestate)
        select t.id::uuid, t.domain::uuid, t.name, t.args::json, t.kwargs::json, t.exclusive::text[], t.shared::text[], t.immediate,
               t.deferred, t.versions::jsonb, nullif(t.parent, '')::uuid, nullif(t.member, '')::uuid, t.correlation, t.traceparent,
               t.tracestate
        from unnest(ids, domains, names, argses, kwargses, exclusives, shareds, immediates, deferreds, versionses, parents, groups,
                    correlations, traceparents, tracestates) with ordinality
             as t (id, domain, name, args, kwargs, exclusive, shared, immediate, deferred, versions, parent, member,
                   correlation, traceparent, tracestate, place)
        order by t.place
        returning task.seq, task.id, task.created_at
    ), live as (
        insert into task_live (seq, task_id) select n.seq, n.id from new n
    )
    select n.seq, n.id::text, n.created_at from new n;
end
$$;
-- +goose StatementEnd

-- Finds tasks for the scheduler: those above a number, at most so many, those in gaps below it, and, if late is not null, those
-- up to late that could not be seen in a snapshot. The last part reads the whole list of the living; it is asked for only until
-- the transactions that were open at a takeover have ended. Planned anew each time, one gap beside a million waiting tasks
-- would have the whole of task read: how little is in a gap, PostgreSQL can't know. And it would compile the plan. What stands
-- behind `lateral` with its own `offset` is looked up for each row of what stands before it, whatever the statistics say.
-- +goose StatementBegin
create function scheduler_look(after bigint, lows bigint[], highs bigint[], most integer, late bigint, seen text)
returns table (seq bigint, id text, name text, state text, exclusive text[], shared text[], immediate boolean, deferred boolean,
               versions jsonb, created_at timestamptz, unblocked boolean, executor text, incarnation text, claim bigint)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
begin
    return query
    select t.seq, t.id::text, t.name, t.state, t.exclusive, t.shared, t.immediate, t.deferred, t.versions, t.created_at,
           t.unblocked_at is not null, coalesce(t.executor, ''), coalesce(t.incarnation::text, ''), t.claim
    from (
        (select n.task_id from task_live n where n.seq > after order by n.seq limit most)
        union
        select l.task_id
        from unnest(lows, highs) as gap (low, high)
        cross join lateral (select n.task_id from task_live n where n.seq between gap.low and gap.high offset 0) l
        union
        select l.task_id from task_live l where l.seq <= late and not pg_visible_in_snapshot(l.xact, seen::pg_snapshot)
    ) found cross join lateral (select * from task k where k.id = found.task_id offset 0) t
    order by t.seq;
end
$$;
-- +goose StatementEnd

-- Old versions of rows go when their pages are read the next time, since the updates are HOT; vacuum is for the few that are not.
-- Beside a million waiting tasks, one for every 20,000 changes cost more than the tasks.
alter table task set (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
