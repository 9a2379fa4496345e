package lock_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/lock"
)

// shape is what the i-th of n tasks asks for.
type shape struct {
	name string
	ask  func(i int) (exclusive, shared []string)
}

// shapes returns the ways of waiting that differ in cost. The names are made before anything is measured; the n-th task
// takes those of the first, which has left by then.
func shapes(n int) []shape {
	own, thousand := make([]string, n), make([]string, min(n, 1000))
	for i := range own {
		own[i] = fmt.Sprintf("prn:core.repository:%d", i)
	}
	for i := range thousand {
		thousand[i] = own[i]
	}
	hot, domain := own[:1], []string{"prn:core.domain:default"}
	return []shape{
		{"none", func(int) ([]string, []string) { return nil, nil }},
		{"disjoint", func(i int) ([]string, []string) { return own[i%n : i%n+1], nil }},
		{"one of 1000", func(i int) ([]string, []string) { m := i % len(thousand); return thousand[m : m+1], nil }},
		{"domain + one of 1000", func(i int) ([]string, []string) { m := i % len(thousand); return thousand[m : m+1], domain }},
		{"hot chain", func(int) ([]string, []string) { return hot, nil }},
	}
}

func eachShape(b *testing.B, bench func(b *testing.B, n int, s shape)) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		for _, s := range shapes(n) {
			b.Run(fmt.Sprintf("%s/waiting=%d", s.name, n), func(b *testing.B) { bench(b, n, s) })
		}
	}
}

func fill(n int, s shape) *lock.Table {
	table := lock.New()
	for i := range n {
		exclusive, shared := s.ask(i)
		table.Admit(int64(i), exclusive, shared)
	}
	return table
}

// One operation is the life of a task in the table: the oldest ends, and a new one joins behind n others.
func BenchmarkAdmitRelease(b *testing.B) {
	eachShape(b, func(b *testing.B, n int, s shape) {
		table := fill(n, s)
		runtime.GC()
		b.ReportAllocs()
		i := n
		for b.Loop() {
			table.Release(int64(i-n), "")
			exclusive, shared := s.ask(i)
			table.Admit(int64(i), exclusive, shared)
			i++
		}
	})
}

// One operation cancels a task in the middle and admits it again at the end.
func BenchmarkCancelInTheMiddle(b *testing.B) {
	eachShape(b, func(b *testing.B, n int, s shape) {
		table := fill(n, s)
		runtime.GC()
		b.ReportAllocs()
		i := n / 2
		for b.Loop() {
			table.Release(int64(i%n), "")
			exclusive, shared := s.ask(i)
			table.Admit(int64(i%n), exclusive, shared)
			i++
		}
	})
}

// One operation admits n tasks, as a new leader does. B/task is what they hold of the heap, the table's copies of the
// names included, once the garbage is gone.
func BenchmarkLoad(b *testing.B) {
	eachShape(b, func(b *testing.B, n int, s shape) {
		before := heap()
		table := fill(n, s)
		held := float64(heap() - before)
		runtime.KeepAlive(table)
		for b.Loop() {
			fill(n, s)
		}
		b.ReportMetric(held/float64(n), "B/task")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/task")
	})
}

// One operation asks for the list that a person looks at, over as many resources as there are tasks.
func BenchmarkBusiest(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("resources=%d", n), func(b *testing.B) {
			table := fill(n, shapes(n)[1])
			for b.Loop() {
				table.Busiest(100)
			}
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second frees what the first found in pools and finalizers
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
