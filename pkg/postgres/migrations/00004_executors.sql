-- +goose Up

-- What a dispatch asked for beyond what every task has (time limit, retries, profile options, files), null for most tasks: see
-- task.Options. retry_at is when the next attempt of a task begins at the earliest that failed and waits for it.
alter table task add column options json, add column retry_at timestamptz;

-- Attempts that failed and were retried; the latest one is the task's row itself.
create table task_attempt (
    task_id    uuid not null references task (id) on delete cascade,
    attempt    integer not null check (attempt > 0),
    claim      bigint not null,
    executor   text not null,
    started_at timestamptz not null,
    ended_at   timestamptz not null default now(),
    error      json not null,
    primary key (task_id, attempt)
);

-- What a task has told of its work: how far the parts of it are, by the run that told it last, and what its runs made. Both are
-- lists in the order in which things were first told, written whole by the one executor that has the task.
create table task_report (
    task_id    uuid primary key references task (id) on delete cascade,
    claim      bigint not null,
    progress   json not null default '[]',
    created    jsonb not null default '[]',
    updated_at timestamptz not null default now()
);

-- Temporary files, in parts. An upload writes one part at a time, each in a transaction of its own; nobody sees the file before
-- it is complete, nor from the moment on at which it is to be removed. Its parts are deleted after that, some at a time.
create table temporary_file (
    id         uuid primary key,
    name       text not null check (name <> ''),
    state      text not null default 'uploading' check (state in ('uploading', 'complete', 'removed')),
    size       bigint check (size >= 0),
    sha256     text,
    created_at timestamptz not null default now(),
    -- When somebody last did anything with it, to the minute.
    used_at    timestamptz not null default now(),
    constraint complete_is_measured check (state <> 'complete' or (size is not null and sha256 is not null))
);
-- What to remove is looked for every minute, and is usually nothing.
create index temporary_file_complete on temporary_file (used_at) where state = 'complete';
create index temporary_file_uploading on temporary_file (used_at) where state = 'uploading';
create index temporary_file_removed on temporary_file (id) where state = 'removed';
create table temporary_file_part (
    file_id uuid not null references temporary_file (id) on delete cascade,
    part    integer not null check (part >= 0),
    data    bytea not null,
    primary key (file_id, part)
);
-- Compressing what is compressed already costs more than it saves.
alter table temporary_file_part alter column data set storage external;

-- Which tasks have which files. A file that a task has can't be removed before the task is final.
create table task_file (
    file_id uuid not null references temporary_file (id) on delete cascade,
    task_id uuid not null references task (id) on delete cascade,
    primary key (file_id, task_id)
);
create index task_file_task on task_file (task_id);

-- The statements of 00003 with the new columns. See there for how they are written and why.

-- +goose StatementBegin
create function scheduler_claim_2(seqs bigint[], executors text[], incarnations text[], unblocked bigint[])
returns table (seq bigint, claim bigint, attempt integer, args text, kwargs text, correlation_id text, traceparent text, tracestate text,
               group_id text, options text)
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
    returning t.seq, t.claim, t.attempt, t.args::text, t.kwargs::text, t.correlation_id, t.traceparent, t.tracestate,
              coalesce(t.group_id::text, ''), coalesce(t.options::text, '');
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function scheduler_tick_2(
    my_epoch bigint, ttl interval,
    finish_seqs bigint[] default '{}', finish_claims bigint[] default '{}', finish_states text[] default '{}',
    finish_results text[] default '{}', finish_errors text[] default '{}', canceled json default null,
    claim_seqs bigint[] default '{}', claim_executors text[] default '{}', claim_incarnations text[] default '{}',
    claim_unblocked bigint[] default '{}')
returns table (part integer, seq bigint, claim bigint, attempt integer, state text, args text, kwargs text,
               correlation_id text, traceparent text, tracestate text, group_id text, options text) language plpgsql as $$
#variable_conflict use_column
begin
    perform scheduler_fence(my_epoch, ttl);
    part := 0;
    seq := (extract(epoch from now()) * 1000000)::bigint;
    claim := pg_current_xact_id()::text::bigint;
    return next;
    if cardinality(finish_seqs) > 0 then
        return query select 1, f.seq, null::bigint, null::integer, f.state, null::text, null::text, null::text, null::text, null::text,
                            null::text, null::text
            from scheduler_finish(finish_seqs, finish_claims, finish_states, finish_results, finish_errors, canceled) f;
    end if;
    if cardinality(claim_seqs) > 0 then
        return query select 2, c.seq, c.claim, c.attempt, null::text, c.args, c.kwargs, c.correlation_id, c.traceparent, c.tracestate,
                            c.group_id, c.options
            from scheduler_claim_2(claim_seqs, claim_executors, claim_incarnations, claim_unblocked) c;
    end if;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function dispatcher_insert_2(
    ids text[], domains text[], names text[], argses text[], kwargses text[], exclusives text[], shareds text[],
    immediates boolean[], deferreds boolean[], versionses text[], parents text[], groups text[], correlations text[],
    traceparents text[], tracestates text[], optionses text[])
returns table (seq bigint, id text, created_at timestamptz) language plpgsql as $$
#variable_conflict use_column
begin
    perform pg_current_xact_id();
    return query
    with new as (
        insert into task (id, domain_id, name, args, kwargs, exclusive, shared, immediate, deferred, versions,
                          parent_id, group_id, correlation_id, traceparent, tracestate, options)
        select t.id::uuid, t.domain::uuid, t.name, t.args::json, t.kwargs::json, t.exclusive::text[], t.shared::text[], t.immediate,
               t.deferred, t.versions::jsonb, nullif(t.parent, '')::uuid, nullif(t.member, '')::uuid, t.correlation, t.traceparent,
               t.tracestate, nullif(t.options, '')::json
        from unnest(ids, domains, names, argses, kwargses, exclusives, shareds, immediates, deferreds, versionses, parents, groups,
                    correlations, traceparents, tracestates, optionses) with ordinality
             as t (id, domain, name, args, kwargs, exclusive, shared, immediate, deferred, versions, parent, member,
                   correlation, traceparent, tracestate, options, place)
        order by t.place
        returning task.seq, task.id, task.created_at
    ), live as (
        insert into task_live (seq, task_id) select n.seq, n.id from new n
    )
    select n.seq, n.id::text, n.created_at from new n;
end
$$;
-- +goose StatementEnd

-- dispatcher_insert_2 for tasks of which some have files: linked[i] has files[i]. Files are locked before the tasks take their
-- numbers, in one order for all, and in a way that only a removal is in the way of: either it waits for us and finds the file in
-- use, or we wait for it and find the file gone.
-- +goose StatementBegin
create function dispatcher_insert_with_files(
    ids text[], domains text[], names text[], argses text[], kwargses text[], exclusives text[], shareds text[],
    immediates boolean[], deferreds boolean[], versionses text[], parents text[], groups text[], correlations text[],
    traceparents text[], tracestates text[], optionses text[], linked text[], files text[])
returns table (seq bigint, id text, created_at timestamptz) language plpgsql as $$
#variable_conflict use_column
declare
    wanted uuid[] := array(select distinct f::uuid from unnest(files) f);
    usable integer;
begin
    perform from temporary_file f where f.id = any (wanted) and f.state = 'complete' order by f.id for key share;
    get diagnostics usable = row_count;
    if usable < cardinality(wanted) then
        raise exception 'a temporary file does not exist' using errcode = 'foreign_key_violation', constraint = 'task_file_file_id_fkey';
    end if;
    update temporary_file f set used_at = now()
    from (select o.id from temporary_file o where o.id = any (wanted) and o.used_at < now() - interval '1 minute' order by o.id for no key update) stale
    where f.id = stale.id;
    return query
    select i.seq, i.id, i.created_at
    from dispatcher_insert_2(ids, domains, names, argses, kwargses, exclusives, shareds, immediates, deferreds, versionses, parents,
                             groups, correlations, traceparents, tracestates, optionses) i;
    insert into task_file (file_id, task_id) select distinct l.file::uuid, l.task::uuid from unnest(files, linked) l (file, task);
end
$$;
-- +goose StatementEnd

-- Whether a task that is not final has a file. It looks at the tasks of the file one by one, as in 00003, for its callers have
-- locked it: left to itself the planner searched the whole of task when the usual file had been given to many.
-- +goose StatementBegin
create function temporary_file_in_use(file uuid) returns boolean language sql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
    select exists (
        select from task_file l cross join lateral (select k.state from task k where k.id = l.task_id offset 0) t
        where l.file_id = file and t.state in ('waiting', 'running', 'canceling'))
$$;
-- +goose StatementEnd

-- Lets a file vanish: true. False: a task that is not final has it. Null: there is none.
-- +goose StatementBegin
create function dispatcher_remove_file(file text) returns boolean language plpgsql as $$
begin
    perform from temporary_file f where f.id = file::uuid and f.state = 'complete' for update;
    if not found then
        return null;
    end if;
    -- A statement of its own: it sees the dispatches that the lock has waited for.
    if temporary_file_in_use(file::uuid) then
        return false;
    end if;
    update temporary_file f set state = 'removed' where f.id = file::uuid;
    return true;
end
$$;
-- +goose StatementEnd

-- Lets files vanish that were not used for so long, and uploads that have stopped, the oldest first, a limited number of each;
-- returns some of those whose parts are to be deleted. It waits for nobody: what is locked is in use.
-- +goose StatementBegin
create function dispatcher_sweep_files(protection interval, patience interval, most integer) returns setof text language plpgsql as $$
declare
    stale uuid[];
begin
    stale := array(select f.id from temporary_file f where f.state = 'complete' and f.used_at < now() - protection
                 order by f.used_at limit most for update skip locked);
    if cardinality(stale) > 0 then
        -- A statement of its own: it sees what was dispatched before the locks were taken. A file that has a use is not
        -- stale, or those of tasks that wait for weeks would be looked at every minute.
        update temporary_file f set
            state   = case when o.used then f.state else 'removed' end,
            used_at = case when o.used then now() else f.used_at end
        from (select i.id, temporary_file_in_use(i.id) as used from unnest(stale) i (id) offset 0) o -- asks once for each
        where f.id = o.id;
    end if;
    update temporary_file f set state = 'removed'
    where f.id = any (array(select u.id from temporary_file u where u.state = 'uploading' and u.used_at < now() - patience
                            order by u.used_at limit most for update skip locked));
    return query select f.id::text from temporary_file f where f.state = 'removed' limit most;
end
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function scheduler_look_2(after bigint, lows bigint[], highs bigint[], most integer, late bigint, seen text)
returns table (seq bigint, id text, name text, state text, exclusive text[], shared text[], immediate boolean, deferred boolean,
               versions jsonb, created_at timestamptz, unblocked boolean, executor text, incarnation text, claim bigint,
               attempt integer, retry_at timestamptz, options text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
begin
    return query
    select t.seq, t.id::text, t.name, t.state, t.exclusive, t.shared, t.immediate, t.deferred, t.versions, t.created_at,
           t.unblocked_at is not null, coalesce(t.executor, ''), coalesce(t.incarnation::text, ''), t.claim, t.attempt, t.retry_at,
           coalesce(t.options::text, '')
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

-- Puts back tasks whose attempt failed, to be tried again after pauses in microseconds, and records the attempts. The rest of the
-- statement can't see the new values of a row, so its old version still says who made the attempt and since when. One that was to
-- be canceled meanwhile is canceled instead, and the run stays in its row: it was the last. It keeps the rules of 00003 for plans:
-- written without them it read the whole of task when the statistics said that next to nothing was running.
-- +goose StatementBegin
create function scheduler_retry(seqs bigint[], claims bigint[], pauses bigint[], errors text[], canceled json)
returns table (seq bigint, state text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with moved as (
        update task t set
            state       = case when t.state = 'canceling' then 'canceled' else 'waiting' end,
            error       = case when t.state = 'canceling' then canceled end,
            finished_at = case when t.state = 'canceling' then now() end,
            started_at  = case when t.state = 'canceling' then t.started_at end,
            executor    = case when t.state = 'canceling' then t.executor end,
            incarnation = case when t.state = 'canceling' then t.incarnation end,
            retry_at    = case when t.state = 'canceling' then t.retry_at else now() + a.pause * interval '1 microsecond' end,
            updated_at  = now()
        from unnest(seqs, claims, pauses, errors) as a (seq, claim, pause, error)
        where t.seq = any (array[a.seq]) and t.claim = a.claim and t.state in ('running', 'canceling')
        returning t.seq, t.id, t.state, t.attempt, t.claim, a.error
    ), gone as (
        delete from task_live l using moved m where l.seq = any (array[m.seq]) and m.state = 'canceled'
    ), kept as (
        insert into task_attempt (task_id, attempt, claim, executor, started_at, error)
        select m.id, m.attempt, m.claim, was.executor, was.started_at, m.error::json
        from moved m join task was on was.id = any (array[m.id])
        where m.state = 'waiting'
    )
    select m.seq, m.state from moved m;
end
$$;
-- +goose StatementEnd
