package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/services/status"
)

// listsOptions are those of `bench lists`: how long lists of tasks take with a long history.
type listsOptions struct {
	dir, url  string
	rows      int
	each      int
	patience  time.Duration
	questions string

	out, progress io.Writer
}

const (
	liveTasks   = 2000
	fillStep    = 250_000
	listPage    = 100
	goalMedian  = 50 * time.Millisecond
	lookupTime  = 5 * time.Second
	sampleTasks = 1000
)

//go:embed lists.sql
var fillTasks string

func commandLists(ctx context.Context, args []string, out, progress io.Writer) error {
	o := listsOptions{out: out, progress: progress}
	flags := flag.NewFlagSet("bench lists", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.StringVar(&o.dir, "dir", "/var/tmp", "folder for the server's data: 2 KiB for each task")
	flags.StringVar(&o.url, "url", "", "an empty database, or one that this has filled before, instead of a server of its own")
	flags.IntVar(&o.rows, "rows", 10_000_000, "how many finished tasks there are")
	flags.IntVar(&o.each, "each", 200, "how often each question is asked")
	flags.DurationVar(&o.patience, "patience", 20*time.Second, "for how long each question is asked at most")
	flags.StringVar(&o.questions, "only", "", "the questions to ask: part of their text")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.rows < 10_000 || o.each < 1 {
		return errors.New("give no arguments, at least 10000 rows, and a positive number of times")
	}
	return lists(ctx, o)
}

func lists(ctx context.Context, o listsOptions) (err error) {
	url := o.url
	tool := pgbench{}
	if url == "" {
		server, err := startServer(ctx, o.dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.stop(ctx)) }()
		// The log of so many rows is larger than they are, and nobody wants to read it.
		for _, sql := range []string{`alter system set max_wal_size = '4GB'`, `alter system set min_wal_size = '1GB'`, `select pg_reload_conf()`} {
			if err := server.exec(ctx, sql); err != nil {
				return err
			}
		}
		if url, err = server.database(ctx, databaseName); err != nil {
			return err
		}
		if tool.path, err = findPgbench(server.binaries.Dir); err != nil {
			note(o.progress, "%s", err)
		}
	} else if tool.path, err = findPgbench(""); err != nil {
		note(o.progress, "%s", err)
	}
	if err := postgres.Migrate(ctx, url, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to fill the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := fillHistory(ctx, conn, o); err != nil {
		return err
	}
	samples, err := sample(ctx, conn)
	if err != nil {
		return err
	}
	client, stop, err := serveStatus(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	row, err := lookUp(ctx, o, tool, url)
	if err != nil {
		return err
	}
	answers, err := ask(ctx, o, client, samples)
	fmt.Fprint(o.out, "\n"+align(listRows(row, answers)))
	return err
}

// fillHistory makes the tasks, if the database has none.
func fillHistory(ctx context.Context, conn *pgx.Conn, o listsOptions) error {
	var there bool
	if err := conn.QueryRow(ctx, `select exists (select from task)`).Scan(&there); err != nil || there {
		return err
	}
	run := func(what, sql string, args ...any) error {
		began := time.Now()
		if _, err := conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		note(o.progress, "%-40s %s, load %.2f", what, time.Since(began).Round(time.Millisecond), load())
		return nil
	}
	end := time.Now()
	for _, step := range []struct{ what, sql string }{
		// Ids as dispatchers make them: the time in milliseconds, then chance, here from the number.
		{"ids", `create function bench_id(n bigint, at timestamptz) returns uuid language sql immutable as $$
			select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || 'a' || substr(md5(n::text), 4, 15))::uuid $$`},
		{"groups", fmt.Sprintf(`insert into task_group (id, domain_id)
			select md5('group ' || n)::uuid, '00000000-0000-7000-8000-000000000001' from generate_series(0, %d) n`, o.rows/2000)},
		// What the triggers check is so, and what they write is written below.
		{"without triggers", `alter table task disable trigger all`},
	} {
		if err := run(step.what, step.sql); err != nil {
			return err
		}
	}
	for first := 1; first <= o.rows; first += fillStep {
		last := min(first+fillStep-1, o.rows)
		if err := run("tasks up to "+strconv.Itoa(last), fillTasks, int64(first), int64(last), int64(o.rows), end); err != nil {
			return err
		}
	}
	for _, step := range []struct{ what, sql string }{
		{"live tasks", fmt.Sprintf(`with new as (
				insert into task (id, domain_id, name, state, exclusive, shared, correlation_id, unblocked_at, started_at, executor, incarnation, claim, attempt)
				select gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 'app.tasks.name_' || lpad((n %% 200)::text, 3, '0'),
				       case when n <= 64 then 'running' else 'waiting' end, array['prn:file.filerepository:' || md5((n %% 200)::text)::uuid],
				       array['prn:core.domain:00000000-0000-7000-8000-000000000001'], gen_random_uuid()::text,
				       case when n <= 64 then now() end, case when n <= 64 then now() end, case when n <= 64 then 'executor-1' end,
				       case when n <= 64 then md5('executor 1')::uuid end, case when n <= 64 then 1 else 0 end, case when n <= 64 then 1 else 0 end
				from generate_series(1, %d) n returning seq, id
			) insert into task_live (seq, task_id) select seq, id from new`, liveTasks)},
		{"those not completed", `insert into task_not_completed select state, created_at, seq, name from task where state in ('failed', 'canceled', 'skipped')`},
		{"reports", `insert into task_report (task_id, claim, progress, created)
			select id, 1, '[{"code": "sync.downloading.artifacts", "message": "Downloading Artifacts", "state": "completed", "total": 100, "done": 100}]',
			       case when seq % 20 = 0 then jsonb_build_array(jsonb_build_object('resource', '/pulp/api/v3/repositories/file/file/' || id || '/versions/1/')) else '[]' end
			from task where seq % 10 = 0 and finished_at is not null`},
		{"with triggers", `alter table task enable trigger all`},
		{"vacuum", `vacuum (analyze) task`},
		{"vacuum of the others", `vacuum (analyze)`},
		{"checkpoint", `checkpoint`},
	} {
		if err := run(step.what, step.sql); err != nil {
			return err
		}
	}
	return nil
}

// sampled is what a task can be asked for by.
type sampled struct {
	id, name, correlation, group, parent string
	created, started                     time.Time
	made                                 bool
}

// sample reads some finished tasks, which the questions are about.
func sample(ctx context.Context, conn *pgx.Conn) ([]sampled, error) {
	var most int64
	if err := conn.QueryRow(ctx, `select max(seq) from task`).Scan(&most); err != nil {
		return nil, fmt.Errorf("sample tasks: %w", err)
	}
	seqs := make([]int64, 0, sampleTasks)
	for range sampleTasks {
		// Whole twenties are those that have made something, those after them have a parent.
		seqs = append(seqs, 20*(1+rand.Int64N((most-liveTasks)/20-1)), 20*(1+rand.Int64N((most-liveTasks)/20-1))+1)
	}
	rows, err := conn.Query(ctx, `
		select id::text, name, correlation_id, coalesce(group_id::text, ''), coalesce(parent_id::text, ''), created_at, started_at, seq % 20 = 0
		from task where seq = any($1) and started_at is not null`, seqs)
	if err != nil {
		return nil, fmt.Errorf("sample tasks: %w", err)
	}
	samples, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sampled, err error) {
		return s, row.Scan(&s.id, &s.name, &s.correlation, &s.group, &s.parent, &s.created, &s.started, &s.made)
	})
	if err != nil {
		return nil, fmt.Errorf("sample tasks: %w", err)
	}
	if len(samples) == 0 {
		return nil, errors.New("there is nothing to sample: the database was not filled by this command")
	}
	return samples, nil
}

// serveStatus runs the status service as a server does, and connects to it.
func serveStatus(ctx context.Context, url string) (statusv1.StatusServiceClient, func() error, error) {
	pool, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		return nil, nil, err
	}
	listener, err := rpc.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	status.New(status.Defaults(), status.NewStore(pool), nil, slog.New(slog.DiscardHandler)).Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := rpc.Dial(listener.Addr().String())
	stop := func() error {
		var closing error
		if conn != nil {
			closing = conn.Close()
		}
		server.Stop(0)
		pool.Close()
		return errors.Join(closing, <-served)
	}
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return statusv1.NewStatusServiceClient(conn), stop, nil
}

// answer is what one question came to.
type answer struct {
	question string
	goal     bool // it is one of those that must be fast
	took     []float64
	shown    int
	total    string
	failed   error
}

// lookUp is the yardstick: one row by its key, by pgbench.
func lookUp(ctx context.Context, o listsOptions, tool pgbench, url string) (answer, error) {
	a := answer{question: "pgbench: one row by its number", shown: 1}
	if tool.path == "" {
		return a, nil
	}
	dir, err := os.MkdirTemp("", "sluice-bench-lists-")
	if err != nil {
		return a, fmt.Errorf("make a folder for pgbench: %w", err)
	}
	defer os.RemoveAll(dir)
	tool.dir = dir
	text := fmt.Sprintf("\\set n random(1, %d)\nselect id, name, state from task where seq = :n;\n", o.rows)
	if err := os.WriteFile(filepath.Join(dir, "script.sql"), []byte(text), 0o600); err != nil {
		return a, fmt.Errorf("write pgbench's script: %w", err)
	}
	m, err := tool.measure(ctx, url, run{script: script{text: text}, args: []string{
		"--protocol", "prepared", "--client", "1", "--time", strconv.Itoa(int(lookupTime.Seconds())), "--log",
	}})
	if err != nil {
		return a, err
	}
	a.took = []float64{m[metricCommitP50], m[metricCommitP99]}
	return a, nil
}

// ask asks all questions, each as often as asked for, one after the other and round by round, so that what else the machine does
// falls on all of them alike. The first round is not counted: it reads what the later ones find in memory.
func ask(ctx context.Context, o listsOptions, client statusv1.StatusServiceClient, samples []sampled) ([]answer, error) {
	var asked []question
	for _, q := range questions() {
		if strings.Contains(q.text, o.questions) {
			asked = append(asked, q)
		}
	}
	answers := make([]answer, len(asked))
	spent := make([]time.Duration, len(asked))
	for i, q := range asked {
		answers[i] = answer{question: q.text, goal: q.goal}
	}
	for round := range o.each + 1 {
		for i, q := range asked {
			a := &answers[i]
			if a.failed != nil || spent[i] > o.patience {
				continue
			}
			request := q.request(draw(samples, q.about))
			request.PageSize = cmp.Or(request.GetPageSize(), listPage)
			began := time.Now()
			page, err := client.ListTasks(ctx, request)
			took := time.Since(began)
			spent[i] += took
			switch {
			case ctx.Err() != nil:
				return answers, context.Cause(ctx)
			case err != nil:
				a.failed = err
			case round > 0:
				a.took = append(a.took, float64(took.Microseconds())/1000)
				a.shown = max(a.shown, len(page.GetTasks()))
				if request.GetCount() {
					a.total = plain(float64(page.GetTotal()))
					if page.GetTotalEstimated() {
						a.total = "about " + a.total
					}
				}
			}
		}
		if round%50 == 0 {
			note(o.progress, "round %d, load %.2f", round, load())
		}
	}
	for i := range answers {
		slices.Sort(answers[i].took)
	}
	return answers, nil
}

// draw takes a task that a question can be about.
func draw(samples []sampled, about func(sampled) bool) sampled {
	for {
		if s := samples[rand.IntN(len(samples))]; about == nil || about(s) {
			return s
		}
	}
}

// question is a kind of list.
type question struct {
	text    string
	goal    bool
	about   func(sampled) bool // which tasks it can be about, nil for all
	request func(s sampled) *statusv1.ListTasksRequest
}

func listRows(row answer, answers []answer) [][]string {
	table := [][]string{{"limit=100 of", "rows", "median ms", "p99 ms", "× one row", "total", "median < 50 ms"}}
	cells := func(a answer) []string {
		if a.failed != nil {
			return []string{a.question, "", "given up", "", "", "", strings.TrimSpace(firstOf(a.failed.Error(), 40))}
		}
		if len(a.took) == 0 {
			return []string{a.question, "", "", "", "", "", ""}
		}
		p50, p99 := quantile(a.took, 0.50), quantile(a.took, 0.99)
		verdict, times := "", ""
		if a.goal {
			verdict = "missed"
			if p50 < float64(goalMedian.Milliseconds()) {
				verdict = "yes"
			}
		}
		if len(row.took) > 0 {
			times = ratio(p50 / row.took[0])
		}
		return []string{a.question, strconv.Itoa(a.shown), plain(p50), plain(p99), times, a.total, verdict}
	}
	table = append(table, cells(row))
	for _, a := range answers {
		table = append(table, cells(a))
	}
	return table
}

func firstOf(text string, most int) string { return text[:min(len(text), most)] }

func is(field statusv1.TaskField, comparison statusv1.Comparison, values ...string) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_Condition{Condition: &statusv1.Condition{Field: field, Comparison: comparison, Values: values}}}
}

func both(filters ...*statusv1.Filter) *statusv1.Filter {
	return &statusv1.Filter{Node: &statusv1.Filter_All{All: &statusv1.FilterList{Filters: filters}}}
}

// questions are what lists are asked for. Those with a goal begin in an index; the others are there to be seen.
func questions() []question {
	const (
		equal, oneOf, contains     = statusv1.Comparison_COMPARISON_EQUAL, statusv1.Comparison_COMPARISON_IN, statusv1.Comparison_COMPARISON_CONTAINS
		atLeast, less              = statusv1.Comparison_COMPARISON_GREATER_EQUAL, statusv1.Comparison_COMPARISON_LESS
		state, name                = statusv1.TaskField_TASK_FIELD_STATE, statusv1.TaskField_TASK_FIELD_NAME
		correlation                = statusv1.TaskField_TASK_FIELD_CORRELATION_ID
		created, started, finished = statusv1.TaskField_TASK_FIELD_CREATED_AT, statusv1.TaskField_TASK_FIELD_STARTED_AT, statusv1.TaskField_TASK_FIELD_FINISHED_AT
		group, parent, child       = statusv1.TaskField_TASK_FIELD_GROUP_ID, statusv1.TaskField_TASK_FIELD_PARENT_ID, statusv1.TaskField_TASK_FIELD_CHILD_ID
		made, reserved             = statusv1.TaskField_TASK_FIELD_CREATED_RESOURCES, statusv1.TaskField_TASK_FIELD_RESOURCES
	)
	var all []question
	add := func(text string, about func(sampled) bool, request func(s sampled) *statusv1.ListTasksRequest) {
		all = append(all, question{text: text, goal: true, about: about, request: request})
	}
	search := func(text string, request func(s sampled) *statusv1.ListTasksRequest) {
		all = append(all, question{text: text, request: request})
	}
	filter := func(f *statusv1.Filter) *statusv1.ListTasksRequest { return &statusv1.ListTasksRequest{Filter: f} }
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

	add("all, the newest first", nil, func(sampled) *statusv1.ListTasksRequest { return &statusv1.ListTasksRequest{} })
	add("all, with count", nil, func(sampled) *statusv1.ListTasksRequest { return &statusv1.ListTasksRequest{Count: true} })
	add("all, with reports, children and count (as REST asks)", nil, func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Count: true, IncludeReports: true, IncludeChildren: true}
	})
	add("all, the oldest first", nil, func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: created}}}
	})
	add("all, offset 10,000", nil, func(sampled) *statusv1.ListTasksRequest { return &statusv1.ListTasksRequest{Offset: 10_000} })
	for _, word := range []string{"waiting", "running", "canceling", "completed", "failed", "canceled", "skipped"} {
		add("state="+word, nil, func(sampled) *statusv1.ListTasksRequest { return filter(is(state, equal, word)) })
	}
	add("state=failed, with count", nil, func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Count: true, Filter: is(state, equal, "failed")}
	})
	add("state=completed, limit 1, with count", nil, func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Count: true, PageSize: 1, States: []taskv1.State{taskv1.State_STATE_COMPLETED}}
	})
	add("state__in=waiting,running", nil, func(sampled) *statusv1.ListTasksRequest { return filter(is(state, oneOf, "waiting", "running")) })
	add("state__in=failed,canceled,skipped", nil, func(sampled) *statusv1.ListTasksRequest {
		return filter(is(state, oneOf, "failed", "canceled", "skipped"))
	})
	add("state__in=waiting,failed", nil, func(sampled) *statusv1.ListTasksRequest { return filter(is(state, oneOf, "waiting", "failed")) })
	add("state=failed in 14 days long ago", nil, func(s sampled) *statusv1.ListTasksRequest {
		return filter(both(is(state, equal, "failed"), is(created, atLeast, at(s.created.Add(-7*24*time.Hour))), is(created, less, at(s.created.Add(7*24*time.Hour)))))
	})
	add("name", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(name, equal, s.name)) })
	add("name, with count", nil, func(s sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Count: true, Filter: is(name, equal, s.name)}
	})
	add("name that nothing has", nil, func(sampled) *statusv1.ListTasksRequest { return filter(is(name, equal, "nothing")) })
	add("name and state=failed", nil, func(s sampled) *statusv1.ListTasksRequest {
		return filter(both(is(name, equal, s.name), is(state, equal, "failed")))
	})
	add("name__in of 3", nil, func(s sampled) *statusv1.ListTasksRequest {
		return filter(is(name, oneOf, s.name, "app.tasks.name_190", "app.tasks.name_007"))
	})
	add("name__in of 3, two that nothing has", nil, func(sampled) *statusv1.ListTasksRequest {
		return filter(is(name, oneOf, "nothing", "no one", "app.tasks.name_199"))
	})
	add("logging_cid", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(correlation, equal, s.correlation)) })
	add("logging_cid__contains a UUID", nil, func(s sampled) *statusv1.ListTasksRequest {
		return filter(is(correlation, contains, strings.ReplaceAll(s.correlation, "-", "")))
	})
	add("task_group", func(s sampled) bool { return s.group != "" }, func(s sampled) *statusv1.ListTasksRequest { return filter(is(group, equal, s.group)) })
	add("parent_task", func(s sampled) bool { return s.parent != "" }, func(s sampled) *statusv1.ListTasksRequest { return filter(is(parent, equal, s.parent)) })
	add("child_tasks", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(child, equal, s.id)) })
	add("pulp_created__lt", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(created, less, at(s.created))) })
	add("pulp_created__gte, the oldest first", nil, func(s sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Filter: is(created, atLeast, at(s.created)), Order: []*statusv1.Order{{Field: created}}}
	})
	add("pulp_created, of an hour, with count", nil, func(s sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Count: true, Filter: both(is(created, atLeast, at(s.created)), is(created, less, at(s.created.Add(time.Hour))))}
	})
	add("started_at__lt", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(started, less, at(s.started))) })
	add("finished_at__lt", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(finished, less, at(s.started))) })
	add("started_at, of an hour", nil, func(s sampled) *statusv1.ListTasksRequest {
		return filter(both(is(started, atLeast, at(s.started)), is(started, less, at(s.started.Add(time.Hour)))))
	})
	add("started_at__gte", nil, func(s sampled) *statusv1.ListTasksRequest { return filter(is(started, atLeast, at(s.started))) })
	add("created_resources", func(s sampled) bool { return s.made }, func(s sampled) *statusv1.ListTasksRequest {
		return filter(is(made, equal, "/pulp/api/v3/repositories/file/file/"+s.id+"/versions/1/"))
	})
	add("created_resources that nothing made", nil, func(sampled) *statusv1.ListTasksRequest { return filter(is(made, equal, "/nothing/")) })
	add("resources of live tasks", nil, func(sampled) *statusv1.ListTasksRequest {
		return filter(both(is(state, oneOf, "waiting", "running"), is(reserved, statusv1.Comparison_COMPARISON_ALL, "prn:file.filerepository:cfcd2084-95d5-65ef-66e7-dff9f98764da")))
	})
	search("resources of all tasks", func(sampled) *statusv1.ListTasksRequest {
		return filter(is(reserved, statusv1.Comparison_COMPARISON_ALL, "prn:file.filerepository:cfcd2084-95d5-65ef-66e7-dff9f98764da"))
	})
	search("offset 1,000,000", func(sampled) *statusv1.ListTasksRequest { return &statusv1.ListTasksRequest{Offset: 1_000_000} })
	search("name__contains of many", func(sampled) *statusv1.ListTasksRequest { return filter(is(name, contains, "name_00")) })
	search("name__contains that nothing has", func(sampled) *statusv1.ListTasksRequest { return filter(is(name, contains, "nothing")) })
	search("started_at__gte that nothing has", func(sampled) *statusv1.ListTasksRequest {
		return filter(is(started, atLeast, "2100-01-01T00:00:00Z"))
	})
	search("started_at, of a second at which nothing began", func(s sampled) *statusv1.ListTasksRequest {
		return filter(both(is(started, atLeast, at(s.created)), is(started, less, at(s.created.Add(time.Microsecond)))))
	})
	search("ordered by finished_at", func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: finished, Descending: true}}}
	})
	search("ordered by name", func(sampled) *statusv1.ListTasksRequest {
		return &statusv1.ListTasksRequest{Order: []*statusv1.Order{{Field: name}}}
	})
	return all
}
