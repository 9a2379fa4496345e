package probe_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// failing is a test that keeps what it failed with.
type failing struct {
	testing.TB

	said string
}

// Helper has nothing to do.
func (*failing) Helper() {}

// Fatalf ends the goroutine, as a real test does.
func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestEventuallyLooksUntilItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		probe.Eventually(t, "the third look", func() bool { looks++; return looks == 3 })
		if looks != 3 {
			t.Errorf("%d looks, want 3", looks)
		}
	})
}

func TestEventuallySaysWhatDidNotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		returned := false
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			probe.Eventually(f, "pigs fly", func() bool { return false })
			returned = true
		}()
		<-ended
		if want := "not within 1m0s: pigs fly"; returned || f.said != want {
			t.Errorf("returned: %t; said %q, want %q", returned, f.said, want)
		}
	})
}
