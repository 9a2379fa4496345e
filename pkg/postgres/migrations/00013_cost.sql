-- +goose Up

-- As in 00004, but that what a tick ends and what it gives away is one statement: they are different rows, so nothing but the cost of
-- starting a statement is different. Before each, PostgreSQL reads the text of the table's constraints, sets the plan up, and
-- applies the settings below; for one task that is more than the change itself (a tick of one end and one start took 196 µs with
-- two statements in functions of their own, and takes 149). The rules of 00003 for plans are those of this function now.
-- +goose StatementBegin
create or replace function scheduler_tick_2(
    my_epoch bigint, ttl interval,
    finish_seqs bigint[] default '{}', finish_claims bigint[] default '{}', finish_states text[] default '{}',
    finish_results text[] default '{}', finish_errors text[] default '{}', canceled json default null,
    claim_seqs bigint[] default '{}', claim_executors text[] default '{}', claim_incarnations text[] default '{}',
    claim_unblocked bigint[] default '{}')
returns table (part integer, seq bigint, claim bigint, attempt integer, state text, args text, kwargs text,
               correlation_id text, traceparent text, tracestate text, group_id text, options text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform scheduler_fence(my_epoch, ttl);
    part := 0;
    seq := (extract(epoch from now()) * 1000000)::bigint;
    claim := pg_current_xact_id()::text::bigint;
    return next;
    if cardinality(finish_seqs) + cardinality(claim_seqs) = 0 then
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
        returning e.part, t.seq, t.claim, t.attempt, t.state,
                  case when e.part = 2 then t.args::text end, case when e.part = 2 then t.kwargs::text end,
                  t.correlation_id, t.traceparent, t.tracestate, coalesce(t.group_id::text, ''),
                  case when e.part = 2 then coalesce(t.options::text, '') end
    ), gone as (
        delete from task_live l using changed c where c.part = 1 and l.seq = any (array[c.seq])
    )
    select * from changed;
end
$$;
-- +goose StatementEnd
