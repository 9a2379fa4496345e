-- +goose Up

-- Groups are listed the newest first. Both columns never change.
create index task_group_created on task_group (created_at desc, id desc);

-- How far the parts of a group's work are: the sums of what its tasks have added, which stay when tasks are removed. A row is changed
-- by adding to it, by whichever task has something to add. numeric, because a thousand tasks that each claim to have done all that
-- fits into a number must not make the reports of the others fail.
create table task_group_progress (
    group_id uuid not null references task_group (id) on delete cascade,
    code     text not null check (code <> ''),
    message  text not null default '',
    suffix   text not null default '',
    total    numeric not null default 0,
    done     numeric not null default 0,
    -- The order in which parts were first told.
    place    bigint not null generated always as identity,
    primary key (group_id, code)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);

-- What the task's latest run has added to the progress of its group, and is in the sums: [{"code": …, "total": …, "done": …}, …].
alter table task_report add column group_progress jsonb not null default '[]';

-- Stores what one run has told so far, unless a later run has told something. The progress is replaced; what was made is merged,
-- because what an earlier attempt made is still there; what stands in undone is gone. Lists keep the order of the first report.
-- Only what the run has added since the last report goes into the sums of its group; of what another attempt had added, nothing
-- is left in them. So a report that is repeated changes nothing.
--
-- The report's row is locked first, which is the task's own, so that two reports of one task can't both take the same thing for new.
-- Then come the group's rows, in the order of their codes: members that report at the same time wait for each other, and never in
-- a circle. They wait until the other one's commit, so the group's rows are the last thing that is touched. It keeps the rules of
-- 00003 for plans.
-- +goose StatementBegin
create function status_put_report(id uuid, run bigint, told json, made jsonb, undone text[], added jsonb, most integer)
returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_variable
declare
    member uuid;
    before jsonb := '[]';
    latest bigint;
begin
    if added <> '[]' then
        select t.group_id into member from task t where t.id = any (array[id]);
        if member is null then
            added := '[]';
        end if;
    end if;
    insert into task_report (task_id, claim, progress, created, group_progress) values (id, run, told, made, added)
    on conflict (task_id) do nothing;
    if not found then
        select r.claim, r.group_progress into latest, before from task_report r where r.task_id = any (array[id]) for no key update;
        if not found then
            raise exception 'the task was removed' using errcode = 'foreign_key_violation', constraint = 'task_report_task_id_fkey';
        end if;
        if run < latest then
            return;
        end if;
        update task_report r set
            claim          = run,
            progress       = told,
            group_progress = added,
            updated_at     = now(),
            created        = (
                select coalesce(jsonb_agg(merged.made order by merged.place), '[]')
                from (
                    select coalesce(new.made, old.made) as made, coalesce(old.place, most + new.place) as place
                    from jsonb_array_elements(r.created) with ordinality as old (made, place)
                    full join jsonb_array_elements(made) with ordinality as new (made, place)
                         on new.made ->> 'resource' = old.made ->> 'resource'
                    where coalesce(new.made, old.made) ->> 'resource' <> all (undone)
                    order by place limit most
                ) merged
            )
        where r.task_id = any (array[id]);
    end if;
    if added = before then
        return;
    end if;
    if member is null then
        select t.group_id into member from task t where t.id = any (array[id]);
    end if;
    insert into task_group_progress as g (group_id, code, message, suffix, total, done)
    select member, code, coalesce(new.part ->> 'message', ''), coalesce(new.part ->> 'suffix', ''),
           coalesce((new.part ->> 'total')::numeric, 0) - coalesce((old.part ->> 'total')::numeric, 0),
           coalesce((new.part ->> 'done')::numeric, 0) - coalesce((old.part ->> 'done')::numeric, 0)
    from (select p ->> 'code' as code, p as part from jsonb_array_elements(added) p) new
    full join (select p ->> 'code' as code, p as part from jsonb_array_elements(before) p) old using (code)
    where member is not null
      and (new.part ->> 'total', new.part ->> 'done') is distinct from (old.part ->> 'total', old.part ->> 'done')
    order by code collate "C"
    on conflict (group_id, code) do update set
        total   = g.total + excluded.total,
        done    = g.done + excluded.done,
        message = case g.message when '' then excluded.message else g.message end,
        suffix  = case g.suffix when '' then excluded.suffix else g.suffix end;
end
$$;
-- +goose StatementEnd

-- Asks members of a group to stop: cancels those that wait and leaves a wish for those that run, in the same way as for a single
-- task. A tick locks rows in an order of its own, so nothing is waited for here: what is locked at this moment is passed over, and
-- missing from the answer, as is what is neither waiting nor running any more. It keeps the rules of 00003 for plans.
-- +goose StatementBegin
create function dispatcher_cancel(seqs bigint[], canceled json)
returns table (seq bigint, state text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan set jit = off as $$
#variable_conflict use_column
declare
    mine bigint[];
begin
    mine := array(
        select t.seq from unnest(seqs) as asked (seq)
        cross join lateral (select k.seq from task k where k.seq = any (array[asked.seq]) and k.state in ('waiting', 'running')
                            for no key update skip locked) t);
    return query
    with hit as (
        update task t set
            state       = case t.state when 'waiting' then 'canceled' else 'canceling' end,
            finished_at = case t.state when 'waiting' then now() end,
            error       = case t.state when 'waiting' then canceled end,
            updated_at  = now()
        from unnest(mine) as m (seq)
        where t.seq = any (array[m.seq]) and t.state in ('waiting', 'running')
        returning t.seq, t.id, t.state
    ), gone as (
        delete from task_live l using hit where l.seq = any (array[hit.seq]) and hit.state = 'canceled'
    ), wish as (
        insert into task_cancel (seq, task_id) select hit.seq, hit.id from hit on conflict do nothing
    )
    select hit.seq, hit.state from hit;
end
$$;
-- +goose StatementEnd

-- Diagnostics of runs, by name. Whoever has the key may read one: links to them are opened without credentials. Stored as they come:
-- compressing them would cost more than it saves for what is read once, if at all.
create table task_artifact (
    task_id      uuid not null references task (id) on delete cascade,
    name         text not null check (name <> ''),
    claim        bigint not null,
    key          text not null check (length(key) >= 22),
    content_type text not null,
    data         bytea not null,
    updated_at   timestamptz not null default now(),
    primary key (task_id, name)
) with (autovacuum_vacuum_scale_factor = 0.1, toast.autovacuum_vacuum_scale_factor = 0.05);
alter table task_artifact alter column data set storage external;
