package limits_test

import (
	"fmt"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// What every batch pays in which nothing is wrong.
func BenchmarkCheckBatch(b *testing.B) {
	tasks := times(100, func(i int) *taskv1.TaskSpec {
		return &taskv1.TaskSpec{
			Name: "test.noop", ArgsJson: `[1,"two",null]`, KwargsJson: `{"repository":"` + id + `","n":12}`,
			ExclusiveResources: []string{fmt.Sprint("prn:rpm.rpmrepository:", id, i)},
			SharedResources:    []string{"prn:rpm.rpmremote:" + id, fmt.Sprint("prn:core.repository:", i)},
			GroupId:            id, CorrelationId: "the-request-of-somebody",
		}
	})
	request := &dispatcherv1.DispatchBatchRequest{Tasks: tasks}
	b.ReportAllocs()
	for b.Loop() {
		if err := limits.Check(request); err != nil {
			b.Fatal(err)
		}
	}
}

// And every report of an executor: a hundred acknowledged, a hundred finished.
func BenchmarkCheckReport(b *testing.B) {
	claim := func(int) *schedulerv1.Claim { return &schedulerv1.Claim{TaskId: id, Claim: 1} }
	request := &schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Report{Report: &schedulerv1.Report{
		Acknowledged: times(100, claim),
		Finished: times(100, func(i int) *schedulerv1.Finish {
			return &schedulerv1.Finish{Claim: claim(i), Outcome: &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: `{"exit_code":0}`}}
		}),
	}}}
	b.ReportAllocs()
	for b.Loop() {
		if err := limits.Check(request); err != nil {
			b.Fatal(err)
		}
	}
}
