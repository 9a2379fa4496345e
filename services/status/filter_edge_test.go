package status_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// The edges of what the limits let through are times that the database has, too: a question is answered or refused, and is never a
// database's error.
func TestTheFirstAndTheLastTimesCanBeComparedWith(t *testing.T) {
	w := newWorld(t)
	w.add(t, row{state: "completed"})
	answered := 0
	for _, at := range []string{"0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59"} {
		for _, field := range []statusv1.TaskField{createdAt, finishedAt} {
			for _, f := range []*statusv1.Filter{
				is(field, at), compare(field, less, at), compare(field, between, at, at), negate(compare(field, greaterEqual, at)),
			} {
				_, err := w.client.ListTasks(t.Context(), &statusv1.ListTasksRequest{Filter: f, Count: true, Offset: 5})
				switch grpcstatus.Code(err) {
				case codes.OK:
					answered++
				case codes.InvalidArgument:
				default:
					t.Errorf("%v: %v", f, err)
				}
			}
		}
	}
	if answered == 0 {
		t.Error("all were refused")
	}
}
