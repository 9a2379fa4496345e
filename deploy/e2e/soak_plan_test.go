package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// soakFault is one thing that goes wrong in a soak, drawn before it begins.
type soakFault struct {
	// At is when it begins, from the beginning of its half, and For how long it lasts.
	At, For time.Duration
	// Kind is what happens, to whom Target says: a process, a wire or the database.
	Kind, Target string
	// Number is one more thing that was drawn, for kinds that have a choice.
	Number int
}

func (f soakFault) String() string {
	return fmt.Sprintf("%7.3fs  %-22s %-28s for %.3fs  (%d)", f.At.Seconds(), f.Kind, f.Target, f.For.Seconds(), f.Number)
}

// Kinds of faults.
const (
	soakKill       = "kill -9"
	soakTerm       = "SIGTERM"
	soakStopShort  = "SIGSTOP, short"
	soakStopLong   = "SIGSTOP, beyond lease"
	soakChild      = "kill -9 of a child"
	soakHold       = "network holds"
	soakDrop       = "network drops"
	soakDropUp     = "network drops, to server"
	soakDropDown   = "network drops, to client"
	soakDelay      = "network is late"
	soakDrip       = "network drips"
	soakCut        = "connections reset"
	soakHangUp     = "connections closed"
	soakRefuse     = "nobody answers"
	soakPostgres   = "database is restarted"
	soakCrash      = "database crashes"
	soakBackend    = "kill -9 of a backend"
	soakCancels    = "cancel storm"
	soakLease      = 2 * time.Second // of schedulers
	soakTTL        = 6 * time.Second // of executors
	soakFirst      = time.Second     // nothing goes wrong before
	soakBackends   = "database"
	soakEverything = "tasks"
)

// The processes and wires of a soak.
var (
	soakExecutors = []string{"executor-1", "executor-2"}
	soakServices  = []string{"dispatcher", "status", "heartbeat", "gateway", "scheduler-1", "scheduler-2"}
	// soakWires lead from the first to the second.
	soakWires = []string{
		"executor-1>gateway", "executor-2>scheduler-1", "executor-2>scheduler-2", "executor-2>heartbeat",
		"dispatcher>database", "status>database", "heartbeat>database", "scheduler-1>database", "scheduler-2>database",
	}
)

// soakKinds are what can happen, to whom, how often compared with the others, and for how long: between shortest and longest.
var soakKinds = []struct {
	kind              string
	targets           []string
	weight            int
	shortest, longest time.Duration
}{
	{soakKill, soakServices, 12, 0, 3 * time.Second},
	{soakKill, soakExecutors, 8, 0, 3 * time.Second},
	{soakTerm, append(slices.Clone(soakServices), soakExecutors...), 6, 0, 2 * time.Second},
	{soakStopShort, append(slices.Clone(soakServices), soakExecutors...), 8, 200 * time.Millisecond, 1500 * time.Millisecond},
	{soakStopLong, []string{"scheduler-1", "scheduler-2", "dispatcher", "status", "gateway"}, 6, 3 * time.Second, 6 * time.Second},
	{soakStopLong, append([]string{"heartbeat"}, soakExecutors...), 8, soakTTL, 2 * soakTTL},
	{soakChild, soakExecutors, 5, 0, 0},
	{soakHold, soakWires, 4, 500 * time.Millisecond, 8 * time.Second},
	{soakDrop, soakWires, 5, 500 * time.Millisecond, 8 * time.Second},
	{soakDropUp, soakWires, 4, 500 * time.Millisecond, 8 * time.Second},
	{soakDropDown, soakWires, 4, 500 * time.Millisecond, 8 * time.Second},
	{soakDelay, soakWires, 4, 2 * time.Second, 8 * time.Second},
	{soakDrip, soakWires, 3, 2 * time.Second, 8 * time.Second},
	{soakCut, soakWires, 4, 0, 0},
	{soakHangUp, soakWires, 3, 0, 0},
	{soakRefuse, soakWires, 4, 500 * time.Millisecond, 4 * time.Second},
	{soakPostgres, []string{soakBackends}, 2, 0, time.Second},
	{soakCrash, []string{soakBackends}, 3, 0, time.Second},
	{soakBackend, []string{soakBackends}, 3, 0, 0},
	{soakCancels, []string{soakEverything}, 8, 0, 0},
}

// drawFaults draws what goes wrong in one half of a soak: the same for the same seed, half and length. At most one thing at a time
// befalls each process, wire and database; different ones may be in trouble together.
func drawFaults(seed, half uint64, length time.Duration) []soakFault {
	random := rand.New(rand.NewPCG(seed, half))
	between := func(shortest, longest time.Duration) time.Duration {
		if longest <= shortest {
			return shortest
		}
		return (shortest + time.Duration(random.Int64N(int64(longest-shortest)))).Round(time.Millisecond)
	}
	all := 0
	for _, k := range soakKinds {
		all += k.weight
	}
	var plan []soakFault
	busy := map[string]time.Duration{}
	for at := soakFirst; at < length; {
		n, i := random.IntN(all), 0
		for ; n >= soakKinds[i].weight; i++ {
			n -= soakKinds[i].weight
		}
		k := soakKinds[i]
		f := soakFault{
			At: at, Kind: k.kind, Target: k.targets[random.IntN(len(k.targets))], For: between(k.shortest, k.longest), Number: random.IntN(1000),
		}
		if busy[f.Target] <= at {
			plan = append(plan, f)
			busy[f.Target] = at + f.For + time.Second // it has to come to itself
		}
		if random.IntN(4) == 0 {
			at += between(0, 300*time.Millisecond) // together with the next
		} else {
			at += between(500*time.Millisecond, 4*time.Second)
		}
	}
	slices.SortStableFunc(plan, func(a, b soakFault) int { return cmp.Compare(a.At, b.At) })
	return plan
}

func TestTheSameSeedDrawsTheSameFaults(t *testing.T) {
	const length = 2 * time.Minute
	text := func(plan []soakFault) string { return fmt.Sprint(plan) }
	first := drawFaults(7, 1, length)
	if text(first) != text(drawFaults(7, 1, length)) {
		t.Error("the same seed drew two plans")
	}
	if text(first) == text(drawFaults(8, 1, length)) || text(first) == text(drawFaults(7, 2, length)) {
		t.Error("another seed, or half, drew the same plan")
	}
	// A longer soak begins as a shorter one does, so a violation can be looked for in the beginning of a long one.
	if longer := text(drawFaults(7, 1, 2*length)); !strings.HasPrefix(longer, strings.TrimSuffix(text(first), "]")) {
		t.Error("a longer plan does not begin like a shorter one")
	}
	seen, until := map[string]bool{}, map[string]time.Duration{}
	for seed := range uint64(20) {
		clear(until)
		for _, f := range drawFaults(seed, 1, length) {
			seen[f.Kind] = true
			if until[f.Target] > f.At {
				t.Fatalf("seed %d: %s while something happens to it", seed, f)
			}
			until[f.Target] = f.At + f.For
		}
	}
	for _, k := range soakKinds {
		if !seen[k.kind] {
			t.Errorf("in 20 plans there is no %q", k.kind)
		}
	}
}

// soakTask is what one task of a soak is like: drawn, too, by who hands it in and how many he has handed in before.
type soakTask struct {
	exclusive, shared []int
	immediate         bool
	kind              string
	millis            int64
}

// soakResources are fewer than those of the workload "pulp" of the benchmark, so that a dozen tasks at a time meet.
const soakResources = 24

// drawTask draws one in the shape of the workload "pulp": two resources, mostly shared, now and then at once. More of them are
// exclusive here, because it is conflicts that are to be checked.
func drawTask(seed uint64, client, number int) soakTask {
	random := rand.New(rand.NewPCG(seed, uint64(client)<<32|uint64(number)))
	var made soakTask
	for _, resource := range random.Perm(soakResources)[:2] {
		if random.IntN(5) == 0 {
			made.exclusive = append(made.exclusive, resource)
		} else {
			made.shared = append(made.shared, resource)
		}
	}
	made.immediate = random.IntN(20) == 0
	made.kind, made.millis = "plain", random.Int64N(40)
	switch random.IntN(20) {
	case 0:
		made.kind = "deaf"
	case 1:
		if !made.immediate {
			made.kind = "detached"
		}
	}
	switch n := random.IntN(100); {
	case made.immediate:
	case n == 0: // it may outlive the lease of its executor
		made.millis += 2000 + random.Int64N(6000)
	case n < 13:
		made.millis += 200 + random.Int64N(1300)
	}
	return made
}
