-- +goose Up

-- Makes a dispatch safe to repeat: a second one with the same id returns the first task. Null for tasks without. The index is
-- partial, so those cost nothing more; it names columns that never change, so updates stay HOT. The check is not valid for what
-- is there, which has no ids: with nobody else at the table, it is read once less, and the index takes a second per million tasks.
alter table task add column request_id text;
alter table task add constraint task_request_id_check check (request_id <> '') not valid;
create unique index task_request on task (domain_id, request_id) where request_id is not null;

-- Stores tasks of which some have request ids or files (linked[i] has files[i]); dispatcher_insert_2 is for those that have
-- neither. asked is the id that a task was given; id is another one when a task with its request id was there already, and
-- then nothing of it is stored. If such a task differs from what is asked for now, differs names how, and nothing at all is stored.
--
-- What is known is looked for before anything takes a number: repeats usually come one after the other, and every number
-- that is not used is a gap that the scheduler has to ask about. Two that come at the same moment meet in the index: the second
-- waits for the first to commit, fails as a unique violation, and is tried again by its dispatcher, which then finds it. (`on
-- conflict do nothing` would spare that one retry and cost every task with an id: a twentieth more log, because it writes each row
-- in two steps.)
--
-- Files are locked before the tasks take their numbers, as in dispatcher_insert_with_files. See 00003 for the settings.
-- +goose StatementBegin
create function dispatcher_insert_3(
    ids text[], domains text[], names text[], argses text[], kwargses text[], exclusives text[], shareds text[],
    immediates boolean[], deferreds boolean[], versionses text[], parents text[], groups text[], correlations text[],
    traceparents text[], tracestates text[], optionses text[], requests text[], linked text[] default '{}', files text[] default '{}')
returns table (asked text, id text, seq bigint, created_at timestamptz, differs text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    known  text[] := '{}';
    clash  boolean := false;
    wanted uuid[];
    usable integer;
begin
    for asked, id, seq, created_at, differs in
        select t.id, k.id::text, k.seq, k.created_at,
               case when k.name <> t.name then 'name'
                    when k.args::text <> t.args then 'args_json'
                    when k.kwargs::text <> t.kwargs then 'kwargs_json'
                    when k.exclusive <> t.exclusive::text[]
                         and not (k.exclusive @> t.exclusive::text[] and k.exclusive <@ t.exclusive::text[]) then 'exclusive_resources'
                    when k.shared <> t.shared::text[]
                         and not (k.shared @> t.shared::text[] and k.shared <@ t.shared::text[]) then 'shared_resources'
                    else '' end
        from unnest(ids, domains, names, argses, kwargses, exclusives, shareds, requests)
             as t (id, domain, name, args, kwargs, exclusive, shared, request)
        cross join lateral (select * from task s where s.domain_id = t.domain::uuid and s.request_id = t.request offset 0) k
        where t.request <> ''
    loop
        known := known || asked;
        clash := clash or differs <> '';
        return next;
    end loop;
    if clash or cardinality(known) = cardinality(ids) then
        return;
    end if;
    if cardinality(files) > 0 then
        wanted := array(select distinct l.file::uuid from unnest(files, linked) l (file, task) where l.task <> all (known));
        perform from temporary_file f where f.id = any (wanted) and f.state = 'complete' order by f.id for key share;
        get diagnostics usable = row_count;
        if usable < cardinality(wanted) then
            raise exception 'a temporary file does not exist' using errcode = 'foreign_key_violation', constraint = 'task_file_file_id_fkey';
        end if;
        update temporary_file f set used_at = now()
        from (select o.id from temporary_file o where o.id = any (wanted) and o.used_at < now() - interval '1 minute'
              order by o.id for no key update) stale
        where f.id = stale.id;
    end if;
    perform pg_current_xact_id();
    return query
    with new as (
        insert into task (id, domain_id, name, args, kwargs, exclusive, shared, immediate, deferred, versions,
                          parent_id, group_id, correlation_id, traceparent, tracestate, options, request_id)
        select t.id::uuid, t.domain::uuid, t.name, t.args::json, t.kwargs::json, t.exclusive::text[], t.shared::text[], t.immediate,
               t.deferred, t.versions::jsonb, nullif(t.parent, '')::uuid, nullif(t.member, '')::uuid, t.correlation, t.traceparent,
               t.tracestate, nullif(t.options, '')::json, nullif(t.request, '')
        from unnest(ids, domains, names, argses, kwargses, exclusives, shareds, immediates, deferreds, versionses, parents, groups,
                    correlations, traceparents, tracestates, optionses, requests) with ordinality
             as t (id, domain, name, args, kwargs, exclusive, shared, immediate, deferred, versions, parent, member,
                   correlation, traceparent, tracestate, options, request, place)
        where t.id <> all (known)
        order by t.place
        returning task.seq, task.id, task.created_at
    ), live as (
        insert into task_live (seq, task_id) select n.seq, n.id from new n
    )
    select n.id::text, n.id::text, n.seq, n.created_at, '' from new n;
    if cardinality(files) > 0 then
        insert into task_file (file_id, task_id)
        select distinct l.file::uuid, l.task::uuid from unnest(files, linked) l (file, task) where l.task <> all (known);
    end if;
end
$$;
-- +goose StatementEnd

-- Removes tasks that ended before a time, and with them what hangs on them: it looks at so many above a number, in the order of
-- dispatch. Rows of part 1 are how many were removed by state; the row of part 0 has the number to go on above as count, null when
-- there is nothing more to look at. What was dispatched after the time can't have ended before it, so that is where it ends.
--
-- Deleting a task changes the rows of its children, and those of live ones are the scheduler's, which locks them in an order
-- of its own. So the parents are locked first: a dispatch that is about to add a child holds its parent's row, which is then passed
-- over; one that comes later waits and finds no parent. The statement after the lock sees all children there are. Whoever
-- purges at the same time passes over what is locked here.
-- +goose StatementBegin
create function dispatcher_purge(before timestamptz, wanted text[], after bigint, most integer)
returns table (part integer, state text, count bigint) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
declare
    page    uuid[];
    looked  bigint;
    last    bigint;
    late    boolean;
    locked  uuid[];
begin
    select array_agg(t.id) filter (where t.finished_at < before and t.state = any (wanted)), count(*), max(t.seq), bool_or(t.created_at >= before)
    into page, looked, last, late
    from (select k.id, k.seq, k.state, k.created_at, k.finished_at from task k where k.seq > after order by k.seq limit most) t;
    part := 0;
    count := case when looked = most and not late then last end;
    return next;
    if page is null then
        return;
    end if;
    locked := array(select t.id from task t where t.id = any (page) for update skip locked);
    return query
    with gone as (
        delete from task t where t.id = any (locked)
        and not exists (select from task c where c.parent_id = t.id and c.state in ('waiting', 'running', 'canceling'))
        returning t.state
    )
    select 1, g.state, count(*) from gone g group by g.state;
end
$$;
-- +goose StatementEnd

-- A report is written anew twice a second while its task runs: with room on the page 84 % of the updates are HOT, 27 % without.
-- A log grows, and most are written once: there half-empty pages would cost more than they save.
alter table task_report set (fillfactor = 50);
-- PostgreSQL comes by when a fifth of a table is dead. What is purged, written anew or removed leaves that much behind for good; a
-- tenth is as for task itself. What is large lies in the TOAST tables, which have settings of their own: a fifth of some
-- gigabytes of logs and files is too much, and vacuuming them costs little, because their rows are few.
alter table task_report set (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
alter table task_log set (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1, toast.autovacuum_vacuum_scale_factor = 0.05);
alter table task_attempt set (autovacuum_vacuum_scale_factor = 0.1);
alter table task_file set (autovacuum_vacuum_scale_factor = 0.1);
alter table temporary_file_part set (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05);
