-- +goose Up

-- How tasks fared, by the minute and by the hour in which it happened (they begin where whole minutes and hours since 1970 do), for each
-- name and domain. The leading scheduler alone writes them, from its memory: it stores a minute whole, again and again, until it is
-- over, and adds hours up from their minutes when they are over. Tasks are never searched for it. The histograms are those of
-- pkg/latency, empty for none.
create table task_latency_minute (
    begins    timestamptz not null,
    name      text not null check (name <> ''),
    domain    text not null check (domain <> ''),
    completed bigint not null check (completed >= 0),
    failed    bigint not null check (failed >= 0),
    canceled  bigint not null check (canceled >= 0),
    -- From dispatch until all resources were granted, from there until an executor was given it, and from there to the end.
    unblock   bytea not null,
    start     bytea not null,
    run       bytea not null,

    primary key (begins, name, domain)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);

create table task_latency_hour (like task_latency_minute including all) with (autovacuum_vacuum_scale_factor = 0.1);
