package promtool_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/testkit/promtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failures stands for a test that is expected to fail.
type failures struct {
	testing.TB

	failed bool
}

func (f *failures) Helper()               {}
func (f *failures) Errorf(string, ...any) { f.failed = true }

func TestItObjectsToWhatIsWrong(t *testing.T) {
	promtool.Check(t, strings.NewReader("# HELP a_total some\n# TYPE a_total counter\na_total 1\n"), "check", "metrics")
	if t.Failed() || t.Skipped() {
		return
	}
	f := &failures{TB: t}
	promtool.Check(f, strings.NewReader("a_total 1\n"), "check", "metrics")
	if !f.failed {
		t.Error("a metric without help was let pass")
	}
}
