-- A history to list: $1 is the first and $2 the last number of the finished tasks to make, $3 how many there are in all, $4 when the last one is dispatched. They
-- come over 90 days: 97 of a hundred completed, two failed, one canceled; 200 names, of which some are frequent and most are not; every
-- second task has the correlation id of the one before; one of twenty is in a group of a hundred, one of twenty is a child of a task that
-- came shortly before, one of ten has told of its work, and half of those have created something.
with made as (
    select n,
           $4::timestamptz - interval '90 days' + interval '90 days' * (n::float8 / $3::bigint) as at,
           hashint8(n) & 1023 as dice,
           (hashint8(n # 77777) & 65535) / 65536.0 as share
    from generate_series($1::bigint, $2::bigint) n
), task_row as (
    select m.*,
           case when m.n % 100 < 2 then 'failed' when m.n % 100 = 2 then 'canceled' else 'completed' end as state,
           -- The most frequent name is that of one in seven tasks, the rarest of one in ten thousand.
           'app.tasks.name_' || lpad(floor(200 * m.share ^ 3)::text, 3, '0') as name,
           m.at + interval '1 millisecond' * (m.dice % 512) as unblocked,
           m.at + interval '1 millisecond' * m.dice as started,
           m.at + interval '1 millisecond' * (m.dice * 40 + 1) as finished
    from made m
)
insert into task (id, domain_id, name, state, args, kwargs, exclusive, shared, parent_id, group_id, correlation_id, created_at, updated_at,
                  unblocked_at, started_at, finished_at, executor, incarnation, claim, attempt, result, error)
select bench_id(n, at), '00000000-0000-7000-8000-000000000001', name, state,
       '[]', json_build_object('repository', 'prn:file.filerepository:' || md5((dice * 5)::text)::uuid, 'remote', null, 'mirror', false),
       array['prn:file.filerepository:' || md5((dice * 5)::text)::uuid], array['prn:core.domain:00000000-0000-7000-8000-000000000001'],
       case when n % 20 = 1 and n > 100 then bench_id(n - 1, $4::timestamptz - interval '90 days' + interval '90 days' * ((n - 1)::float8 / $3::bigint)) end,
       case when n % 2000 < 100 then md5('group ' || n / 2000)::uuid end,
       md5('request ' || n / 2)::uuid::text,
       at, finished, unblocked, started, finished, 'executor-' || dice % 50, md5('executor ' || dice % 50)::uuid, 1, 1,
       case state when 'completed' then json_build_object('content', dice, 'version', n) end,
       case state when 'failed' then json_build_object('description', 'the remote answered 503 Service Unavailable', 'code', 'ERROR',
                                                       'traceback', repeat('  File "tasks.py", line 42, in synchronize\n', 20))
                  when 'canceled' then json_build_object('reason', 'Canceled on request.') end
from task_row order by n
