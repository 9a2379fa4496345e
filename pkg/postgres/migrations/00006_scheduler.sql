-- +goose Up

-- Wishes to cancel, as many as are asked for: those of the last minute, or all. What is removed can't be cleared away while any
-- transaction on the server is older, and a look would pass over all of it: beside one that is idle for minutes, 100,000 wishes made
-- each look 16 ms slower. A wish can be seen later than a minute after its time, when its transaction took that long, or the clock
-- was put forward; for those all are asked for now and then. It keeps the rules of 00003 for plans.
create index task_cancel_requested on task_cancel (requested_at);
-- +goose StatementBegin
create function scheduler_wishes(most integer, thorough boolean) returns setof bigint language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
begin
    if thorough then
        return query select w.seq from task_cancel w order by w.seq limit most;
    else
        return query select w.seq from task_cancel w where w.requested_at > now() - interval '1 minute' order by w.requested_at limit most;
    end if;
end
$$;
-- +goose StatementEnd

-- Takes back assignments that did not begin and never will. The start did not happen, so it does not count; the claim number stays
-- used. One that was to be canceled meanwhile is canceled. A line that ends is reason enough, and many may end at once, so it keeps
-- the rules of 00003 for plans.
-- +goose StatementBegin
create function scheduler_requeue(seqs bigint[], claims bigint[], canceled json)
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
            started_at  = null,
            executor    = null,
            incarnation = null,
            attempt     = t.attempt - 1,
            updated_at  = now()
        from unnest(seqs, claims) as b (seq, claim)
        where t.seq = any (array[b.seq]) and t.claim = b.claim and t.state in ('running', 'canceling')
        returning t.seq, t.state
    ), gone as (
        delete from task_live l using moved m where l.seq = any (array[m.seq]) and m.state = 'canceled'
    )
    select m.seq, m.state from moved m;
end
$$;
-- +goose StatementEnd

-- What a leader that has nothing to do asks once a second: whether there is anything to look for. It is one statement, and writes
-- nothing but the lease, when a quarter of that is gone; then the next one comes long before the end, even if it is late. A leader
-- that was deposed hears so (see scheduler_fence); the row need not be locked for that, for nothing else is written here. stirs says
-- that there is a task above high, a wish to cancel, a note of a life that is over, or that one of these lives is; with lives, be it
-- none, all wishes count, else those of the last minute. clock is in microseconds since 1970. It keeps the rules of 00003 for plans.
-- +goose StatementBegin
create function scheduler_glance(my_epoch bigint, ttl interval, high bigint, lives text[])
returns table (clock bigint, stirs boolean) language plpgsql
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
                                                            and a.missing_at is null and a.ended_at is null));
end
$$;
-- +goose StatementEnd

-- As before, but that a lease which ends later than the leader's can is renewed, too: then the clock went back, and whoever has to
-- wait for its end, should the leader die, would wait for as long as the clock went back.
-- +goose StatementBegin
create or replace function scheduler_fence(my_epoch bigint, ttl interval) returns void language plpgsql as $$
declare
    until timestamptz;
begin
    select expires_at into until from lease where name = 'scheduler' and epoch = my_epoch for share;
    if not found then
        raise exception 'scheduler epoch % is over', my_epoch using errcode = 'SL001';
    end if;
    if until < now() + ttl * 2 / 3 or until > now() + ttl then
        update lease set expires_at = now() + ttl where name = 'scheduler' and epoch = my_epoch;
    end if;
end
$$;
-- +goose StatementEnd

-- Stamps tasks that have been unblocked for a while. Times are in microseconds since 1970 and may come from a clock that is ahead. It
-- keeps the rules of 00003 for plans: written without them it read the whole of task for each of two thousand, on a table that had
-- just grown, and took longer than a lease.
-- +goose StatementBegin
create function scheduler_unblock(seqs bigint[], times bigint[]) returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
    update task t set
        unblocked_at = least(greatest('epoch'::timestamptz + u.at * interval '1 microsecond', t.created_at), now()),
        updated_at   = now()
    from unnest(seqs, times) as u (seq, at)
    where t.seq = any (array[u.seq]) and t.state = 'waiting' and t.unblocked_at is null;
end
$$;
-- +goose StatementEnd
