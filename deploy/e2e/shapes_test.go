package e2e

import (
	"crypto/rand"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// shapes are those that every story is told in.
var shapes = map[string]func(*testing.T) *system{
	"dev":                        func(t *testing.T) *system { return newDev(t, pgtest.Dir(t), nil).start(t) },
	"services":                   func(t *testing.T) *system { return newServices(t, pgtest.EmptyURL(t)).migrate(t).start(t) },
	"services through PgBouncer": func(t *testing.T) *system { return newPooled(t).migrate(t).start(t) },
}

const (
	slots = "4"
	// immediateTimeout is shorter than usual: a story waits for it.
	immediateTimeout = time.Second
)

// dev is everything in one process, which can be started again and again on the same data directory.
type dev struct {
	t       *testing.T // until it ends, the process runs
	dir     string
	user    *account
	mark    string // an entry of the environment of all its processes but PostgreSQL's
	process *process
}

// newDev prepares a dev below dir that runs as user.
func newDev(t *testing.T, dir string, user *account) *dev {
	t.Helper()
	d := &dev{t: t, dir: dir, user: user, mark: "SLUICE_E2E_MARK=" + fresh("dev")}
	user.own(t, dir)
	return d
}

func (d *dev) dataDir() string { return filepath.Join(d.dir, "data") }

// command is what is started, with further flags.
func (d *dev) command(flags ...string) command {
	name, mark, _ := strings.Cut(d.mark, "=")
	env := map[string]string{name: mark}
	if d.user != nil {
		env["HOME"] = d.dir
	}
	args := []string{
		"dev", "--data-dir", d.dataDir(), "--rest-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0", "--slots", slots,
		"--immediate-timeout", immediateTimeout.String(), "--log-level", "info",
	}
	return command{name: "dev", args: append(args, flags...), env: env, user: d.user}
}

var readyLine = regexp.MustCompile(`^sluice is ready: REST at (http://[0-9.:]+)/pulp/api/v3/, gRPC at ([0-9.:]+)$`)

// start starts it and waits until it is ready.
func (d *dev) start(t *testing.T) *system {
	t.Helper()
	d.process = launch(t, d.t.TempDir(), d.command())
	s := &system{t: t, dir: d.dir, work: filepath.Join(d.dataDir(), "work"), processes: map[string]*process{"dev": d.process}}
	stopAtTheEnd(d.t, d.process)
	line := d.process.ready(t, "sluice is ready")
	addresses := readyLine.FindStringSubmatch(line)
	if addresses == nil {
		t.Fatalf("the ready line is %q", line)
	}
	s.connect(d.t, addresses[1], addresses[2])
	return s
}

// left lists what is left of it, each process as one line.
func (d *dev) left() []string { return append(left(d.dataDir()), marked(d.mark)...) }

// stopAtTheEnd stops a process that still runs when the test has ended; it must end in good order.
func stopAtTheEnd(t *testing.T, p *process) {
	t.Cleanup(func() {
		if p.ended() {
			return
		}
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ended with code %d\n%s", p.name, code, p.stderr())
		}
	})
}

// services is one process for each service. Their addresses are fixed, so that each can be started again.
type services struct {
	t        *testing.T // until it ends, the processes run
	database string
	reaching map[string]string // the database's URL for a service that is to reach it another way
	ttl      time.Duration     // of the executors
	byEnv    bool              // wired by the environment instead of flags
	mark     string            // an entry of the environment of all processes, those of tasks too; empty: none
	env      map[string]string // more of that
	dir      string
	addrs    map[string]string
	others   []string // where further schedulers are
	system   *system
}

// serviceNames in the order in which a person would start them.
var serviceNames = []string{"dispatcher", "scheduler", "status", "heartbeat", "gateway", "executor"}

// newServices prepares services on a database. With SLUICE_E2E_POOLED=1 in the environment they reach it through a PgBouncer.
func newServices(t *testing.T, database string) *services {
	t.Helper()
	if os.Getenv("SLUICE_E2E_POOLED") != "" {
		database = bouncer.Start(t, database, bouncer.Servers)
	}
	v := &services{t: t, database: database, ttl: 30 * time.Second, dir: t.TempDir(), addrs: map[string]string{}}
	names := append([]string{"rest"}, serviceNames...)
	for i, addr := range freeAddrs(t, len(names)) {
		v.addrs[names[i]] = addr
	}
	return v
}

// flags of a service by name.
func (v *services) flags(service string) map[string]string {
	flags := map[string]string{"log-level": "info"}
	if service != "executor" {
		flags["grpc-addr"] = v.addrs[service]
	}
	switch service {
	case "dispatcher", "status":
		flags["scheduler-addr"] = v.schedulers()
	case "scheduler":
		flags["lease"] = "1s"
	case "gateway":
		flags["rest-addr"] = v.addrs["rest"]
		for _, name := range []string{"dispatcher", "scheduler", "status", "heartbeat"} {
			flags[name+"-addr"] = v.addrs[name]
		}
		flags["scheduler-addr"] = v.schedulers()
	case "executor":
		flags["addr"] = v.addrs["gateway"]
		flags["name"] = "executor-1"
		flags["slots"] = slots
		flags["immediate-timeout"] = immediateTimeout.String()
		flags["work-dir"] = filepath.Join(v.dir, "work")
		flags["allow"] = "*"
		flags["test-tasks"] = "true"
		flags["worker-ttl"] = v.ttl.String()
		flags["cancel-grace"] = "2s"
		flags["task-grace-interval"] = "2s"
		flags["diagnostics"] = "memory,logs"
	}
	switch service {
	case "dispatcher", "scheduler", "status", "heartbeat":
		flags["database-url"] = v.database
		if url, own := v.reaching[service]; own {
			flags["database-url"] = url
		}
	}
	return flags
}

// schedulers are the addresses among which the leader is found.
func (v *services) schedulers() string {
	return strings.Join(append([]string{v.addrs["scheduler"]}, v.others...), ",")
}

// command is how a service is started, with some flags replaced.
func (v *services) command(service string, replaced map[string]string) command {
	c := command{name: service, args: []string{service}, env: map[string]string{}}
	if name, mark, marked := strings.Cut(v.mark, "="); marked {
		c.env[name] = mark
	}
	maps.Copy(c.env, v.env)
	flags := v.flags(service)
	for name, value := range replaced {
		flags[name] = value
	}
	for name, value := range flags {
		if v.byEnv {
			c.env["SLUICE_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = value
		} else {
			c.args = append(c.args, "--"+name+"="+value)
		}
	}
	return c
}

// launch starts a service and does not wait until it is ready.
func (v *services) launch(t *testing.T, name, service string, replaced map[string]string) *process {
	t.Helper()
	p := launch(t, v.dir, v.command(service, replaced))
	v.system.processes[name] = p
	stopAtTheEnd(v.t, p)
	return p
}

// restart starts a service again that was killed, and waits until it is ready.
func (v *services) restart(t *testing.T, service string) {
	t.Helper()
	v.launch(t, service, service, nil).ready(t, "sluice "+service+" is ready")
}

// start starts all services in this order, by default that of serviceNames, without waiting in between.
func (v *services) start(t *testing.T, order ...string) *system {
	t.Helper()
	if len(order) == 0 {
		order = serviceNames
	}
	v.system = &system{t: t, dir: v.dir, work: filepath.Join(v.dir, "work"), processes: map[string]*process{}}
	for _, service := range order {
		v.launch(t, service, service, nil)
	}
	for _, service := range order {
		v.system.processes[service].ready(t, "sluice "+service+" is ready")
	}
	v.system.connect(v.t, "http://"+v.addrs["rest"], v.addrs["gateway"])
	v.system.addUser(t)
	return v.system
}

// migrate brings the database to the current schema by the command for it.
func (v *services) migrate(t *testing.T) *services {
	t.Helper()
	p := launch(t, v.dir, command{name: "migrate", args: []string{"migrate"}, env: map[string]string{"DATABASE_URL": v.database}})
	if code := p.wait(t); code != 0 {
		t.Fatalf("migrate ended with code %d\n%s", code, p.stderr())
	}
	return v
}

// givenAddrs are all that freeAddrs has returned. It is a global as tests have no common caller but TestMain.
var givenAddrs sync.Map

// freeAddrs returns loopback addresses where nobody listens. They lie below the ports that the kernel gives to outgoing
// connections: while a service is down, such a connection could take its port, or even connect to itself.
// None is given twice: services that are not yet started, or down, need theirs later.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	const first, last = 12000, 22000
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		if tries > 1000 {
			t.Fatal("found no free ports")
		}
		offset, err := rand.Int(rand.Reader, big.NewInt(last-first))
		if err != nil {
			t.Fatal(err)
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.FormatInt(first+offset.Int64(), 10))
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		listener.Close()
		if _, before := givenAddrs.LoadOrStore(addr, true); before {
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// fresh makes a name that nobody else has.
func fresh(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()[:8]) }

// unprivileged is an ordinary user to run as; the test is skipped where there is no choice.
func unprivileged(t *testing.T) *account {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the tests run as an ordinary user already")
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 4 || fields[0] != "nobody" {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := strconv.ParseUint(fields[3], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return &account{name: fields[0], uid: uint32(uid), gid: uint32(gid)}
	}
	t.Skip("there is no user nobody")
	return nil
}
