package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
)

// reservation is what one task reserves and how.
type reservation struct {
	exclusive, shared []string
	immediate         bool
}

// workload says what the tasks of a run reserve: always the same for the same seed and number, so that nothing of it has to
// be remembered.
type workload struct {
	seed   uint64
	prefix string // of all resources: no two runs have any in common
	names  []string
	draw   func(w *workload, n int, random *rand.PCG) reservation
}

// kind is a workload to choose.
type kind struct {
	name      string
	resources int // that are shared out among the tasks
	draw      func(w *workload, n int, random *rand.PCG) reservation
}

func kinds() []kind {
	return []kind{
		{"none", 0, func(*workload, int, *rand.PCG) reservation { return reservation{} }},
		{"disjoint", 0, func(w *workload, n int, _ *rand.PCG) reservation {
			return reservation{exclusive: []string{w.prefix + strconv.Itoa(n)}}
		}},
		{"x1000", 1000, anyExclusive},
		{"random3", 3, anyExclusive},
		{"hot", 1, anyExclusive},
		{"shared", 1001, func(w *workload, _ int, random *rand.PCG) reservation {
			all := len(w.names) - 1
			k := below(random, all)
			return reservation{exclusive: w.names[k : k+1 : k+1], shared: w.names[all:]}
		}},
		{"pulp", 5000, pulp},
	}
}

// Workloads lists the names of the workloads.
func Workloads() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func newWorkload(name, run string, seed uint64) (*workload, error) {
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no workload %q; there are %s", name, Workloads())
	}
	w := &workload{seed: seed, prefix: "prn:bench." + name + ":" + run + ":", draw: all[i].draw}
	for k := range all[i].resources {
		w.names = append(w.names, w.prefix+strconv.Itoa(k))
	}
	return w, nil
}

// reservation is that of the nth task.
func (w *workload) reservation(n int) reservation {
	return w.draw(w, n, rand.NewPCG(w.seed, uint64(n)))
}

// below is a number from 0 to n-1. The bias is n in 2^64.
func below(random *rand.PCG, n int) int { return int(random.Uint64() % uint64(n)) }

func anyExclusive(w *workload, _ int, random *rand.PCG) reservation {
	k := below(random, len(w.names))
	return reservation{exclusive: w.names[k : k+1 : k+1]}
}

// pulp is what a content server asks for: two of many resources, mostly to read, and now and then at once. The domain that
// all tasks share is added by the dispatcher to every task of every workload.
func pulp(w *workload, _ int, random *rand.PCG) reservation {
	var r reservation
	first := below(random, len(w.names))
	second := (first + 1 + below(random, len(w.names)-1)) % len(w.names)
	for _, k := range []int{first, second} {
		if below(random, 10) == 0 {
			r.exclusive = append(r.exclusive, w.names[k])
		} else {
			r.shared = append(r.shared, w.names[k])
		}
	}
	r.immediate = below(random, 20) == 0
	return r
}
