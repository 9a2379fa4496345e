package run_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-tasks/sluice/pkg/run"
)

func TestAPauseLastsUntilItIsOverOrTheContextIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if !run.Pause(t.Context(), time.Minute) || time.Since(start) != time.Minute {
			t.Errorf("paused for %s", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if run.Pause(ctx, time.Minute) || time.Since(start) != time.Second {
			t.Errorf("paused for %s although the context ended after a second", time.Since(start))
		}
	})
}
