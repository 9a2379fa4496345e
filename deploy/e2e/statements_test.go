package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// executed is what a server has really executed, each statement as its log says it: "statement: begin", or
// "execute <unnamed>: select $1".
type executed []string

// watch has the server log all statements of a database from now on, and checks them when the test ends: that none of them
// leaves anything behind in its session, and that the expected ones are there, and these more. On a server that is not the tests'
// own it does nothing, for the log is out of reach.
func watch(t *testing.T, database string, more ...string) {
	t.Helper()
	if os.Getenv("SLUICE_TEST_DATABASE_URL") != "" {
		return
	}
	statements := pgtest.LogStatements(t, database)
	t.Cleanup(func() {
		all := slices.DeleteFunc(executed(statements()), byThePooler.MatchString)
		for _, wrong := range all.leaveBehind() {
			t.Error(wrong)
		}
		if t.Failed() {
			return // what was not done has reasons of its own
		}
		for _, missing := range all.lack(append(more, expected...)) {
			t.Errorf("of %d statements that were executed, none is about %s", len(all), missing)
		}
		t.Logf("%d statements were executed", len(all))
	})
}

// byThePooler is how PgBouncer makes a session fit for its next client: it remembers what this one said at its login.
var byThePooler = regexp.MustCompile(`^statement: SET (application_name|client_encoding|DateStyle|IntervalStyle|TimeZone|standard_conforming_strings)='[^']*';$`)

// TestNothingIsLeftInTheSession lives through what a Sluice does, on sessions of its own. (That all of it works on those of
// others is another matter, see newPooled.)
func TestNothingIsLeftInTheSession(t *testing.T) {
	t.Parallel()
	direct := pgtest.EmptyURL(t)
	watch(t, direct, "insert into task_group ", "insert into task_log ", "insert into task_cancel ", "delete from task t ", "left join task_log ")
	v := newServices(t, direct).migrate(t)
	s := v.start(t).under(t)
	for _, tell := range []func(*system){
		faces, batch, logs, explainBlocker, cancelWaiting, cancelRunning, deleteFinished, immediate, immediateBlocked, finalizer,
		badMessages, wholeSystem,
	} {
		tell(s)
	}
	f := s.flow()
	f.goesOn()
	s.processes["scheduler"].kill()
	v.restart(t, "scheduler")
	f.goesOn()
	s.processes["scheduler"].stop(t, syscall.SIGTERM)
	v.restart(t, "scheduler")
	f.goesOn()
	f.settle(s, false)
}

// batch hands in several tasks at once, and then some that are wrong.
func batch(s *system) {
	resource := fresh("r")
	specs := make([]client.Spec, 100)
	for i := range specs {
		specs[i] = client.Spec{Name: "test.noop", Exclusive: []string{resource}}
	}
	made, err := s.DispatchBatch(s.soon(), specs)
	if err != nil || len(made) != len(specs) {
		s.t.Fatalf("a batch of %d: %d tasks, %v", len(specs), len(made), err)
	}
	var ids []string
	for _, one := range made {
		ids = append(ids, one.ID)
	}
	ended := s.end(ids...)
	for i, one := range ended {
		if one.State != task.Completed || one.Name != "test.noop" {
			s.t.Errorf("task %d is %s: %v", i, one.State, one.Error)
		}
		if i > 0 && (one.Seq <= ended[i-1].Seq || one.StartedAt.Before(*ended[i-1].FinishedAt)) {
			s.t.Errorf("task %d of the batch did not run after the one before it", i)
		}
	}
	specs[99].Name = ""
	if _, err := s.DispatchBatch(s.soon(), specs); !errs.Is(err, errs.InvalidInput) || !strings.Contains(err.Error(), "tasks[99].name") {
		s.t.Errorf("a batch with a task without a name: %v", err)
	}
}

// expected are pieces of statements that every life of a Sluice contains. Without them, a log that is empty, or somebody
// else's, would prove anything.
var expected = []string{
	"create table task ", "dispatcher_insert_3(", "scheduler_tick_3(", "update lease ",
	"insert into app ", "from task ",
}

// lack lists what of the expected is not there.
func (e executed) lack(expected []string) (missing []string) {
	for _, want := range expected {
		if !slices.ContainsFunc(e, func(s string) bool {
			s = oneLine(s) + " "
			return strings.Contains(s, want) && !strings.Contains(s, "create function ") // to have one is not to use it
		}) {
			missing = append(missing, want)
		}
	}
	return missing
}

// leaveBehind says of each kind of statement that leaves something in its session what it is, once.
func (e executed) leaveBehind() (wrong []string) {
	seen := map[string]bool{}
	for _, statement := range e {
		if what := leavesBehind(statement); what != "" && !seen[statement] {
			seen[statement] = true
			wrong = append(wrong, fmt.Sprintf("%s was executed: %s", what, statement))
		}
	}
	return wrong
}

// traces are what is left in a session, recognized by a statement in lower case and on one line, without comments and what
// is in quotes. In the body of a function some words mean something else.
var traces = []struct {
	what      string
	statement *regexp.Regexp
	notInBody bool
}{
	{"LISTEN, UNLISTEN or NOTIFY", regexp.MustCompile(`^(un)?listen\b|^notify\b|\bpg_notify ?\(`), false},
	{"SET or RESET", regexp.MustCompile(`^set (local|transaction|constraints) |^(set|reset) `), false},
	{"set_config for the session", regexp.MustCompile(`\bset_config ?\((?:[^()]|\([^()]*\))*, ?true ?\)|\bset_config ?\(`), false},
	{"a lock of the session", regexp.MustCompile(`\bpg_(try_)?advisory_(un)?lock(_shared|_all)?\b`), false},
	{"PREPARE, EXECUTE or DEALLOCATE", regexp.MustCompile(`^(prepare|execute|deallocate)\b`), true},
	{"a cursor", regexp.MustCompile(`^(fetch|move|close)\b|^declare\b.*\bcursor\b`), true},
	{"a temporary table", regexp.MustCompile(`^create ((local|global) )?temp(orary)? |\binto temp(orary)? |\bpg_temp\.`), false},
	{"DISCARD", regexp.MustCompile(`^discard\b`), false},
	{"the last number of a sequence in the session", regexp.MustCompile(`\b(currval|lastval) ?\(`), false},
}

// harmless is what traces match and which ends with the transaction.
var harmless = regexp.MustCompile(`^(set (local|transaction|constraints) |set_config ?\((?:[^()]|\([^()]*\))*, ?true ?\)$)`)

// leavesBehind says what a statement, as the log says it, leaves behind in the session; "" if nothing.
func leavesBehind(logged string) string {
	how, sql, _ := strings.Cut(logged, ": ")
	if how != "statement" && how != "execute <unnamed>" {
		return "a named prepared statement or portal"
	}
	for _, piece := range pieces(sql) {
		for _, trace := range traces {
			if piece.body && trace.notInBody {
				continue
			}
			for _, found := range trace.statement.FindAllString(piece.sql, -1) {
				if !harmless.MatchString(found) {
					return trace.what
				}
			}
		}
	}
	return ""
}

// piece is one statement, or one of the body of a function.
type piece struct {
	sql  string
	body bool
}

var (
	quoted = regexp.MustCompile(`--[^\n]*|(?s:/\*.*?\*/)|'(?:[^']|'')*'|"(?:[^"]|"")*"`)
	dollar = regexp.MustCompile(`\$(?:[a-zA-Z_]\w*)?\$`)
	blocks = regexp.MustCompile(`\b(begin|then|else|loop|declare)\b`)
)

// pieces takes SQL apart.
func pieces(sql string) (made []piece) {
	sql = quoted.ReplaceAllStringFunc(sql, func(found string) string {
		switch found[0] {
		case '\'':
			return "''"
		case '"':
			return `"name"`
		default:
			return " "
		}
	})
	for i, part := range dollar.Split(sql, -1) {
		body := i%2 == 1
		for one := range strings.SplitSeq(part, ";") {
			one = oneLine(one)
			made = append(made, piece{one, body})
			if !body {
				continue
			}
			for _, inner := range blocks.Split(one, -1)[1:] {
				made = append(made, piece{strings.TrimSpace(inner), body})
			}
		}
	}
	return made
}

func oneLine(sql string) string { return strings.ToLower(strings.Join(strings.Fields(sql), " ")) }

func TestTheCheckOfStatementsFindsWhatItIsFor(t *testing.T) {
	const anonymous = "execute <unnamed>: "
	for _, c := range []struct {
		what   string // a piece of what is found; empty: nothing is
		logged []string
	}{
		{"named", []string{"execute s1: select 1", "execute stmtcache_1: select 1", "execute <unnamed>/c1: select 1", "execute fetch from <unnamed>/c: x"}},
		{"LISTEN", []string{"statement: listen jobs", anonymous + "LISTEN \"jobs\"", "statement: unlisten *", "statement: notify jobs, 'x'", anonymous + "select pg_notify('jobs', $1)", "statement: begin; notify jobs; commit"}},
		{"SET", []string{
			"statement: set work_mem = '7MB'", "statement: SET SESSION lock_timeout TO 1", "statement: /* why */ set\n\ttime zone 'UTC'", "statement: -- why\nset role x",
			"statement: set session characteristics as transaction read only", "statement: reset all", "statement: begin; set lock_timeout = 1",
			"statement: create function f() returns void language plpgsql as $$ begin set work_mem = 1; end $$",
			"statement: do $x$ begin if true then set work_mem = 1; end if; end $x$",
		}},
		{"set_config", []string{anonymous + "select set_config('a.b', $1, false)", anonymous + "select set_config('a.b', $1, $2)", anonymous + "select set_config('a', 'b', true), set_config('a', coalesce($1, 'x'), false)"}},
		{"lock", []string{
			anonymous + "select pg_advisory_lock($1)", anonymous + "select pg_try_advisory_lock(1)", anonymous + "select pg_advisory_unlock(1)",
			anonymous + "select pg_advisory_lock_shared(1)", "statement: select pg_advisory_unlock_all()",
			"statement: do $$ begin perform pg_advisory_lock(1); end $$",
		}},
		{"PREPARE", []string{"statement: prepare p as select 1", "statement: execute p", "statement: deallocate all", anonymous + "PREPARE p AS select 1"}},
		{"cursor", []string{"statement: declare c cursor for select 1", "statement: declare c no scroll cursor with hold for select 1", "statement: fetch 10 from c", "statement: close c"}},
		{"temporary", []string{"statement: create temp table t (n int)", "statement: create temporary view v as select 1", "statement: create local temp table t (n int)", "statement: select 1 into temp t", anonymous + "insert into pg_temp.t values ($1)"}},
		{"DISCARD", []string{"statement: discard all"}},
		{"sequence", []string{anonymous + "select currval('task_seq_seq')", anonymous + "select lastval()"}},
		{"", []string{
			"statement: begin", "statement: commit", "statement: -- ping", "statement: ", anonymous + "",
			"statement: set local statement_timeout = 0; set local lock_timeout = 0", "statement: set transaction isolation level serializable",
			anonymous + "select set_config('a.b', $1, true)", anonymous + "select set_config('a.b', coalesce($1, 'x'), true)",
			anonymous + "select pg_advisory_xact_lock($1)", anonymous + "select pg_try_advisory_xact_lock($1)",
			anonymous + "update task set state = 'running' where seq = $1", anonymous + "update task t\nset state = 'x'\nfrom x",
			anonymous + "select 'set work_mem = 1; listen x'", anonymous + "select '; set work_mem = 1', 'it''s; discard all'",
			anonymous + `select "set", "listen" from thing`, anonymous + `select set, listen from thing`, anonymous + "select $1 -- ; set x = 1\n, $2 /* ; discard all */",
			anonymous + "with new as (insert into task (prepare) values ($1) returning seq) select seq from new",
			"statement: create table task (id uuid); alter table task alter column x set default 1, set (fillfactor = 50)",
			"statement: create index on task (temp)", "statement: create table template (n int)",
			"statement: create function f() returns void language plpgsql set search_path = x as $$ declare n int; begin execute 'x'; update lease set epoch = 1; if x then raise notice ''; end if; end $$",
			anonymous + "select set_configuration(1)", anonymous + "select my_pg_advisory_lock(1)", anonymous + "delete from task_cancel where seq = any($1)",
		}},
	} {
		for _, logged := range c.logged {
			switch got := leavesBehind(logged); {
			case c.what == "" && got != "":
				t.Errorf("%q was taken for %s", logged, got)
			case !strings.Contains(got, c.what):
				t.Errorf("%q was taken for %q, want %s", logged, got, c.what)
			}
		}
	}
	if got := (executed{"statement: begin", "statement: discard all", "statement: discard all"}).leaveBehind(); len(got) != 1 {
		t.Errorf("of three statements it says %q", got)
	}
	if got := (executed{}).lack(expected); len(got) != len(expected) {
		t.Errorf("of an empty log it says that it lacks only %q", got)
	}
}
