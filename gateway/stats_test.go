package gateway_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/gateway"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// GetStats says what the test says.
func (n *native) GetStats(ctx context.Context, r *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error) {
	n.count()
	if n.stats != nil {
		return n.stats(ctx, r)
	}
	return &statusv1.GetStatsResponse{Total: &statusv1.NameStats{}}, nil
}

func TestStatsTellHowTasksFared(t *testing.T) {
	var asked *statusv1.GetStatsRequest
	n := &native{stats: func(_ context.Context, r *statusv1.GetStatsRequest) (*statusv1.GetStatsResponse, error) {
		asked = r
		one := &statusv1.NameStats{
			Name: "a", Domain: "default", Finished: 4, Completed: 2, Failed: 1, Canceled: 1, FailureRate: 0.25,
			Unblock: &statusv1.Percentiles{Count: 3, P50: 0.001, P95: 0.002, P99: 0.003, Max: 1.5},
		}
		return &statusv1.GetStatsResponse{
			Names: []*statusv1.NameStats{one}, Total: &statusv1.NameStats{Finished: 4}, From: timestamppb.New(time.Unix(1_700_000_040, 0)),
		}, nil
	}}
	f := newFace(t, n, gateway.Config{})
	const none = `{"count":0,"p50":0,"p95":0,"p99":0,"max":0}`
	want(t, f.do(t, "GET", tasksPath+"stats/?name=a&domain=default&since=90.5", ""), 200, `{"from":"2023-11-14T22:14:00.000000Z",`+
		`"total":{"name":"","domain":"","finished":4,"completed":0,"failed":0,"canceled":0,"failure_rate":0,"unblock":`+none+`,"start":`+none+`,"run":`+none+`},`+
		`"results":[{"name":"a","domain":"default","finished":4,"completed":2,"failed":1,"canceled":1,"failure_rate":0.25,`+
		`"unblock":{"count":3,"p50":0.001,"p95":0.002,"p99":0.003,"max":1.5},"start":`+none+`,"run":`+none+`}]}`)
	if asked.GetName() != "a" || asked.GetDomain() != "default" || asked.GetSince().AsDuration() != 90500*time.Millisecond {
		t.Errorf("the status service is asked %v", asked)
	}
	f.do(t, "GET", tasksPath+"stats/", "")
	if asked.GetName() != "" || asked.GetSince() != nil {
		t.Errorf("without parameters the status service is asked %v", asked)
	}
}

func TestStatsRefuseWhatIsNoWindow(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{}).unjudged()
	for _, since := range []string{"0.5", "2592001", "-60", "NaN", "1e300", "-Inf", "soon"} {
		if w := f.do(t, "GET", tasksPath+"stats/?since="+since, ""); w.Code != 400 {
			t.Errorf("since=%s: %d %s", since, w.Code, w.Body)
		} else {
			t.Logf("since=%s: %s", since, w.Body)
		}
	}
	if w := f.do(t, "POST", tasksPath+"stats/", "{}"); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
}
