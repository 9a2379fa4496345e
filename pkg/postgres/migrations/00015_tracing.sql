-- +goose Up

-- The W3C trace context in which a schedule was made: the traces of its tasks, each of which has a root of its own, are linked to it.
alter table task_schedule add column traceparent text not null default '', add column tracestate text not null default '';

-- dispatcher_create_schedule with that context. What it calls fills the columns in their order, and these two with nothing.
-- +goose StatementBegin
create function dispatcher_create_schedule_2(
    id text, domain text, name text, task_name text, args text, kwargs text, exclusive text, shared text, versions text,
    correlation text, options text, size integer, dispatch_interval interval, next_dispatch timestamptz, most bigint, most_bytes bigint,
    made_traceparent text, made_tracestate text)
returns table (stored boolean, first timestamptz, at timestamptz) language plpgsql as $$
#variable_conflict use_variable
begin
    select c.stored, c.first, c.at into stored, first, at
    from dispatcher_create_schedule(id, domain, name, task_name, args, kwargs, exclusive, shared, versions, correlation, options, size,
                                    dispatch_interval, next_dispatch, most, most_bytes) c;
    if stored and made_traceparent <> '' then
        update task_schedule s set traceparent = made_traceparent, tracestate = made_tracestate where s.id = any (array[id::uuid]);
    end if;
    return next;
end
$$;
-- +goose StatementEnd

-- scheduler_fire with the contexts that the tasks are to have, one for each id, '' or nothing for none, and with the contexts to which their traces
-- are linked: that in which the schedule was made, and that of its last task, null if that is no longer there. See 00009 for the rest.
-- +goose StatementBegin
create function scheduler_fire_2(my_epoch bigint, ttl interval, ids text[], correlations text[], traceparents text[], tracestates text[])
returns table (schedule_id text, name text, task_id text, task_name text, seq bigint, due timestamptz, next timestamptz, problem text,
               correlation text, exclusive text[], shared text[], made_traceparent text, made_tracestate text,
               last_traceparent text, last_tracestate text)
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
        select d.id, d.name, d.task_name, d.next_dispatch, d.dispatch_interval, d.correlation_id, d.exclusive, d.shared,
               d.traceparent, d.tracestate, d.last_task_id
        from task_schedule d
        where d.next_dispatch <= now() and not exists (select from task_live l where l.seq = any (array[d.last_seq]) offset 0)
        order by d.next_dispatch limit least(cardinality(ids), 50)
        for update of d skip locked
    loop
        n := n + 1;
        schedule_id := s.id; name := s.name; task_id := ids[n]; task_name := s.task_name; due := s.next_dispatch; problem := '';
        correlation := coalesce(nullif(s.correlation_id, ''), correlations[n]);
        exclusive := s.exclusive; shared := s.shared; made_traceparent := s.traceparent; made_tracestate := s.tracestate;
        last_traceparent := null; last_tracestate := null;
        if traceparents[n] <> '' then
            select t.traceparent, t.tracestate into last_traceparent, last_tracestate from task t where t.id = any (array[s.last_task_id]);
        end if;
        next := s.next_dispatch + s.dispatch_interval * (floor(extract(epoch from now() - s.next_dispatch) / extract(epoch from s.dispatch_interval)) + 1)::float8;
        begin
            insert into task (id, domain_id, name, args, kwargs, exclusive, shared, versions, correlation_id, options, traceparent, tracestate)
            select task_id::uuid, d.domain_id, d.task_name, d.args, d.kwargs, d.exclusive, d.shared, d.versions, correlation, d.options,
                   coalesce(traceparents[n], ''), coalesce(tracestates[n], '')
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
