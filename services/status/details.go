package status

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Details are what there is of one task beside its row.
type Details struct {
	// Children are the ids of the tasks that it dispatched, the oldest first.
	Children []string
	// Report is nil if it has told nothing of its work.
	Report *Report
	// Attempts are those that failed and were retried, the first one first.
	Attempts []Attempt
}

// Attempt is one that failed and was retried.
type Attempt struct {
	Number             int32
	Claim              int64
	Executor           string
	StartedAt, EndedAt time.Time
	Error              *task.Error
}

const (
	// attemptErrors is how many bytes the errors of attempts may have in full. A hundred attempts can have twelve times as many
	// as fit into a message.
	attemptErrors = 1 << 20
	// attemptError is what is left of each text of an error that has no room.
	attemptError = 1 << 10
)

// attempts puts attempts on the wire. Where there is no room for all of their errors, the latest ones are shown in full.
func attempts(all []Attempt) []*statusv1.Attempt {
	shown := make([]*statusv1.Attempt, len(all))
	bytes := 0
	for i, a := range slices.Backward(all) {
		cause := wire.Error(a.Error)
		if bytes += len(cause.GetDescription()) + len(cause.GetTraceback()) + len(cause.GetReason()); bytes > attemptErrors && cause != nil {
			cause.Description, cause.Reason, cause.Traceback = begin(cause.GetDescription()), begin(cause.GetReason()), ""
		}
		shown[i] = &statusv1.Attempt{
			Attempt: a.Number, Claim: a.Claim, Executor: a.Executor,
			StartedAt: timestamppb.New(a.StartedAt), EndedAt: timestamppb.New(a.EndedAt), Error: cause,
		}
	}
	return shown
}

// begin is the beginning of a text that is too long, of whole characters.
func begin(text string) string {
	if len(text) <= attemptError {
		return text
	}
	return strings.ToValidUTF8(text[:attemptError], "") + "…"
}
