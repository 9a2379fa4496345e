package e2e

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// newPooled prepares services that know their database only as the PgBouncer in front of it, in transaction mode: every
// transaction may run on a session that somebody else used, also those of the migration. What the server executes is watched.
func newPooled(t *testing.T) *services {
	t.Helper()
	direct := pgtest.EmptyURL(t)
	watch(t, direct)
	return newServices(t, bouncer.Start(t, direct, bouncer.Servers))
}
