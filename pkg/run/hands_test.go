package run_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sluice-tasks/sluice/pkg/run"
)

func TestHandsDoEverythingAtOnce(t *testing.T) {
	const n = 10
	hands := run.NewHands()
	for range 3 { // also with those that are there already, and after they were let go
		var begun atomic.Int32
		all := make(chan struct{})
		for range n {
			hands.Go(func() {
				if begun.Add(1) == n {
					close(all)
				}
				<-all // none of them ends before all have begun
			})
		}
		<-all
		hands.Go(func() { begun.Add(1) })
		hands.Wait()
		if begun.Load() != n+1 {
			t.Fatalf("%d of %d done when Wait returned", begun.Load(), n+1)
		}
	}
}

func TestHandThatIsFreeIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hands := run.NewHands()
		defer hands.Wait()
		before := runtime.NumGoroutine()
		for range 10 {
			hands.Go(func() {})
			synctest.Wait() // it has done it, and waits for more
		}
		if more := runtime.NumGoroutine() - before; more != 1 {
			t.Errorf("%d goroutines for one thing at a time", more)
		}
	})
}
