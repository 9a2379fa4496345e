package pgtest

import (
	"context"
	"sync"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// Away makes the database of url unreachable, as if its server were gone: its connections end, and new ones are refused.
// Nothing in it is lost. back makes it reachable again; without it, that happens when the test ends.
func Away(t testing.TB, url string) (back func()) {
	t.Helper()
	name := One[string](t, Open(t, url), `select current_database()`)
	elsewhere := Open(t, EmptyURL(t))
	rename := func(from, to string) {
		probe.Eventually(t, "nobody is connected to "+from, func() bool {
			_, err := elsewhere.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, from)
			if err != nil {
				t.Fatal(err)
			}
			_, err = elsewhere.Exec(context.Background(), "alter database "+from+" rename to "+to)
			return err == nil
		})
	}
	rename(name, name+"_away")
	back = sync.OnceFunc(func() { rename(name+"_away", name) })
	t.Cleanup(back)
	return back
}
