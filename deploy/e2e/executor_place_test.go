package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// directories has tasks fill their working directories, and end in every way.
func directories(c *crew) {
	addr := freeAddrs(c.t, 1)[0]
	executor := c.executor(map[string]string{"cancel-grace": "500ms", "grpc-addr": addr})
	fill := "ls -A; pwd; mkdir -p a/b; echo x > a/b/c; ln -s / root; chmod 500 a/b"
	for _, story := range []struct {
		says   string
		end    func(*gate, client.Task)
		script string
		state  task.State
	}{
		{"completed", func(g *gate, _ client.Task) { g.open() }, "%s; cat %s", task.Completed},
		{"failed", func(g *gate, _ client.Task) { g.open() }, "%s; cat %s; exit 1", task.Failed},
		{"canceled", func(_ *gate, one client.Task) {
			if _, err := c.Cancel(c.soon(), one.ID); err != nil {
				c.t.Fatal(err)
			}
		}, "%s; cat %s", task.Canceled},
		{"killed", func(g *gate, _ client.Task) { g.open() }, "%s; cat %s; kill -9 $PPID; cat <> %[2]s", task.Failed},
	} {
		g := c.gate()
		one := c.dispatch(shell(story.script, fill, g.path))
		g.reached()
		dir := c.directory(1, one.ID)
		for _, path := range []string{dir, filepath.Dir(dir)} {
			if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeDir|0o700 {
				c.t.Errorf("%s: the directory %s is %v, %v; want mode 0700", story.says, path, info, err)
			}
		}
		if _, err := os.Lstat(filepath.Join(dir, "a/b/c")); err != nil {
			c.t.Errorf("%s: the task does not work there: %v", story.says, err)
		}
		story.end(g, one)
		ended := c.end(one.ID)[0]
		c.is(story.state, ended)
		c.gone(dir)
		if text, _, err := c.Log(c.soon(), one.ID); err != nil || text != dir+"\n" {
			c.t.Errorf("%s: the task found %q, %v; want an empty directory %s", story.says, text, err, dir)
		}
	}
	if _, err := os.ReadDir("/"); err != nil {
		c.t.Error(err)
	}
	c.stops(executor, syscall.SIGTERM)
	c.gone(filepath.Join(c.work, c.name(1)))
}

func leftovers(c *crew) {
	// One that lives shares the folder. What it has, stays.
	c.executor(map[string]string{"slots": "1"})
	living, running := c.held()
	killed := c.executor(map[string]string{"slots": "2", "worker-ttl": "1s"})
	g := c.gate()
	lost := c.dispatch(shell("mkdir -p a; echo x > a/b; chmod 500 a; cat %s", g.path))
	g.reached()
	killed.kill()
	left := c.directory(2, lost.ID)
	if _, err := os.Lstat(filepath.Join(left, "a/b")); err != nil {
		c.t.Fatalf("the killed executor left nothing: %v", err)
	}
	bystander := filepath.Join(c.work, "somebody")
	if err := os.Mkdir(bystander, 0o700); err != nil {
		c.t.Fatal(err)
	}
	c.executor(nil)
	c.gone(left, filepath.Join(c.work, c.name(2)))
	for _, path := range []string{c.directory(1, running.ID), bystander} {
		if _, err := os.Lstat(path); err != nil {
			c.t.Errorf("what belongs to others is gone: %v", err)
		}
	}
	if one := c.end(lost.ID)[0]; one.State != task.Failed || one.Error.Code != task.CodeMissing {
		c.t.Errorf("its task is %s: %v", one.State, one.Error)
	}
	living.open()
	c.is(task.Completed, c.end(running.ID)...)
}

// workers runs some tasks one after the other, and returns the process that ran each.
func (c *crew) workers(n int) (pids []string) {
	c.t.Helper()
	for range n {
		one := c.run(shell("echo $PPID"))
		var result struct{ Stdout string }
		if err := json.Unmarshal(one.Result, &result); err != nil {
			c.t.Fatalf("%v in %s, %v", err, one.Result, one.Error)
		}
		pids = append(pids, result.Stdout)
	}
	return pids
}

func recycles(c *crew) {
	for most, want := range map[string][]int{"100": {4}, "2": {2, 2}, "1": {1, 1, 1, 1}} {
		executor := c.executor(map[string]string{"tasks-per-child": most})
		pids := c.workers(4)
		var runs []int // of each process
		for i, pid := range pids {
			if i == 0 || pid != pids[i-1] {
				runs = append(runs, 0)
			}
			runs[len(runs)-1]++
		}
		if !slices.Equal(runs, want) {
			c.t.Errorf("with at most %s tasks to a process, four tasks ran in %q", most, pids)
		}
		c.stops(executor, syscall.SIGTERM)
	}
}

func limitsMemory(c *crew) {
	executor := c.executor(map[string]string{"child-memory": "512MiB"})
	g, bystander := c.held()
	much := c.run(client.Spec{Name: "test.memory", Args: []int{1 << 30}})
	if much.State != task.Failed || much.Error.Code != task.CodeProcessDied {
		c.t.Errorf("a task that takes a GiB is %s with %+v", much.State, much.Error)
	}
	if text, _, err := c.Log(c.soon(), much.ID); err != nil || !strings.Contains(text, "memory") && !strings.Contains(text, "allocate") { // the race detector's own word
		c.t.Errorf("its log does not say why: %q, %v", text, err)
	}
	little := c.run(client.Spec{Name: "test.memory", Args: []int{32 << 20}})
	g.open()
	c.is(task.Completed, little, c.end(bystander.ID)[0])
	c.stops(executor, syscall.SIGTERM)
}

func idle(c *crew) {
	executor := c.executor(nil)
	pid := executor.cmd.Process.Pid
	check := func(when string, workers int) {
		c.t.Helper()
		if started := children(pid); len(started) != workers {
			c.t.Errorf("%s it has the children %v, want %d", when, started, workers)
		}
		remotes, err := remotesOf(pid)
		if err != nil {
			c.t.Fatal(err)
		}
		remotes = slices.DeleteFunc(remotes, func(addr string) bool { return addr == c.grpc })
		if len(remotes) > 0 {
			c.t.Errorf("%s it is connected to %q, want only the gateway at %s", when, remotes, c.grpc)
		}
	}
	check("before the first task", 0)
	c.is(task.Completed, c.run(client.Spec{Name: "test.noop"})) // shares its process
	check("after a task of its own process", 0)
	c.is(task.Completed, c.run(client.Spec{Name: "test.sleep", Args: []int{0}}))
	check("after a task in a process of its own", 1)
	c.is(task.Completed, c.run(client.Spec{Name: "test.sleep", Args: []int{0}}))
	check("after another one", 1)

	// The database sees services, through a pooler perhaps only one of them, and nobody else.
	db := pgtest.Open(c.t, c.services.database)
	names := pgtest.One[[]string](c.t, db, `
		select array_agg(distinct application_name order by application_name) from pg_stat_activity
		where datname = current_database() and application_name like 'sluice %'`)
	known := []string{"sluice dispatcher", "sluice heartbeat", "sluice scheduler", "sluice status"}
	if len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(known, name) }) {
		c.t.Errorf("connected to the database are %q, want some of %q", names, known)
	}
	// A child is given nothing with which it could get there.
	one := c.run(shell("env"))
	var result struct{ Stdout string }
	if err := json.Unmarshal(one.Result, &result); err != nil {
		c.t.Fatalf("%v in %s, %v", err, one.Result, one.Error)
	}
	for line := range strings.Lines(result.Stdout) {
		if strings.HasPrefix(line, "DATABASE_URL=") || strings.HasPrefix(line, "SLUICE_") &&
			!strings.HasPrefix(line, "SLUICE_TASK_") && !strings.HasPrefix(line, "SLUICE_EXECUTOR_TREE=") {
			c.t.Errorf("a task finds %q in its environment", line)
		}
	}
	c.stops(executor, syscall.SIGTERM)
}

// remotesOf lists the addresses that a process is connected to over TCP.
func remotesOf(pid int) (remotes []string, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	open, err := filepath.Glob(proc + "/fd/*")
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, path := range open {
		target, err := os.Readlink(path)
		if err != nil {
			continue // it was closed
		}
		if inode, isSocket := strings.CutPrefix(target, "socket:["); isSocket {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(proc, "net", table))
		if os.IsNotExist(err) {
			continue // a machine without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			// number: local remote state queues timer retransmits uid timeout inode ...
			fields := strings.Fields(line)
			if len(fields) < 10 || !own[fields[9]] || fields[3] == listens {
				continue
			}
			addr, err := procAddr(fields[2])
			if err != nil {
				return nil, fmt.Errorf("%q in %s: %w", fields[2], table, err)
			}
			remotes = append(remotes, addr)
		}
	}
	return remotes, nil
}

// listens is the state of a socket in /proc/net/tcp.
const listens = "0A"

// procAddr reads an address as /proc/net/tcp has it: in words of four bytes, each in the order of the machine.
func procAddr(text string) (string, error) {
	host, port, _ := strings.Cut(text, ":")
	ip, err := hex.DecodeString(host)
	if err != nil {
		return "", err
	}
	for word := range slices.Chunk(ip, 4) {
		slices.Reverse(word)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return "", err
	}
	if mapped := bytes.Contains(ip, []byte{0xff, 0xff}); mapped && len(ip) == net.IPv6len {
		ip = ip[12:]
	}
	return net.JoinHostPort(net.IP(ip).String(), strconv.FormatUint(number, 10)), nil
}
