package gateway_test

import (
	"context"
	"testing"

	"github.com/sluice-tasks/sluice/gateway"
	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
)

const (
	resourcesPath = "/pulp/api/v3/resources/"
	queuePath     = resourcesPath + "queue/"
)

func TestResourcesAreListedAndShownWithTheirQueues(t *testing.T) {
	one := &schedulerv1.Resource{Name: "a", Exclusive: true, Holders: 1, Waiting: 1, HeldSince: at(2), WaitingSince: at(3)}
	const shown = `{"name":"a","exclusive":true,"holders":1,"waiting":1,"held_since":"2026-11-22T10:15:02.120000Z","waiting_since":"2026-11-22T10:15:03.120000Z"}`
	var asked []string
	var sizes []int32
	n := &native{
		queues: func(_ context.Context, r *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error) {
			sizes = append(sizes, r.GetPageSize())
			return &schedulerv1.ListResourcesResponse{Total: 7, Resources: []*schedulerv1.Resource{one, {Name: "b", Holders: 2, HeldSince: at(4)}}}, nil
		},
		queue: func(_ context.Context, r *schedulerv1.GetResourceRequest) (*schedulerv1.GetResourceResponse, error) {
			asked, sizes = append(asked, r.GetName()), append(sizes, r.GetPageSize())
			return &schedulerv1.GetResourceResponse{
				Resource: one, Queue: []*schedulerv1.ResourceUse{use(otherID, true, "x"), use(childID, false, "")},
			}, nil
		},
	}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", resourcesPath+"?limit=2", ""), 200, `{"count":7,"results":[`+shown+
		`,{"name":"b","exclusive":false,"holders":2,"waiting":0,"held_since":"2026-11-22T10:15:04.120000Z","waiting_since":null}]}`)
	want(t, f.do(t, "GET", queuePath+"?name=a%2Fb", ""), 200, `{"resource":`+shown+`,"queue":[`+otherHolds+`,`+childWaits+`]}`)
	f.do(t, "GET", queuePath+"?limit=5&name="+taskPath, "") // a thing of ours, by its href
	if len(asked) != 2 || asked[0] != "a/b" || asked[1] != "prn:core.task:"+taskID {
		t.Errorf("asked for %q", asked)
	}
	if len(sizes) != 3 || sizes[0] != 2 || sizes[1] != 0 || sizes[2] != 5 {
		t.Errorf("sizes %v", sizes)
	}
}

func TestAResourceThatNobodyNamesIsNotThere(t *testing.T) {
	f := newFace(t, &native{}, gateway.Config{})
	want(t, f.do(t, "GET", queuePath+"?name=a", ""), 404, `{"detail":"Nobody holds the resource or waits for it."}`)
	want(t, f.do(t, "GET", resourcesPath, ""), 200, `{"count":0,"results":[]}`)
	want(t, f.do(t, "GET", queuePath, ""), 400, `{"name":["Must not be empty or blank."]}`)
	want(t, f.do(t, "GET", resourcesPath+"?limit=2000", ""), 400, `{"limit":["Must be between 0 and 1000, is 2000."]}`)
}

func TestResourcesWithoutALeader(t *testing.T) {
	away := errs.Away(errs.NotLeading, nil, "no scheduler leads")
	n := &native{queues: func(context.Context, *schedulerv1.ListResourcesRequest) (*schedulerv1.ListResourcesResponse, error) {
		return nil, away
	}}
	f := newFace(t, n, gateway.Config{})
	want(t, f.do(t, "GET", resourcesPath, ""), 503, `{"detail":"No scheduler leads."}`)
}
