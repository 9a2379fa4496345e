package status

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

const (
	// groupPartsShown is how many parts of its progress are shown with one group, groupPartsListed with each of a list: ten thousand tasks
	// could each tell a hundred of their own.
	groupPartsShown  = 1000
	groupPartsListed = 100
	// groupBytes is how much of a page of groups their progress may take, about; what goes beyond is left out of the later ones.
	groupBytes = limits.MaxMessage / 2
)

// GroupDatabase is the SQL for task groups.
type GroupDatabase interface {
	// Group reads one group, with at most so many parts of its progress. There is no such group: NotFound.
	Group(ctx context.Context, id string, parts int) (*Group, error)
	// Groups reads a page, the newest first, and how many there are in all.
	Groups(ctx context.Context, size, offset, parts int) (groups []*Group, total int64, err error)
}

// Group is a task group with its members counted by state.
type Group struct {
	ID          string
	Description string
	CreatedAt   time.Time
	Counts      map[task.State]int64
	// Progress is how far the parts of its work are, in the order in which they were first told.
	Progress []GroupPart
}

// GetTaskGroup returns one group.
func (s server) GetTaskGroup(ctx context.Context, req *statusv1.GetTaskGroupRequest) (*statusv1.GetTaskGroupResponse, error) {
	g, err := s.service.db.Group(ctx, req.GetGroupId(), groupPartsShown)
	if err != nil {
		return nil, err
	}
	return g.onWire(), nil
}

// ListTaskGroups returns a page of groups.
func (s server) ListTaskGroups(ctx context.Context, req *statusv1.ListTaskGroupsRequest) (*statusv1.ListTaskGroupsResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = limits.DefaultPage
	}
	groups, total, err := s.service.db.Groups(ctx, size, int(req.GetOffset()), groupPartsListed)
	if err != nil {
		return nil, err
	}
	answer := &statusv1.ListTaskGroupsResponse{Total: total}
	bytes := 0
	for _, g := range groups {
		// A page can't be shorter, since callers go on by number.
		g.Progress = slices.DeleteFunc(g.Progress, func(p GroupPart) bool {
			bytes += len(p.Code) + len(p.Message) + len(p.Suffix) + 32
			return bytes > groupBytes
		})
		answer.Groups = append(answer.Groups, g.onWire())
	}
	return answer, nil
}

func (g *Group) onWire() *statusv1.GetTaskGroupResponse {
	shown := &statusv1.GetTaskGroupResponse{
		Id: g.ID, Description: g.Description, CreatedAt: timestamppb.New(g.CreatedAt), Counts: stateCounts(g.Counts),
	}
	for _, p := range g.Progress {
		shown.Progress = append(shown.Progress, &taskv1.GroupProgress{
			Code: p.Code, Message: p.Message, Total: p.Total, Done: p.Done, Suffix: p.Suffix,
		})
	}
	return shown
}

// groupParts takes from the wire what a run has added; of a code that stands there twice, what was said last.
func groupParts(added []*taskv1.GroupProgress) []GroupPart {
	parts, places := make([]GroupPart, 0, len(added)), make(map[string]int, len(added))
	for _, p := range added {
		part := GroupPart{Code: p.GetCode(), Message: p.GetMessage(), Suffix: p.GetSuffix(), Total: p.GetTotal(), Done: p.GetDone()}
		if place, again := places[part.Code]; again {
			parts[place] = part
			continue
		}
		places[part.Code] = len(parts)
		parts = append(parts, part)
	}
	return parts
}
