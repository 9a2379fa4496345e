-- +goose Up

-- A domain is a tenant. There is one, "default", until domains are switched on; everything belongs to one from the first
-- day, so that switching them on changes no table.
create table domain (
    id         uuid primary key,
    name       text not null unique check (name <> ''),
    created_at timestamptz not null default now()
);
insert into domain (id, name) values ('00000000-0000-7000-8000-000000000001', 'default');

create table task_group (
    id          uuid primary key,
    domain_id   uuid not null references domain (id),
    description text not null default '',
    created_at  timestamptz not null default now()
);

-- One row per task, for good. Updates of the life cycle stay HOT: no index names a column that a transition changes, and
-- pages keep room for the new versions of a row.
create table task (
    id              uuid primary key,
    -- The order of dispatch. One sequence without a cache: if the dispatch of A returned before that of B was called, A's
    -- number is lower. Rows become visible in commit order, so gaps can fill later: the scheduler looks for them. For it to
    -- know when a gap never will, a dispatch must have its transaction id before it takes its number.
    seq             bigint not null generated always as identity unique,
    -- No foreign key: it would have every dispatch lock the one row of its domain.
    domain_id       uuid not null,
    name            text not null check (name <> ''),
    state           text not null default 'waiting'
                    check (state in ('waiting', 'skipped', 'running', 'completed', 'failed', 'canceled', 'canceling')),
    -- json, not jsonb: what went in comes out, digits, order of keys and all.
    args            json not null default '[]',
    kwargs          json not null default '{}',
    exclusive       text[] not null default '{}',
    shared          text[] not null default '{}',
    immediate       boolean not null default false,
    deferred        boolean not null default true,
    versions        jsonb not null default '{}',
    parent_id       uuid references task (id) on delete set null,
    group_id        uuid references task_group (id) on delete set null,
    correlation_id  text not null default '',
    -- W3C trace context of the dispatch: there before the task is visible, so that no span is ever orphaned.
    traceparent     text not null default '',
    tracestate      text not null default '',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    unblocked_at    timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    -- Who runs or ran it: the name and the life (incarnation) of the executor. claim rises with every assignment and
    -- fences all reports; attempt counts starts.
    executor        text,
    incarnation     uuid,
    claim           bigint not null default 0,
    attempt         integer not null default 0,
    result          json,
    error           json,

    constraint immediate_or_deferred check (immediate or deferred),
    constraint final_has_end check ((state in ('completed', 'failed', 'canceled', 'skipped')) = (finished_at is not null)),
    constraint running_has_owner check (state not in ('running', 'canceling')
                                        or (executor is not null and incarnation is not null and started_at is not null
                                            and unblocked_at is not null and claim > 0)),
    constraint waiting_is_clean check (state <> 'waiting' or (started_at is null and executor is null and incarnation is null
                                                              and result is null and error is null)),
    constraint numbers_rise check (claim >= 0 and attempt >= 0),
    constraint ended_by_a_run check (state not in ('completed', 'failed') or started_at is not null),
    constraint result_only_completed check (result is null or state = 'completed'),
    constraint error_says_why check ((error is not null) = (state in ('failed', 'canceled')))
) with (
    -- A life has three updates, and ticks update neighbours together: measured with batches of a hundred, 94 % of the updates
    -- are HOT at 50, 63 % at 70, and the table is smaller for it.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

-- Children and members are looked up by their parent and their group, which never change.
create index task_parent on task (parent_id) where parent_id is not null;
create index task_group_member on task (group_id) where group_id is not null;

-- The tasks that are not final: one narrow row each, inserted with the task and deleted with the transition that ends it,
-- in the same statement. A takeover reads this instead of searching the history, and no index on task has to name a state.
create table task_live (
    seq     bigint primary key,
    task_id uuid not null,
    -- The transaction that dispatched it. With a snapshot it tells whether the row could be seen then; see the scheduler.
    xact    xid8 not null default pg_current_xact_id()
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);

-- The wish to cancel, written by the dispatcher with the change it makes to the task, removed by the scheduler when it has
-- acted on it. Usually empty: a periodic look at it costs nothing, and a lost hint only a second.
create table task_cancel (
    seq          bigint primary key,
    task_id      uuid not null,
    requested_at timestamptz not null default now()
);

-- What a task's process wrote, the end of it.
create table task_log (
    task_id    uuid primary key references task (id) on delete cascade,
    claim      bigint not null,
    text       text not null,
    truncated  boolean not null default false,
    updated_at timestamptz not null default now()
);

-- Who is alive: one row per life (incarnation) of a named process.
create table app (
    incarnation   uuid primary key,
    name          text not null check (name <> ''),
    kind          text not null check (kind in ('api', 'worker')),
    versions      jsonb not null default '{}',
    ttl           interval not null check (ttl > interval '0'),
    registered_at timestamptz not null default now(),
    last_beat_at  timestamptz not null default now(),
    -- Set once, by the heartbeat service alone: it was silent for longer than its time to live.
    missing_at    timestamptz,
    -- Set once: it said goodbye.
    ended_at      timestamptz
) with (fillfactor = 50);

-- One living process per name and kind.
create unique index app_living on app (kind, name) where missing_at is null and ended_at is null;

-- Leadership: a row that is taken by compare-and-set and whose epoch fences every write of the leader.
create table lease (
    name       text primary key,
    holder     text not null default '',
    epoch      bigint not null default 0,
    expires_at timestamptz not null default '-infinity'
);
insert into lease (name) values ('scheduler');

-- Heads every transaction of the leader. It fails unless the epoch is still the leader's; and it locks the row, so that a
-- takeover waits for the transaction to end and then sees all that it wrote. Renewing on every tick would write a row
-- version each time: it does so only when a third of the lease is gone.
-- +goose StatementBegin
create function scheduler_fence(my_epoch bigint, ttl interval) returns void language plpgsql as $$
declare
    until timestamptz;
begin
    select expires_at into until from lease where name = 'scheduler' and epoch = my_epoch for share;
    if not found then
        raise exception 'scheduler epoch % is over', my_epoch using errcode = 'SL001';
    end if;
    if until < now() + ttl * 2 / 3 then
        update lease set expires_at = now() + ttl where name = 'scheduler' and epoch = my_epoch;
    end if;
end
$$;
-- +goose StatementEnd
