package dispatcher

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// A thousand immediate tasks can fail at length. They have run: the answer that says so must arrive.
func TestTheAnswerToABatchFitsIntoAMessageWhateverBecameOfTheTasks(t *testing.T) {
	long := strings.Repeat("ä", limits.MaxErrorText/2)
	response := &dispatcherv1.DispatchBatchResponse{}
	for range limits.MaxBatch {
		one := &taskv1.Task{
			ResultJson: strings.Repeat(" ", limits.MaxJSON),
			Error:      &taskv1.TaskError{Reason: "x" + long, Description: long, Traceback: long},
		}
		shorten(one)
		response.Tasks = append(response.Tasks, one)
	}
	// What the request said comes back too, in the other half of what clients take.
	if size := proto.Size(response); size > limits.MaxMessage {
		t.Errorf("%d bytes", size)
	}
	if reason := response.GetTasks()[0].GetError().GetReason(); !utf8.ValidString(reason) || !strings.HasPrefix(reason, "xä") {
		t.Errorf("the reason is %q", reason)
	}
}
