package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/client"
	record "github.com/sluice-tasks/sluice/pkg/history"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/wire"
)

// soak is a system that is in trouble all the time: a server of its own, two schedulers, one of each other service, two executors.
// The first executor knows the gateway only, the second knows the schedulers and the heartbeat service.
type soak struct {
	*system

	seed     uint64
	calm     time.Duration // how long a rest lasts when all tasks have ended
	services *services
	server   *pgtest.Server
	admin    *pgxpool.Pool
	wires    map[string]*wire.Wire
	metrics  map[string]string // addresses by process
	path     string            // of the file in which tasks write
	clients  []*client.Client

	began time.Time
	zero  int64         // the same moment by the clock of the tasks
	epoch time.Time     // the same moment by the database's
	lives []*process    // all processes that ever were
	done  []happened    // what happened, with the times at which it really did
	reads []soakReading // what processes used at rest

	mu       sync.Mutex
	calls    int
	returned map[string]record.Task // what was acknowledged, by id
	recent   []string               // its ids, the last one last
	refused  map[string]int         // the other calls, by their error
	canceled map[string]bool        // for which a cancel was asked for
}

// happened is a fault that was done.
type happened struct {
	soakFault

	from, to time.Time
}

func newSoak(t *testing.T, seed uint64, calm time.Duration) *soak {
	t.Helper()
	r := &soak{
		seed: seed, calm: calm, wires: map[string]*wire.Wire{}, metrics: map[string]string{},
		returned: map[string]record.Task{}, refused: map[string]int{}, canceled: map[string]bool{},
	}
	r.server = pgtest.Own(t, pgtest.Options{})
	v := newServices(t, r.server.URL()).migrate(t)
	r.services, v.ttl, v.reaching = v, soakTTL, map[string]string{}
	r.system = &system{t: t, dir: v.dir, work: filepath.Join(v.dir, "work"), processes: map[string]*process{}}
	v.system = r.system
	second := freeAddrs(t, 1)[0]
	v.others = []string{second}
	addrs := map[string]string{"scheduler-1": v.addrs["scheduler"], "scheduler-2": second, "gateway": v.addrs["gateway"], "heartbeat": v.addrs["heartbeat"]}
	for _, name := range soakWires {
		from, to, _ := strings.Cut(name, ">")
		if to == "database" {
			r.wires[name], v.reaching[from] = wire.Database(t, r.server.URL())
		} else {
			r.wires[name] = wire.Start(t, addrs[to])
		}
	}
	r.path = r.file("soak")
	if err := os.WriteFile(r.path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	names := append(append([]string{}, soakServices...), soakExecutors...)
	for i, addr := range freeAddrs(t, len(names)) {
		r.metrics[names[i]] = addr
	}
	t.Cleanup(r.tell)
	r.admin = pgtest.Open(t, r.server.AdminURL())
	for _, name := range names {
		r.launch(name)
	}
	for _, name := range names {
		service, _, _ := strings.Cut(name, "-")
		r.processes[name].ready(t, "sluice "+service+" is ready")
	}
	r.connect(t, "http://"+v.addrs["rest"], v.addrs["gateway"])
	r.clients = []*client.Client{r.Client}
	direct, err := client.Dial(v.addrs["dispatcher"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = direct.Close() }) // it only fails when closed twice
	r.clients = append(r.clients, direct)
	r.setClocks()
	return r
}

// setClocks notes one moment by all clocks. On a busy machine the answer of the database may take so long that every task would seem to
// have outlived its end by it, so the quickest of many answers counts.
func (r *soak) setClocks() {
	r.t.Helper()
	quickest := time.Hour
	for range 50 {
		began, zero := time.Now(), monotonic(r.t)
		shown := pgtest.One[time.Time](r.t, r.admin, `select clock_timestamp()`)
		if took := time.Since(began); took < quickest {
			quickest = took
			r.began, r.zero, r.epoch = began, zero, shown.Add(-took/2)
		}
	}
}

// tell shows, when the test has failed, what all processes wrote that was not just information.
func (r *soak) tell() {
	if !r.t.Failed() {
		return
	}
	for _, p := range r.lives {
		for line := range strings.Lines(p.stderr()) {
			if !strings.Contains(line, `"level":"INFO"`) {
				r.t.Logf("%s: %s", p.name, strings.TrimSpace(line))
			}
		}
	}
}

// monotonic is the clock that all processes have in common.
func monotonic(t testing.TB) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano()
}

// launch starts a process by its name and does not wait until it is ready.
func (r *soak) launch(name string) {
	r.t.Helper()
	service, number, _ := strings.Cut(name, "-")
	flags := map[string]string{"metrics-addr": r.metrics[name]}
	var p *process
	switch service {
	case "executor":
		through := func(to string) string { return r.wires[name+">"+to].Addr() }
		own := r.services.flags("executor")
		delete(own, "allow")
		delete(own, "test-tasks")
		for flag, value := range flags {
			own[flag] = value
		}
		own["name"], own["immediate-timeout"] = name, "5s"
		if number == "1" {
			own["addr"] = through("gateway")
		} else {
			own["scheduler-addr"] = through("scheduler-1") + "," + through("scheduler-2")
			own["heartbeat-addr"] = through("heartbeat")
		}
		c := command{name: name, path: programs.get(r.t, "github.com/sluice-tasks/sluice/deploy/e2e/soaker"), env: map[string]string{}}
		for flag, value := range own {
			c.args = append(c.args, "--"+flag+"="+value)
		}
		p = launch(r.t, r.dir, c)
		r.processes[name] = p
		stopAtTheEnd(r.t, p)
	case "scheduler":
		flags["lease"], flags["database-url"] = soakLease.String(), r.services.reaching[name]
		if number == "2" {
			flags["grpc-addr"] = r.services.others[0]
		}
		p = r.services.launch(r.t, name, service, flags)
	default:
		p = r.services.launch(r.t, name, service, flags)
	}
	r.lives = append(r.lives, p)
}

// begin has a fault begin, and returns what ends it. Both are done by the test's own goroutine.
func (r *soak) begin(f soakFault) (end func()) {
	r.t.Helper()
	did := happened{soakFault: f, from: time.Now()}
	finish := r.befall(f)
	return func() {
		if finish != nil {
			finish()
		}
		did.to = time.Now()
		r.done = append(r.done, did)
		if f.For > 0 {
			r.t.Logf("%s  is over: %s of %s", r.clock(), f.Kind, f.Target)
		}
	}
}

func (r *soak) befall(f soakFault) (end func()) {
	r.t.Helper()
	way := r.wires[f.Target]
	switch f.Kind {
	case soakKill:
		r.processes[f.Target].kill()
		return func() { r.launch(f.Target) }
	case soakTerm:
		p := r.processes[f.Target]
		p.signal(syscall.SIGTERM)
		return func() {
			if code := p.wait(r.t); code != 0 {
				r.t.Errorf("%s ended with code %d after SIGTERM", f.Target, code)
			}
			r.launch(f.Target)
		}
	case soakStopShort, soakStopLong:
		p := r.processes[f.Target]
		goOn := func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
		_ = p.cmd.Process.Signal(syscall.SIGSTOP)
		r.t.Cleanup(goOn) // whatever ends the test before
		return goOn
	case soakChild:
		if children := childrenOf(r.processes[f.Target].cmd.Process.Pid); len(children) > 0 {
			_ = syscall.Kill(children[f.Number%len(children)], syscall.SIGKILL) // it may have ended
		}
	case soakHold:
		way.Hold()
		return way.Pass
	case soakDrop:
		way.Drop()
		return way.Pass
	case soakDropUp:
		way.ToServer.Drop()
		return way.Pass
	case soakDropDown:
		way.ToClient.Drop()
		return way.Pass
	case soakDelay:
		late := time.Duration(50+f.Number/2) * time.Millisecond
		way.ToServer.Delay(late)
		way.ToClient.Delay(late)
		return way.Pass
	case soakDrip:
		way.ToServer.Drip(2000 + 20*f.Number)
		way.ToClient.Drip(2000 + 20*f.Number)
		return way.Pass
	case soakCut:
		way.Cut()
	case soakHangUp:
		way.HangUp()
	case soakRefuse:
		return way.Refuse()
	case soakPostgres:
		r.server.Shutdown()
		return r.server.Start
	case soakCrash:
		r.server.Kill()
		return r.server.Start
	case soakBackend:
		if backends := r.server.Processes(); len(backends) > 0 {
			_ = syscall.Kill(backends[f.Number%len(backends)], syscall.SIGKILL) // it may have ended
		}
	case soakCancels:
		r.storm(10 + f.Number%50)
	default:
		r.t.Fatalf("nobody knows how to do %q", f.Kind)
	}
	return nil
}

// childrenOf lists the processes that a process has started and that live.
func childrenOf(pid int) []int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children"))
	if err != nil {
		return nil
	}
	var children []int
	for _, field := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			children = append(children, child)
		}
	}
	return children
}
