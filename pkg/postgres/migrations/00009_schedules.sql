-- +goose Up

-- Tasks to be dispatched again and again, or once, at a time of their own. The columns of the task are those of task, with which
-- they go into it as they are; the domain is among what it shares.
create table task_schedule (
    id                uuid primary key,
    domain_id         uuid not null,
    name              text not null check (name <> ''),
    task_name         text not null check (task_name <> ''),
    args              json not null default '[]',
    kwargs            json not null default '{}',
    exclusive         text[] not null default '{}',
    shared            text[] not null default '{}',
    versions          jsonb not null default '{}',
    correlation_id    text not null default '',
    options           json,
    -- What it takes in a list, in bytes: all of them go into one message.
    size              integer not null default 0,
    -- Null: once. It has neither days nor months, which are not always as long.
    dispatch_interval interval check (dispatch_interval > interval '0'),
    -- Null: never again.
    next_dispatch     timestamptz,
    -- The task of the last time. No foreign key: it would have every delete of a task, of a thousand a purge, look for a schedule, and
    -- wait for whoever has it. Whether the task is live task_live says, by its number; whether it is there, who is asked.
    last_task_id      uuid,
    last_seq          bigint,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),

    unique (domain_id, name),
    constraint last_is_known check ((last_task_id is null) = (last_seq is null))
);
create index task_schedule_next on task_schedule (next_dispatch) where next_dispatch is not null;

-- Stores a schedule unless there are as many as there may be, or their sizes add up to too much; returns whether it did, and when it
-- was. Who counts must be alone, which a lock of the transaction sees to.
-- +goose StatementBegin
create function dispatcher_create_schedule(
    id text, domain text, name text, task_name text, args text, kwargs text, exclusive text, shared text, versions text,
    correlation text, options text, size integer, dispatch_interval interval, next_dispatch timestamptz, most bigint, most_bytes bigint)
returns table (stored boolean, first timestamptz, at timestamptz) language plpgsql as $$
declare
    there bigint;
    bytes bigint;
begin
    perform pg_advisory_xact_lock(hashtext('sluice task_schedule'));
    select count(*), coalesce(sum(s.size), 0) into there, bytes from task_schedule s;
    stored := there < most and bytes + size <= most_bytes;
    first := coalesce(next_dispatch, now());
    at := now();
    if stored then
        insert into task_schedule values (
            id::uuid, domain::uuid, name, task_name, args::json, kwargs::json, exclusive::text[], shared::text[], versions::jsonb,
            correlation, nullif(options, '')::json, size, dispatch_interval, first, null, null, at, at);
    end if;
    return next;
end
$$;
-- +goose StatementEnd

-- When the first schedule is due whose last task is final; null if none ever is. Those whose task is live are passed over, one look
-- into an index for each that comes before. It keeps the rules of 00003 for plans.
-- +goose StatementBegin
create function scheduler_due() returns timestamptz language plpgsql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set enable_sort = off
set plan_cache_mode = force_generic_plan set jit = off as $$
begin
    return (
        select s.next_dispatch from task_schedule s
        where s.next_dispatch is not null and not exists (select from task_live l where l.seq = any (array[s.last_seq]) offset 0)
        order by s.next_dispatch limit 1);
end
$$;
-- +goose StatementEnd

-- Dispatches the tasks of schedules that are due, one for each of the ids that it is given at most, those that have been due for
-- longest first. What makes it exactly once for each time is that the task comes and next_dispatch moves in one transaction of the
-- leader. The times that passed meanwhile are skipped. Like each dispatch it has its transaction id before it takes a number.
--
-- A schedule that can't be dispatched, because of what is in its row or of what was done to the tables, must not hold up the others:
-- it is undone by itself, problem says why, and it is tried again at its next time, or after a minute if there is only one. What is
-- wrong with the database and not with the row is wrong with all of them, so it ends the statement: times are not skipped because
-- a disk is full. It takes no more than 50 at a time: of a transaction with more than 64 parts others have to ask the disk.
--
-- It waits for nobody but the lease: what is locked is being deleted, or will be found the next time.
-- +goose StatementBegin
create function scheduler_fire(my_epoch bigint, ttl interval, ids text[], correlations text[])
returns table (schedule_id text, name text, task_id text, task_name text, seq bigint, due timestamptz, next timestamptz, problem text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set enable_sort = off
set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
declare
    s record;
    n integer := 0;
begin
    perform scheduler_fence(my_epoch, ttl);
    perform pg_current_xact_id();
    for s in
        select d.id, d.name, d.task_name, d.next_dispatch, d.dispatch_interval from task_schedule d
        where d.next_dispatch <= now() and not exists (select from task_live l where l.seq = any (array[d.last_seq]) offset 0)
        order by d.next_dispatch limit least(cardinality(ids), 50)
        for update of d skip locked
    loop
        n := n + 1;
        schedule_id := s.id; name := s.name; task_id := ids[n]; task_name := s.task_name; due := s.next_dispatch; problem := '';
        next := s.next_dispatch + s.dispatch_interval * (floor(extract(epoch from now() - s.next_dispatch) / extract(epoch from s.dispatch_interval)) + 1)::float8;
        begin
            insert into task (id, domain_id, name, args, kwargs, exclusive, shared, versions, correlation_id, options)
            select task_id::uuid, d.domain_id, d.task_name, d.args, d.kwargs, d.exclusive, d.shared, d.versions,
                   coalesce(nullif(d.correlation_id, ''), correlations[n]), d.options
            from task_schedule d where d.id = s.id
            returning task.seq into strict seq;
            insert into task_live (seq, task_id) values (seq, task_id::uuid);
            update task_schedule d set last_task_id = task_id::uuid, last_seq = seq, next_dispatch = next, updated_at = now() where d.id = s.id;
        exception when others then
            if left(sqlstate, 2) in ('25', '40', '53', '57', '58') then
                raise;
            end if;
            problem := sqlerrm; task_id := null; seq := null;
            next := coalesce(next, now() + interval '1 minute');
            update task_schedule d set next_dispatch = next, updated_at = now() where d.id = s.id;
        end;
        return next;
    end loop;
end
$$;
-- +goose StatementEnd

-- As in 00006, and says when the next schedule is due, if any is, by the same clock.
-- +goose StatementBegin
create function scheduler_glance_2(my_epoch bigint, ttl interval, high bigint, lives text[])
returns table (clock bigint, stirs boolean, due bigint) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
declare
    until timestamptz;
begin
    select l.expires_at into until from lease l where l.name = 'scheduler' and l.epoch = my_epoch;
    if found and (until < now() + ttl * 3 / 4 or until > now() + ttl) then
        update lease l set expires_at = now() + ttl where l.name = 'scheduler' and l.epoch = my_epoch;
    end if;
    if not found then
        raise exception 'scheduler epoch % is over', my_epoch using errcode = 'SL001';
    end if;
    return query
    select (extract(epoch from now()) * 1000000)::bigint,
           exists (select from task_live n where n.seq > high)
           or exists (select from scheduler_wishes(1, lives is not null))
           or exists (select from app_over)
           or exists (select from unnest(lives) as o (incarnation)
                      where not exists (select from app a where a.incarnation = any (array[o.incarnation::uuid])
                                                            and a.missing_at is null and a.ended_at is null)),
           (extract(epoch from scheduler_due()) * 1000000)::bigint;
end
$$;
-- +goose StatementEnd

-- Removes groups that were made before a time and have no members: of so many after an id, in the order of ids, which is about that
-- in which they were made. The row has how many were removed, and the id to go on after, null when there is nothing more to look at.
-- A dispatch that is about to join a group holds its row, which is then passed over; one that comes later waits and finds no group.
-- The statement after the lock sees all members there are. See dispatcher_purge, and 00003 for the settings.
-- +goose StatementBegin
create function dispatcher_purge_groups(before timestamptz, after text, most integer)
returns table (deleted bigint, next text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
declare
    page   uuid[];
    looked bigint;
    late   boolean;
    locked uuid[];
begin
    select array_agg(g.id order by g.id), count(*), bool_or(g.created_at >= before) into page, looked, late
    from (select k.id, k.created_at from task_group k where k.id > after::uuid order by k.id limit most) g;
    next := case when looked = most and not late then page[looked]::text end;
    page := array(select g.id from task_group g where g.id = any (page) and g.created_at < before
                  and not exists (select from task t where t.group_id = any (array[g.id]) offset 0));
    deleted := 0;
    if cardinality(page) > 0 then
        locked := array(select g.id from task_group g where g.id = any (page) for update skip locked);
        delete from task_group g where g.id = any (locked) and not exists (select from task t where t.group_id = any (array[g.id]) offset 0);
        get diagnostics deleted = row_count;
    end if;
    return next;
end
$$;
-- +goose StatementEnd
