package status_test

import (
	"fmt"
	"testing"
	"time"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/services/status"
)

// BenchmarkLook is what a process asks once a second while somebody watches, beside 100,000 tasks that have ended.
func BenchmarkLook(b *testing.B) {
	for _, live := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			pool := pgtest.New(b)
			history(b, pool, 100_000, live)
			store := status.NewStore(pool)
			first, err := store.Look(b.Context(), status.Look{After: -1, Before: 1000, MostNew: 5000, Census: true, MostLive: 100_000})
			if err != nil {
				b.Fatal(err)
			}
			after := first.New[len(first.New)-1].Seq
			best := time.Hour // the rest of the machine is in the mean
			for b.Loop() {
				begin := time.Now()
				if _, err := store.Look(b.Context(), status.Look{After: after, MostNew: 5000, Census: true, MostLive: 100_000}); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(begin))
			}
			b.ReportMetric(float64(best.Microseconds()), "µs/best")
		})
	}
}

// BenchmarkJudge reads 500 tasks that have changed, for so many filters.
func BenchmarkJudge(b *testing.B) {
	for _, filters := range []int{0, 1, 50} {
		b.Run(fmt.Sprintf("filters=%d", filters), func(b *testing.B) {
			pool := pgtest.New(b)
			history(b, pool, 100_000, 500)
			ids := pgtest.One[[]string](b, pool, `select array_agg(task_id::text) from task_live`)
			var all []*statusv1.Filter
			for i := range filters {
				all = append(all, byName(fmt.Sprintf("n%d", i)))
			}
			store := status.NewStore(pool)
			best := time.Hour
			for b.Loop() {
				begin := time.Now()
				if _, _, err := store.Judge(b.Context(), ids, all); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(begin))
			}
			b.ReportMetric(float64(best.Microseconds())/500, "µs/task/best")
		})
	}
}

// history stores tasks that have ended, and some that have not, with what the database knows about them.
func history(b *testing.B, pool postgres.Querier, ended, live int) {
	b.Helper()
	pgtest.Must(b, pool, int64(ended), `insert into task (id, domain_id, name, state, unblocked_at, started_at, finished_at, executor, incarnation, claim)
		select gen_random_uuid(), gen_random_uuid(), 'n', 'completed', now(), now(), now(), 'e', gen_random_uuid(), 1 from generate_series(1, $1)`, ended)
	pgtest.Must(b, pool, int64(live), `with new as (insert into task (id, domain_id, name) select gen_random_uuid(), gen_random_uuid(), 'n' from generate_series(1, $1) returning seq, id)
		insert into task_live (seq, task_id) select seq, id from new`, live)
	for _, table := range []string{"task", "task_live"} {
		pgtest.Must(b, pool, 0, `analyze `+table)
	}
}
