-- Executors that beat and don't hear, and notes of lives that are over.

-- +goose Up

-- Since when an executor beats without hearing the scheduler; null while it hears.
alter table app add column deaf_since timestamptz;

-- Lives of executors that are over and that the scheduler has not acted on: written by the statement that ends the life, removed
-- by the one that settles what it left. Usually empty, so a look at it costs nothing however many executors there are; now and
-- then the scheduler asks about all that it knows, too.
create table app_over (
    incarnation uuid primary key,
    -- It went missing: what it ran has failed. Otherwise it said goodbye.
    missing     boolean not null,
    noted_at    timestamptz not null default now()
);

-- Writes beats, each with what its sender says of the scheduler: 1 that it hears it, -1 that it is deaf, 0 for nothing to say
-- yet. Answers in one row the clock, which of the beats (by their place, from 1) were those of the living, and how many
-- milliseconds each of these may be silent.
--
-- What this costs is what ten thousand idle executors cost, so it has the rules of 00003. Rows are locked in the order of the
-- argument, which is sorted: two services that write beats can't wait for each other. That a life is open is asked with
-- coalesce because the same said as in app_living would, while the table is small, let the plan walk along that index, once for
-- each beat, and be kept when the table has grown. No index names what is changed here, so pages are cleaned as they are written.
-- +goose StatementBegin
create function heartbeat_beat(incarnations uuid[], hearing integer[])
returns table (clock timestamptz, living bigint[], ttls bigint[]) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with beaten as (
        update app a set
            last_beat_at = now(),
            deaf_since   = case when a.kind <> 'worker' or b.hearing > 0 then null
                                when b.hearing < 0 then coalesce(a.deaf_since, now())
                                else a.deaf_since end
        from unnest(incarnations, hearing) with ordinality as b (incarnation, hearing, place)
        where a.incarnation = any (array[b.incarnation]) and coalesce(a.missing_at, a.ended_at) is null
        returning b.place, a.ttl
    )
    select now(), coalesce(array_agg(w.place), '{}'), coalesce(array_agg((date_part('epoch', w.ttl) * 1000)::bigint), '{}') from beaten w;
end
$$;
-- +goose StatementEnd

-- Declares the silent missing, notes it for the scheduler, and answers in one row the clock, in how many milliseconds the next
-- life can be over (null: nobody lives), and who is missing now. Usually nobody can be, and then this only reads.
--
-- The caller says what the clock showed at least, by his own and this one's answers before: if it was set forward meanwhile, that
-- makes nobody silent. And he says since when silence counts: since the clock was set, as far as he knows (null: he knows
-- nothing yet). It may also be set back while this runs, before a beat is written that is then read here: so nobody is silent by
-- now() alone, which is when this began.
-- +goose StatementBegin
create function heartbeat_sweep(believed timestamptz, since timestamptz)
returns table (clock timestamptz, next_in bigint, missing text[]) language plpgsql as $$
declare
    judged timestamptz := least(now(), believed);
    counts timestamptz := coalesce(since, now());
    ends   timestamptz;
    ahead  boolean;
    gone   text[] := '{}';
begin
    select min(greatest(a.last_beat_at, counts) + a.ttl), bool_or(a.last_beat_at > clock_timestamp()) into ends, ahead
    from app a where a.missing_at is null and a.ended_at is null;
    -- Beats from the future were written before the clock was set back: their silence counts from now. now() would not do:
    -- others may have written a beat since.
    if ahead then
        update app set last_beat_at = clock_timestamp()
        where incarnation in (
            select a.incarnation from app a
            where a.missing_at is null and a.ended_at is null and a.last_beat_at > clock_timestamp()
            for no key update skip locked);
    end if;
    if ends < judged then
        with silent as (
            -- Who is locked is just being written a beat for.
            select a.incarnation from app a
            where a.missing_at is null and a.ended_at is null and greatest(a.last_beat_at, counts) + a.ttl < least(judged, clock_timestamp())
            for no key update skip locked
        ), over as (
            update app a set missing_at = now() from silent s
            where a.incarnation = s.incarnation and a.missing_at is null and a.ended_at is null
              and greatest(a.last_beat_at, counts) + a.ttl < least(judged, clock_timestamp())
            returning a.incarnation, a.kind, a.name
        ), noted as (
            insert into app_over (incarnation, missing) select o.incarnation, true from over o where o.kind = 'worker'
            on conflict do nothing
        )
        select coalesce(array_agg(o.kind || ' ' || o.name), '{}') into gone from over o;
    end if;
    if ahead or ends < judged then
        select min(greatest(a.last_beat_at, counts) + a.ttl) into ends from app a where a.missing_at is null and a.ended_at is null;
    end if;
    return query select now(), ceil(date_part('epoch', ends - judged) * 1000)::bigint, gone;
end
$$;
-- +goose StatementEnd
