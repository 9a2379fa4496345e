-- +goose Up

-- What lists are asked for. All name columns that never change, so updates stay HOT. Every task pays for these three, so they are as
-- narrow as can be: equal keys share an entry then, and few names make an index of a tenth of the size. A list by a common name
-- walks the newest tasks, one by a rare name finds them all here and sorts them. Tasks that were stored together have one time;
-- what is left to sort among them is little.
create index task_created on task (created_at);
create index task_named on task (name);
-- Tasks of one request have the same correlation id, and there are few of them. Those without one cost nothing.
create index task_correlation on task (correlation_id) where correlation_id <> '';
-- As before, but in order: a task can have a hundred thousand children, and a group as many members.
drop index task_parent;
create index task_parent on task (parent_id, created_at, seq) where parent_id is not null;
drop index task_group_member;
create index task_group_member on task (group_id, created_at, seq) where group_id is not null;

-- What a task has created is looked for by name. Most tasks create nothing.
create index task_report_created on task_report using gin (created jsonb_path_ops) where created <> '[]';

-- The tasks that ended otherwise than completed: they are few, and are asked for. An index on the state of task would have
-- each of the three updates of every task write to all indexes; this costs a row for each of the few. Like task_live it has no
-- foreign key, which every deletion of a task would pay for.
create table task_not_completed (
    state      text not null,
    created_at timestamptz not null,
    seq        bigint not null,
    -- Most of those who look for what failed look for what they know by name.
    name       text not null,
    primary key (state, created_at, seq) include (name)
) with (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
insert into task_not_completed select state, created_at, seq, name from task where state in ('failed', 'canceled', 'skipped')
order by state, created_at, seq;

-- Keeps it in step with task, whatever becomes of a row. See 00003 for the setting.
-- +goose StatementBegin
create function task_not_completed_follow() returns trigger language plpgsql
set enable_seqscan = off as $$
begin
    if tg_op <> 'INSERT' and old.state in ('failed', 'canceled', 'skipped') then
        delete from task_not_completed n where n.state = old.state and n.created_at = old.created_at and n.seq = old.seq;
    end if;
    if tg_op <> 'DELETE' and new.state in ('failed', 'canceled', 'skipped') then
        insert into task_not_completed (state, created_at, seq, name) values (new.state, new.created_at, new.seq, new.name);
    end if;
    return null;
end
$$;
-- +goose StatementEnd
-- The conditions stand here and not in the function: a task that is completed does not call it.
create trigger task_not_completed_insert after insert on task for each row
    when (new.state in ('failed', 'canceled', 'skipped')) execute function task_not_completed_follow();
create trigger task_not_completed_update after update of state, created_at, name on task for each row
    when (new.state in ('failed', 'canceled', 'skipped') or old.state in ('failed', 'canceled', 'skipped'))
    execute function task_not_completed_follow();
create trigger task_not_completed_delete after delete on task for each row
    when (old.state in ('failed', 'canceled', 'skipped')) execute function task_not_completed_follow();
