package client

import (
	"context"
	"iter"
	"time"

	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Group is a task group with its members counted by state; a state without members is missing.
type Group struct {
	ID, Description string
	CreatedAt       time.Time
	Counts          map[task.State]int64
	// Progress is how far the parts of its work are, in the order in which they were first told: at most 1,000 of them, and 100 where
	// groups are listed.
	Progress []GroupProgress
}

// GroupProgress is how far one part of a group's work is: the sums of what its members have added.
type GroupProgress struct {
	// Code names it for programs, Message for people.
	Code, Message string
	// Total is how much there is to do, Done how much of it is done.
	Total, Done int64
	// Suffix is what is counted, for people; it may be empty.
	Suffix string
}

// CreateGroup makes an empty task group and returns its id, for Spec.GroupID.
func (c *Client) CreateGroup(ctx context.Context, description string) (string, error) {
	answer, err := c.dispatcher.CreateTaskGroup(ctx, &dispatcherv1.CreateTaskGroupRequest{Description: description})
	if err != nil {
		return "", err
	}
	return answer.GetGroupId(), nil
}

// Group returns a task group.
func (c *Client) Group(ctx context.Context, id string) (Group, error) {
	answer, err := c.status.GetTaskGroup(ctx, &statusv1.GetTaskGroupRequest{GroupId: id})
	if err != nil {
		return Group{}, err
	}
	return fromGroup(answer), nil
}

// Groups yields task groups, the newest first, asking for further pages as the loop goes on. limit is how many are wanted at most; 0
// means all there are. An error ends it. A group that is made while the loop goes on may have one appear twice.
func (c *Client) Groups(ctx context.Context, limit int) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		for seen := 0; ; {
			size := limits.MaxPage
			if limit > 0 {
				size = min(limit-seen, size)
			}
			page, err := c.status.ListTaskGroups(ctx, &statusv1.ListTaskGroupsRequest{PageSize: int32(size), Offset: int32(seen)})
			if err != nil {
				yield(Group{}, err)
				return
			}
			for _, g := range page.GetGroups() {
				if !yield(fromGroup(g), nil) {
					return
				}
			}
			if seen += len(page.GetGroups()); len(page.GetGroups()) < size || seen == limit {
				return
			}
		}
	}
}

// CancelGroup asks all members of a group to stop that have not ended. It returns how many were canceled at once, because they had
// not started, and how many run and have been asked to stop, by this call or before. Members that join later are not affected.
func (c *Client) CancelGroup(ctx context.Context, id string) (canceled, canceling int64, err error) {
	answer, err := c.dispatcher.CancelTaskGroup(ctx, &dispatcherv1.CancelTaskGroupRequest{GroupId: id})
	if err != nil {
		return 0, 0, err
	}
	return answer.GetCanceled(), answer.GetCanceling(), nil
}

func fromGroup(g *statusv1.GetTaskGroupResponse) Group {
	made := Group{
		ID: g.GetId(), Description: g.GetDescription(), CreatedAt: g.GetCreatedAt().AsTime(), Counts: fromCounts(g.GetCounts()),
	}
	for _, p := range g.GetProgress() {
		made.Progress = append(made.Progress, GroupProgress{
			Code: p.GetCode(), Message: p.GetMessage(), Total: p.GetTotal(), Done: p.GetDone(), Suffix: p.GetSuffix(),
		})
	}
	return made
}
