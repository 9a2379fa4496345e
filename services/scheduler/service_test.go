package scheduler_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/scheduler"
)

// patience bounds every wait in these tests; it is only reached when something is broken.
const patience = 20 * time.Second

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// running is one scheduler that serves on loopback.
type running struct {
	scheduler *scheduler.Service
	client    schedulerv1.SchedulerServiceClient
	stop      func()
}

func config() scheduler.Config {
	cfg := scheduler.Defaults()
	cfg.Lease, cfg.LookEvery = time.Second, 50*time.Millisecond
	return cfg
}

// start runs a scheduler on its own pool, as a process of its own would.
func start(t *testing.T, url string, cfg scheduler.Config) *running {
	t.Helper()
	pool := pgtest.Open(t, url)
	s := scheduler.New(cfg, scheduler.NewStore(pool, cfg.Lease), quiet())
	conn, stopServer := rpctest.Serve(t, s.Register)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r := &running{scheduler: s, client: schedulerv1.NewSchedulerServiceClient(conn)}
	r.stop = sync.OnceFunc(func() {
		cancel()
		stopServer()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) awaitLeading(t *testing.T) {
	t.Helper()
	probe.Eventually(t, "the scheduler leads", func() bool {
		_, err := r.client.ListResources(t.Context(), &schedulerv1.ListResourcesRequest{})
		return err == nil && r.scheduler.Ready(t.Context()) == nil
	})
}

// spec is a task for insert.
type spec struct {
	name               string
	exclusive, shared  []string
	immediate, noDefer bool
	versions           string
	options            string // JSON
}

// insert stores a task as the dispatcher does, in a transaction of the caller's.
func insert(t *testing.T, db postgres.Querier, s spec) (id string, seq int64) {
	t.Helper()
	if s.name == "" {
		s.name = "t"
	}
	if s.versions == "" {
		s.versions = "{}"
	}
	id = uuid.Must(uuid.NewV7()).String()
	err := db.QueryRow(t.Context(), `
		with xact as materialized (select pg_current_xact_id()), new as (
			insert into task (id, domain_id, name, exclusive, shared, immediate, deferred, versions, options)
			select $1::text::uuid, $2::text::uuid, $3, $4::text[], $5::text[], $6, $7, $8::text::jsonb, nullif($9::text, '')::json from xact
			returning seq, id
		), live as (insert into task_live (seq, task_id) select seq, id from new)
		select seq from new`, id, task.DefaultDomainID, s.name, append([]string{}, s.exclusive...), append([]string{}, s.shared...), s.immediate, !s.noDefer, s.versions, s.options).Scan(&seq)
	if err != nil {
		t.Fatalf("insert: %v", err)
	}
	return id, seq
}

// cancelRow does what the dispatcher's statement does.
func cancelRow(t *testing.T, db postgres.Querier, id string) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		with hit as (
			update task set state = case state when 'waiting' then 'canceled' else 'canceling' end,
				finished_at = case state when 'waiting' then now() end,
				error = case state when 'waiting' then '{"reason":"x"}'::json end
			where id = $1::text::uuid and state in ('waiting', 'running') returning *
		), gone as (delete from task_live l using hit where l.seq = hit.seq and hit.state = 'canceled')
		insert into task_cancel (seq, task_id) select seq, id from hit`, id)
	if err != nil {
		t.Fatalf("cancel: %v", err)
	}
}

type row struct {
	state, executor, errorText string
	claim                      int64
	attempt                    int32
	unblocked, started, ended  *time.Time
}

func read(t *testing.T, db *pgxpool.Pool, id string) row {
	t.Helper()
	var r row
	err := db.QueryRow(context.WithoutCancel(t.Context()), `
		select state, coalesce(executor, ''), coalesce(error::text, ''), claim, attempt, unblocked_at, started_at, finished_at
		from task where id = $1::text::uuid`, id).
		Scan(&r.state, &r.executor, &r.errorText, &r.claim, &r.attempt, &r.unblocked, &r.started, &r.ended)
	if err != nil {
		t.Fatalf("read task: %v", err)
	}
	return r
}

func awaitState(t *testing.T, db *pgxpool.Pool, id, state string) row {
	t.Helper()
	probe.Eventually(t, "task becomes "+state, func() bool { return read(t, db, id).state == state })
	return read(t, db, id)
}

// fake is an executor that does what the test tells it to.
type fake struct {
	t           *testing.T
	name        string
	incarnation string
	deaf        bool // it answers no pulse
	stream      grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse]
	hangUp      context.CancelFunc
	saying      sync.Mutex
	in          chan step
	begin       chan *schedulerv1.Claim
	ended       chan error
}

// step is one thing that an executor is told. A message can bring many.
type step struct {
	kind             string
	assign           *taskv1.Assignment
	cancel, finished *schedulerv1.Claim
	refused          *schedulerv1.Refused
}

// steps takes a message apart, in the order in which things happened: a slot is freed before it is given anew.
func steps(m *schedulerv1.AcquireResponse) (all []step) {
	if m.GetWelcome() != nil {
		return []step{{kind: "welcome"}}
	}
	for _, claim := range m.GetOrders().GetFinished() {
		all = append(all, step{kind: "finished", finished: claim})
	}
	for _, refused := range m.GetOrders().GetRefused() {
		all = append(all, step{kind: "refused", refused: refused})
	}
	for _, assign := range m.GetOrders().GetAssign() {
		all = append(all, step{kind: "assign", assign: assign})
	}
	for _, claim := range m.GetOrders().GetCancel() {
		all = append(all, step{kind: "cancel", cancel: claim})
	}
	if m.GetOrders().GetNothingLeft() {
		all = append(all, step{kind: "nothing left"})
	}
	if len(all)+len(m.GetOrders().GetBegin())+len(m.GetOrders().GetAnnounced()) == 0 {
		return []step{{kind: "nothing known"}}
	}
	return all
}

// register stores a living incarnation, as the heartbeat service does.
func register(t *testing.T, db *pgxpool.Pool, name string) (incarnation string) {
	t.Helper()
	incarnation = uuid.Must(uuid.NewV7()).String()
	if _, err := db.Exec(t.Context(), `insert into app (incarnation, name, kind, ttl) values ($1::text::uuid, $2, 'worker', '1h')`, incarnation, name); err != nil {
		t.Fatal(err)
	}
	return incarnation
}

// endLife ends the living incarnation of a name, as the heartbeat service does.
func endLife(t *testing.T, db *pgxpool.Pool, name string, missing bool) {
	t.Helper()
	pgtest.Must(t, db, 1, `
		with over as (
			update app set missing_at = case when $2 then now() end, ended_at = case when not $2 then now() end
			where name = $1 and missing_at is null and ended_at is null returning incarnation
		)
		insert into app_over (incarnation, missing) select incarnation, $2 from over`, name, missing)
}

// deafName is the name of an executor that answers no pulse.
const deafName = "deaf"

func connect(t *testing.T, r *running, name, incarnation string, hello *schedulerv1.Hello) *fake {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{t: t, name: name, deaf: name == deafName, incarnation: incarnation, hangUp: cancel, in: make(chan step, 100), begin: make(chan *schedulerv1.Claim, 100), ended: make(chan error, 1)}
	stream, err := r.client.Acquire(ctx)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	f.stream = stream
	hello.Executor, hello.Incarnation = name, incarnation
	if hello.TaskNames == nil {
		hello.TaskNames = []string{"t"}
	}
	f.say(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: hello}})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				f.ended <- err
				return
			}
			if m.GetPulse() != nil {
				f.hear(m.GetPulse())
				continue
			}
			for _, one := range steps(m) {
				f.in <- one
			}
			for _, claim := range m.GetOrders().GetBegin() {
				f.begin <- claim
			}
		}
	})
	t.Cleanup(func() { cancel(); reading.Wait() })
	return f
}

// join registers and connects an executor and waits until it is welcome.
func join(t *testing.T, r *running, db *pgxpool.Pool, name string, slots int32) *fake {
	t.Helper()
	f := connect(t, r, name, register(t, db, name), &schedulerv1.Hello{Slots: slots, ImmediateSlots: 1})
	f.next("welcome")
	return f
}

func (f *fake) say(m *schedulerv1.AcquireRequest) {
	f.t.Helper()
	f.saying.Lock()
	defer f.saying.Unlock()
	if err := f.stream.Send(m); err != nil {
		f.t.Fatalf("send: %v", err)
	}
}

// hear answers a pulse, unless it is deaf. What a failed answer means is known from reading.
func (f *fake) hear(pulse *schedulerv1.Pulse) {
	if f.deaf {
		return
	}
	f.saying.Lock()
	defer f.saying.Unlock()
	_ = f.stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Pulse{Pulse: pulse}})
}

// next returns what it is told next, which must be of the kind.
func (f *fake) next(kind string) step {
	f.t.Helper()
	select {
	case got := <-f.in:
		if got.kind != kind {
			f.t.Fatalf("%s got %s (%v), want %s", f.name, got.kind, got, kind)
		}
		return got
	case err := <-f.ended:
		f.t.Fatalf("%s lost its line waiting for %s: %v", f.name, kind, err)
	case <-time.After(patience):
		f.t.Fatalf("%s got no %s within %s", f.name, kind, patience)
	}
	return step{}
}

// assigned is told to run a task, and begins it.
func (f *fake) assigned(id string) *taskv1.Assignment {
	f.t.Helper()
	a := f.offered(id)
	f.report(&schedulerv1.Report{Acknowledged: []*schedulerv1.Claim{claimOf(a)}})
	f.mayBegin(claimOf(a))
	return a
}

// offered is told to run a task, and says nothing.
func (f *fake) offered(id string) *taskv1.Assignment {
	f.t.Helper()
	a := f.next("assign").assign
	if a.GetTaskId() != id {
		f.t.Fatalf("assigned %s, want %s", a.GetTaskId(), id)
	}
	return a
}

// mayBegin waits until it may begin what it was given.
func (f *fake) mayBegin(claim *schedulerv1.Claim) {
	f.t.Helper()
	select {
	case got := <-f.begin:
		if !proto.Equal(got, claim) {
			f.t.Fatalf("%s may begin %v, want %v", f.name, got, claim)
		}
	case err := <-f.ended:
		f.t.Fatalf("%s lost its line waiting for its begin: %v", f.name, err)
	case <-time.After(patience):
		f.t.Fatalf("%s may not begin within %s", f.name, patience)
	}
}

func claimOf(a *taskv1.Assignment) *schedulerv1.Claim {
	return &schedulerv1.Claim{TaskId: a.GetTaskId(), Claim: a.GetClaim()}
}

func (f *fake) report(r *schedulerv1.Report) {
	f.t.Helper()
	f.say(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Report{Report: r}})
}

func (f *fake) finish(a *taskv1.Assignment, outcome *taskv1.Outcome) {
	f.t.Helper()
	f.report(&schedulerv1.Report{Finished: []*schedulerv1.Finish{{Claim: claimOf(a), Outcome: outcome}}})
}

func (f *fake) endedWith() error {
	f.t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(patience):
		f.t.Fatalf("the line of %s did not end", f.name)
		return nil
	}
}

func completed(result string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: result}
}

func (r *running) offer(t *testing.T, settle ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := r.client.Offer(ctx, &schedulerv1.OfferRequest{SettleTaskIds: settle}); err != nil {
		t.Fatalf("offer: %v", err)
	}
}

// alone starts one scheduler that leads, with a look so rare that only hints can make it look.
func alone(t *testing.T) (*running, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.New(t)
	cfg := config()
	cfg.LookEvery = time.Hour
	r := start(t, pool.Config().ConnString(), cfg)
	r.awaitLeading(t)
	return r, pool
}

func TestATaskGoesThroughItsWholeLife(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 2)
	id, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	a := x.assigned(id)
	if a.GetClaim() != 1 || a.GetAttempt() != 1 || a.GetArgsJson() != "[]" || a.GetKwargsJson() != "{}" {
		t.Errorf("assignment: %v", a)
	}
	now := read(t, db, id)
	if now.state != "running" || now.executor != "x" || now.unblocked == nil || now.started == nil || now.ended != nil {
		t.Errorf("while it runs: %+v", now)
	}
	x.finish(a, completed(`{"n": 12345678901234567890}`))
	x.next("finished")
	end := read(t, db, id)
	if end.state != "completed" || end.ended == nil || end.started.Before(*end.unblocked) || end.ended.Before(*end.started) {
		t.Errorf("afterwards: %+v", end)
	}
	var result string
	var live int
	if err := db.QueryRow(t.Context(), `select result::text, (select count(*) from task_live) from task where id = $1::text::uuid`, id).Scan(&result, &live); err != nil {
		t.Fatal(err)
	}
	if result != `{"n": 12345678901234567890}` || live != 0 {
		t.Errorf("result %s, %d live", result, live)
	}
}

func TestConflictingTasksRunOneAfterTheOtherInOrder(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	first, _ := insert(t, db, spec{exclusive: []string{"a"}})
	second, _ := insert(t, db, spec{exclusive: []string{"a"}})
	third, _ := insert(t, db, spec{shared: []string{"a"}})
	fourth, _ := insert(t, db, spec{shared: []string{"a"}})
	r.offer(t)
	a := x.assigned(first)
	if w := read(t, db, second); w.state != "waiting" || w.unblocked != nil {
		t.Errorf("the second one: %+v", w)
	}
	x.finish(a, completed("null"))
	x.next("finished")
	a = x.assigned(second)
	x.finish(a, completed("null"))
	x.next("finished")
	x.assigned(third)
	x.assigned(fourth)
}

func TestWhatNobodyHintedAtIsFoundByTheLook(t *testing.T) {
	db := pgtest.New(t)
	r := start(t, db.Config().ConnString(), config())
	r.awaitLeading(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	x.assigned(id)
}

// The number of a dispatch is taken before its commit, so a higher one can be visible first.
func TestATaskThatIsCommittedLateIsFoundAndKeepsItsPlace(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	tx := pgtest.Begin(t, db)
	late, _ := insert(t, tx, spec{exclusive: []string{"a"}})
	other, _ := insert(t, db, spec{exclusive: []string{"b"}})
	r.offer(t)
	x.assigned(other)
	tx.Commit(t)
	// Its dispatch has returned; what is dispatched now must not overtake it.
	after, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	a := x.assigned(late)
	if state := read(t, db, after).state; state != "waiting" {
		t.Errorf("the later one is %s", state)
	}
	x.finish(a, completed("null"))
	x.next("finished")
	x.assigned(after)
}

// The order of transaction ids need not be that of the numbers either.
func TestATaskOfAYoungerTransactionWithALowerNumberIsFound(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	elder, younger := pgtest.Begin(t, db), pgtest.Begin(t, db)
	if _, err := elder.Exec(t.Context(), `select pg_current_xact_id()`); err != nil {
		t.Fatal(err)
	}
	late, low := insert(t, younger, spec{exclusive: []string{"a"}})
	other, high := insert(t, elder, spec{exclusive: []string{"b"}})
	if low >= high {
		t.Fatalf("numbers %d and %d are not in the order that this is about", low, high)
	}
	elder.Commit(t)
	r.offer(t)
	x.assigned(other)
	// Further looks, while the younger transaction is the oldest that is open.
	for range 3 {
		next, _ := insert(t, db, spec{})
		r.offer(t)
		x.assigned(next)
	}
	younger.Commit(t)
	r.offer(t)
	x.assigned(late)
}

// The same across a takeover: the new leader's load could not see the late one.
func TestATaskThatIsCommittedAfterATakeoverKeepsItsPlace(t *testing.T) {
	db := pgtest.New(t)
	tx := pgtest.Begin(t, db)
	late, _ := insert(t, tx, spec{exclusive: []string{"a"}})
	other, _ := insert(t, db, spec{exclusive: []string{"b"}})
	cfg := config()
	cfg.LookEvery = time.Hour
	r := start(t, db.Config().ConnString(), cfg)
	r.awaitLeading(t)
	r.offer(t) // the first look after the load, while the transaction is open
	tx.Commit(t)
	after, _ := insert(t, db, spec{exclusive: []string{"a"}})
	x := join(t, r, db, "x", 10)
	r.offer(t)
	given := map[string]*taskv1.Assignment{}
	for range 2 { // in the order in which they are found
		a := x.next("assign").assign
		given[a.GetTaskId()] = a
	}
	if given[late] == nil || given[other] == nil {
		t.Fatalf("given: %v", given)
	}
	x.finish(given[late], completed("null"))
	x.next("finished")
	x.assigned(after)
}

func TestCancelOfAWaitingTaskFreesItsPlace(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 10)
	holder, _ := insert(t, db, spec{shared: []string{"a"}})
	blocked, _ := insert(t, db, spec{exclusive: []string{"a"}})
	behind, _ := insert(t, db, spec{shared: []string{"a"}})
	r.offer(t)
	x.assigned(holder)
	cancelRow(t, db, blocked)
	r.offer(t)
	x.assigned(behind)
	probe.Eventually(t, "the wish is forgotten", func() bool {
		var n int
		if err := db.QueryRow(t.Context(), `select count(*) from task_cancel`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
}

func TestCancelOfARunningTaskReachesItsExecutorAndWinsOverItsOutcome(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	a := x.assigned(id)
	cancelRow(t, db, id)
	r.offer(t)
	if got := x.next("cancel").cancel; got.GetTaskId() != id || got.GetClaim() != 1 {
		t.Errorf("cancel: %v", got)
	}
	x.finish(a, completed(`"too late"`))
	x.next("finished")
	if end := read(t, db, id); end.state != "canceled" || !strings.Contains(end.errorText, task.ReasonCanceled) {
		t.Errorf("afterwards: %+v", end)
	}
}

// The claim and the cancel meet in the row: the claim finds no waiting task, and nobody is given it.
func TestCancelBeforeTheClaimIsWritten(t *testing.T) {
	r, db := alone(t)
	id, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	probe.Eventually(t, "it is unblocked", func() bool { return read(t, db, id).unblocked != nil })
	cancelRow(t, db, id) // nobody hints: the leader still believes that it waits
	x := join(t, r, db, "x", 1)
	next, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	x.assigned(next)
	if end := read(t, db, id); end.state != "canceled" || end.claim != 0 {
		t.Errorf("the canceled one: %+v", end)
	}
}

func TestATaskOfALostExecutorFailsAndItsResourcesPassOn(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	lost, _ := insert(t, db, spec{exclusive: []string{"a"}})
	next, _ := insert(t, db, spec{exclusive: []string{"a"}})
	r.offer(t)
	x.assigned(lost)
	y := join(t, r, db, "y", 1)
	x.hangUp()
	endLife(t, db, "x", true)
	r.offer(t)
	y.assigned(next)
	if end := read(t, db, lost); end.state != "failed" || !strings.Contains(end.errorText, task.ReasonWorkerMissing) {
		t.Errorf("the lost one: %+v", end)
	}
}

// An assignment can be under way when an executor says goodbye. It says so only when all it took over was accepted.
func TestAnExecutorThatEndsInOrderHarmsNoTask(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	x.offered(id)
	y := join(t, r, db, "y", 1)
	endLife(t, db, "x", false)
	r.offer(t)
	if a := y.assigned(id); a.GetClaim() != 2 || a.GetAttempt() != 1 {
		t.Errorf("given again as claim %d, attempt %d; want 2, 1", a.GetClaim(), a.GetAttempt())
	}
}

func TestAMissingExecutorThatIsStillConnectedIsFenced(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	endLife(t, db, "x", true)
	r.offer(t)
	if err := x.endedWith(); !errs.Is(err, errs.Fenced) {
		t.Errorf("the line ended with %v", err)
	}
	again := connect(t, r, "x", x.incarnation, &schedulerv1.Hello{Slots: 1})
	if err := again.endedWith(); !errs.Is(err, errs.Fenced) {
		t.Errorf("the second line ended with %v", err)
	}
}

func TestAnAssignmentThatNeverArrivedGoesBackUnharmed(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	x.offered(id) // as far as the executor is concerned, this message was lost
	x.hangUp()
	again := connect(t, r, "x", x.incarnation, &schedulerv1.Hello{Slots: 1})
	again.next("welcome")
	a := again.assigned(id)
	if a.GetClaim() != 2 || a.GetAttempt() != 1 {
		t.Errorf("given again as claim %d, attempt %d; want 2, 1", a.GetClaim(), a.GetAttempt())
	}
}

func TestAnExecutorKeepsItsTasksOverABrokenLine(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	a := x.assigned(id)
	x.hangUp()
	again := connect(t, r, "x", x.incarnation, &schedulerv1.Hello{
		Slots: 1, Held: []*schedulerv1.Claim{{TaskId: id, Claim: 1}, {TaskId: uuid.NewString(), Claim: 7}},
	})
	again.next("welcome")
	if refused := again.next("refused").refused; refused.GetClaim().GetClaim() != 7 {
		t.Errorf("refused: %v", refused)
	}
	again.mayBegin(claimOf(a)) // it may have heard so before, or not
	again.finish(a, completed("null"))
	again.next("finished")
	awaitState(t, db, id, "completed")
}

func TestAnOutcomeForAForeignClaimIsRefused(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	x.assigned(id)
	y := join(t, r, db, "y", 1)
	y.finish(&taskv1.Assignment{TaskId: id, Claim: 1}, completed("null"))
	y.next("refused")
	x.finish(&taskv1.Assignment{TaskId: id, Claim: 2}, completed("null"))
	x.next("refused")
	if now := read(t, db, id); now.state != "running" {
		t.Errorf("the task is %s", now.state)
	}
}

func TestAnOutcomeThatBreaksTheRulesWritesNothing(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	id, _ := insert(t, db, spec{})
	r.offer(t)
	a := x.assigned(id)
	x.finish(a, completed("{not json"))
	err := x.endedWith()
	if !errs.Is(err, errs.InvalidInput) || !strings.Contains(err.Error(), "report.finished[0].outcome.result_json") {
		t.Errorf("the line ended with %v", err)
	}
	if now := read(t, db, id); now.state != "running" {
		t.Errorf("the task is %s", now.state)
	}
}

func TestTheFirstMessageMustBeAHello(t *testing.T) {
	r, _ := alone(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := r.client.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{Drain: &schedulerv1.Drain{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errs.Is(err, errs.BadProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestADrainingExecutorGetsNothingNew(t *testing.T) {
	r, db := alone(t)
	x, y := join(t, r, db, "x", 5), join(t, r, db, "y", 1)
	x.say(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Drain{Drain: &schedulerv1.Drain{}}})
	probe.Eventually(t, "the drain arrives", func() bool {
		_, err := r.client.ListResources(t.Context(), &schedulerv1.ListResourcesRequest{})
		return err == nil
	})
	id, _ := insert(t, db, spec{})
	r.offer(t)
	y.assigned(id)
}

func TestNobodyIsGivenWhatHeCannotRun(t *testing.T) {
	r, db := alone(t)
	old := connect(t, r, "old", register(t, db, "old"), &schedulerv1.Hello{Slots: 5, Versions: map[string]string{"core": "3.9"}})
	old.next("welcome")
	needs, _ := insert(t, db, spec{versions: `{"core": "3.10"}`})
	unknown, _ := insert(t, db, spec{name: "unknown"})
	plain, _ := insert(t, db, spec{})
	r.offer(t)
	old.assigned(plain) // and not one of the two before it
	for id, want := range map[string]string{needs: "versions", unknown: "no connected executor"} {
		answer, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: id})
		if err != nil || !strings.Contains(answer.GetSummary(), want) || !answer.GetUnblocked() {
			t.Errorf("explain: %v, %v; want %q", answer, err, want)
		}
	}
	young := connect(t, r, "young", register(t, db, "young"), &schedulerv1.Hello{Slots: 5, Versions: map[string]string{"core": "3.10"}})
	young.next("welcome")
	young.assigned(needs)
}

func TestImmediateTasksSettle(t *testing.T) {
	r, db := alone(t)
	// Nobody can run it: one that may wait does, one that would not is canceled; both are settled.
	waits, _ := insert(t, db, spec{immediate: true})
	rejected, _ := insert(t, db, spec{immediate: true, noDefer: true})
	r.offer(t, waits, rejected)
	if now := read(t, db, waits); now.state != "waiting" {
		t.Errorf("the one that may wait is %s", now.state)
	}
	if end := read(t, db, rejected); end.state != "canceled" || !strings.Contains(end.errorText, task.ReasonUnavailable) {
		t.Errorf("the one that would not wait: %+v", end)
	}

	x := join(t, r, db, "x", 0)
	a := x.assigned(waits) // on the immediate slot
	if !a.GetImmediate() {
		t.Error("the assignment does not say that it is immediate")
	}
	x.finish(a, completed("null"))
	x.next("finished")

	// Free: settled when it is final.
	runs, _ := insert(t, db, spec{immediate: true, noDefer: true, exclusive: []string{"a"}})
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		r.offer(t, runs)
	}()
	a = x.assigned(runs)
	select {
	case <-settled:
		t.Error("settled while it runs")
	default:
	}
	// Blocked by it: rejected at once.
	blocked, _ := insert(t, db, spec{immediate: true, noDefer: true, shared: []string{"a"}})
	r.offer(t, blocked)
	if end := read(t, db, blocked); end.state != "canceled" || end.unblocked != nil {
		t.Errorf("the blocked one: %+v", end)
	}
	x.finish(a, completed("null"))
	x.next("finished")
	<-settled
	if end := read(t, db, runs); end.state != "completed" {
		t.Errorf("the free one is %s", end.state)
	}
}

func TestFollowersHearOfEveryChange(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 1)
	stream, err := r.client.Follow(t.Context(), &schedulerv1.FollowRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.GetChanges()) != 0 {
		t.Fatalf("first message: %v, %v", first, err)
	}
	id, _ := insert(t, db, spec{})
	r.offer(t)
	x.finish(x.assigned(id), completed("null"))
	var got []taskv1.State
	for len(got) < 2 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range m.GetChanges() {
			got = append(got, c.GetState())
		}
	}
	if want := []taskv1.State{taskv1.State_STATE_RUNNING, taskv1.State_STATE_COMPLETED}; !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
}

func TestExplainNamesTheBlockerAndResourcesShowTheQueue(t *testing.T) {
	r, db := alone(t)
	x := join(t, r, db, "x", 5)
	holder, _ := insert(t, db, spec{exclusive: []string{"a"}})
	second, _ := insert(t, db, spec{shared: []string{"a"}})
	third, _ := insert(t, db, spec{exclusive: []string{"a", "b"}})
	r.offer(t)
	x.assigned(holder)
	answer, err := r.client.Explain(t.Context(), &schedulerv1.ExplainRequest{TaskId: third})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetWaits()) != 1 || answer.GetWaits()[0].GetResource() != "a" || answer.GetWaits()[0].GetAhead() != 2 ||
		answer.GetWaits()[0].GetHolders()[0].GetTaskId() != holder || !strings.Contains(answer.GetSummary(), holder) {
		t.Errorf("explain: %v", answer)
	}
	found, err := r.client.GetResource(t.Context(), &schedulerv1.GetResourceRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var queue []string
	for _, use := range found.GetQueue() {
		queue = append(queue, use.GetTaskId())
	}
	if !slices.Equal(queue, []string{holder, second, third}) || !found.GetQueue()[0].GetGranted() || found.GetQueue()[1].GetGranted() {
		t.Errorf("resource a: %v", found)
	}
	list, err := r.client.ListResources(t.Context(), &schedulerv1.ListResourcesRequest{})
	if err != nil || list.GetTotal() != 2 || list.GetResources()[0].GetName() != "a" || list.GetResources()[0].GetWaiting() != 2 {
		t.Errorf("resources: %v, %v", list, err)
	}
	if _, err := r.client.GetResource(t.Context(), &schedulerv1.GetResourceRequest{Name: "nobody"}); !errs.Is(err, errs.ResourceUnknown) {
		t.Errorf("unknown resource: %v", err)
	}
}

func TestAStandbyTakesOverAndNothingIsLost(t *testing.T) {
	db := pgtest.New(t)
	one := start(t, db.Config().ConnString(), config())
	one.awaitLeading(t)
	two := start(t, db.Config().ConnString(), config())
	x := join(t, one, db, "x", 1)
	runs, _ := insert(t, db, spec{exclusive: []string{"a"}})
	waits, _ := insert(t, db, spec{exclusive: []string{"a"}})
	a := x.assigned(runs)
	if _, err := two.client.Offer(t.Context(), &schedulerv1.OfferRequest{}); !errs.Is(err, errs.NotLeading) {
		t.Errorf("a standby answers %v", err)
	}
	one.stop()
	two.awaitLeading(t)
	again := connect(t, two, "x", x.incarnation, &schedulerv1.Hello{Slots: 1, Held: []*schedulerv1.Claim{{TaskId: runs, Claim: a.GetClaim()}}})
	again.next("welcome")
	again.mayBegin(claimOf(a))
	again.finish(a, completed("null"))
	again.next("finished")
	again.assigned(waits)
}

// Nothing that the scheduler sends needs a session of its own.
func TestEverythingWorksThroughATransactionPooler(t *testing.T) {
	db := pgtest.New(t)
	pooled := bouncer.Start(t, db.Config().ConnString(), 2)
	r := start(t, pooled, config())
	r.awaitLeading(t)
	x := join(t, r, db, "x", 4)
	for range 20 {
		id, _ := insert(t, db, spec{exclusive: []string{"a"}})
		r.offer(t)
		x.finish(x.assigned(id), completed("null"))
		x.next("finished")
		awaitState(t, db, id, "completed")
	}
}

func TestADatabaseThatComesBackFindsTheLeaderAgain(t *testing.T) {
	db := pgtest.New(t)
	r := start(t, db.Config().ConnString(), config())
	r.awaitLeading(t)
	x := join(t, r, db, "x", 1)
	// All sessions of the scheduler die, as in a restart of the server.
	if _, err := db.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatal(err)
	}
	if err := x.endedWith(); !errs.Is(err, errs.NotLeading) {
		t.Errorf("the line ended with %v", err)
	}
	r.awaitLeading(t)
	again := connect(t, r, "x", x.incarnation, &schedulerv1.Hello{Slots: 1})
	again.next("welcome")
	id, _ := insert(t, db, spec{})
	again.assigned(id)
}

// A life that nobody knows (of a restored database, say) can't be declared missing by anybody.
func TestATaskOfAnUnknownLifeFails(t *testing.T) {
	db := pgtest.New(t)
	id, seq := insert(t, db, spec{exclusive: []string{"a"}})
	store := scheduler.NewStore(db, time.Second)
	epoch := take(t, store, "x").Epoch
	plan := &scheduler.Plan{Claim: []scheduler.Give{{Seq: seq, Executor: "x", Incarnation: uuid.NewString()}}}
	if _, err := store.Tick(t.Context(), epoch, plan); err != nil {
		t.Fatal(err)
	}
	r := start(t, db.Config().ConnString(), config())
	r.awaitLeading(t)
	if end := awaitState(t, db, id, "failed"); !strings.Contains(end.errorText, task.ReasonWorkerMissing) {
		t.Errorf("afterwards: %+v", end)
	}
}
