-- +goose Up

-- As in 00013, with a shorter answer, because what it says is paid for with each task. The row of part 0 also says, as attempt, how many
-- runs were ended; rows of part 1 are only those that ended otherwise than was reported, with the state in args: they were to be
-- canceled. What is null in a row of part 2 is as it is for most tasks: no arguments, no context, no options.
--
-- It is to be called with all its arguments, in their order, as `select * from`: PostgreSQL reads and plans the call itself each time, and
-- takes some 20 µs more for one that names arguments and columns.
-- +goose StatementBegin
create function scheduler_tick_3(
    my_epoch bigint, ttl interval,
    finish_seqs bigint[], finish_claims bigint[], finish_states text[], finish_results text[], finish_errors text[], canceled json,
    claim_seqs bigint[], claim_executors text[], claim_incarnations text[], claim_unblocked bigint[])
returns table (part integer, seq bigint, claim bigint, attempt integer, args text, kwargs text,
               correlation_id text, traceparent text, tracestate text, group_id text, options text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform scheduler_fence(my_epoch, ttl);
    if cardinality(finish_seqs) + cardinality(claim_seqs) = 0 then
        part := 0;
        seq := (extract(epoch from now()) * 1000000)::bigint;
        claim := pg_current_xact_id()::text::bigint;
        attempt := 0;
        return next;
        return;
    end if;
    return query
    with changed as (
        update task t set
            state        = case when e.part = 2 then 'running' when t.state = 'canceling' then 'canceled' else e.state end,
            result       = case when e.part = 1 and t.state = 'running' and e.state = 'completed' then coalesce(e.result, 'null')::json end,
            error        = case when e.part = 2 then null when t.state = 'canceling' then canceled else e.error::json end,
            finished_at  = case when e.part = 1 then now() end,
            unblocked_at = coalesce(t.unblocked_at, case when e.at > 0 then
                least(greatest('epoch'::timestamptz + e.at * interval '1 microsecond', t.created_at), now()) else now() end),
            started_at   = case when e.part = 1 then t.started_at else now() end,
            executor     = case when e.part = 1 then t.executor else e.executor end,
            incarnation  = case when e.part = 1 then t.incarnation else e.incarnation::uuid end,
            claim        = case when e.part = 1 then t.claim else t.claim + 1 end,
            attempt      = case when e.part = 1 then t.attempt else t.attempt + 1 end,
            updated_at   = now()
        from (
            select 1, f.seq, f.claim, f.state, f.result, f.error, null, null, null
            from unnest(finish_seqs, finish_claims, finish_states, finish_results, finish_errors) as f (seq, claim, state, result, error)
            union all
            select 2, c.seq, null, null, null, null, c.executor, c.incarnation, c.at
            from unnest(claim_seqs, claim_executors, claim_incarnations, claim_unblocked) as c (seq, executor, incarnation, at)
        ) as e (part, seq, claim, state, result, error, executor, incarnation, at)
        where t.seq = any (array[e.seq])
          and case when e.part = 1 then t.claim = e.claim and t.state in ('running', 'canceling') else t.state = 'waiting' end
        returning e.part, t.seq, t.claim, t.attempt, t.state, e.state as reported, t.args, t.kwargs,
                  t.correlation_id, t.traceparent, t.tracestate, t.group_id, t.options
    ), gone as (
        delete from task_live l using changed c where c.part = 1 and l.seq = any (array[c.seq])
    )
    select 0, (extract(epoch from now()) * 1000000)::bigint, pg_current_xact_id()::text::bigint,
           (count(*) filter (where c.part = 1))::integer, null, null, null, null, null, null, null
    from changed c
    union all
    select c.part, c.seq, c.claim, c.attempt, case when c.part = 1 then c.state else nullif(c.args::text, '[]') end, nullif(c.kwargs::text, '{}'),
           nullif(c.correlation_id, ''), nullif(c.traceparent, ''), nullif(c.tracestate, ''), c.group_id::text, c.options::text
    from changed c
    where c.part = 2 or c.state <> c.reported;
end
$$;
-- +goose StatementEnd

-- dispatcher_insert_2 with an answer of one row: numbers has those of the tasks, which rise in the order of the arrays, and all of
-- them have one time. To be called as scheduler_tick_3 is.
-- +goose StatementBegin
create function dispatcher_insert_4(
    ids text[], domains text[], names text[], argses text[], kwargses text[], exclusives text[], shareds text[],
    immediates boolean[], deferreds boolean[], versionses text[], parents text[], groups text[], correlations text[],
    traceparents text[], tracestates text[], optionses text[])
returns table (numbers bigint[], created_at timestamptz) language plpgsql as $$
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
        returning task.seq, task.id
    ), live as (
        insert into task_live (seq, task_id) select n.seq, n.id from new n
    )
    select array_agg(n.seq order by n.seq), now() from new n;
end
$$;
-- +goose StatementEnd

-- The rules for the rows of task, which were eleven constraints, in words of each state. Each statement that changes a row reads the text of
-- the constraints and plans them again, eleven thousand characters, which took some hundredths of a tick of 24 ends and starts and a seventh of
-- one of two; a function it only calls. Nothing but a mistake of ours ever meets one. Not valid: the rows that are there have met
-- the same rules, and need not be read again.
-- +goose StatementBegin
create function task_fits(
    state text, unblocked_at timestamptz, started_at timestamptz, finished_at timestamptz, executor text, incarnation uuid, claim bigint,
    attempt integer, result json, error json, name text, immediate boolean, deferred boolean, request_id text)
returns boolean language plpgsql immutable as $$
begin
    return name <> '' and (immediate or deferred) and claim >= 0 and attempt >= 0 and request_id is distinct from '' and case state
        when 'waiting' then
            finished_at is null and started_at is null and executor is null and incarnation is null and result is null and error is null
        when 'running' then
            finished_at is null and started_at is not null and unblocked_at is not null and executor is not null and incarnation is not null
            and claim > 0 and result is null and error is null
        when 'completed' then finished_at is not null and started_at is not null and error is null
        when 'failed' then finished_at is not null and started_at is not null and result is null and error is not null
        when 'canceled' then finished_at is not null and result is null and error is not null
        when 'canceling' then
            finished_at is null and started_at is not null and unblocked_at is not null and executor is not null and incarnation is not null
            and claim > 0 and result is null and error is null
        when 'skipped' then finished_at is not null and result is null and error is null
        else false end;
end
$$;
-- +goose StatementEnd
alter table task
    add constraint task_fits check (task_fits(state, unblocked_at, started_at, finished_at, executor, incarnation, claim, attempt, result, error,
                                              name, immediate, deferred, request_id)) not valid,
    drop constraint task_name_check, drop constraint task_state_check, drop constraint task_request_id_check,
    drop constraint immediate_or_deferred, drop constraint final_has_end, drop constraint running_has_owner, drop constraint waiting_is_clean,
    drop constraint numbers_rise, drop constraint ended_by_a_run, drop constraint result_only_completed, drop constraint error_says_why;

-- So it is with the conditions of triggers. The function has them, too: here are shorter ones that are met by all that it wants to see.
drop trigger task_not_completed_insert on task;
drop trigger task_not_completed_update on task;
create trigger task_not_completed_insert after insert on task for each row
    when (new.state <> 'waiting') execute function task_not_completed_follow();
create trigger task_not_completed_update after update of state, created_at, name on task for each row
    when (new.finished_at is not null and new.state <> 'completed' or old.finished_at is not null)
    execute function task_not_completed_follow();
