package status_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// GetLoad says what the test wants it to.
func (l *leader) GetLoad(context.Context, *schedulerv1.GetLoadRequest) (*schedulerv1.GetLoadResponse, error) {
	if load := l.load.Load(); load != nil {
		return load, nil
	}
	return nil, errors.New("what load?")
}

func TestSystemStatusHasTheLoadThatTheLeaderTells(t *testing.T) {
	w := newWorld(t)
	get := func() *schedulerv1.GetLoadResponse {
		t.Helper()
		answer, err := w.client.GetSystemStatus(t.Context(), &statusv1.GetSystemStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetLoad()
	}
	if got := get(); got != nil {
		t.Errorf("of one who can't say: %v", got)
	}
	want := &schedulerv1.GetLoadResponse{Blocked: 3, Ready: 2, Given: 1, Slots: 4, LongestBlocked: durationpb.New(90e9)}
	w.leader.load.Store(want)
	if diff := cmp.Diff(want, get(), protocmp.Transform()); diff != "" {
		t.Errorf("the load (-want +got): %s", diff)
	}
	pgtest.Away(t, w.url)
	if diff := cmp.Diff(want, get(), protocmp.Transform()); diff != "" {
		t.Errorf("while the database is away (-want +got): %s", diff)
	}
}
