package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// waitSpare is how much longer than its timeout a wait may take: it looks once more when that has ended.
const waitSpare = 10 * time.Second

// wait answers when all tasks are final that match, or when the timeout has ended.
func (w *watching) wait(out http.ResponseWriter, r *http.Request) {
	filter, err := w.selected(r)
	if err != nil {
		w.refused(out, r, err)
		return
	}
	given := requestFrom(r.Context())
	timeout, ok := waitTime(given.query.Get("timeout"))
	if !ok {
		rule := "Must be a number of seconds from 0 to " + strconv.Itoa(int(limits.MaxWait.Seconds())) + "."
		w.refused(out, r, errs.Invalid(errs.Violation{Field: "timeout", Rule: rule}))
		return
	}
	ctx, cancel := w.gateway.until(r)
	defer cancel()
	ctx, done := context.WithTimeout(ctx, timeout+waitSpare)
	defer done()
	found, err := w.gateway.status.AwaitTasks(ctx, &statusv1.AwaitTasksRequest{Filter: filter, Timeout: durationpb.New(timeout)})
	if err != nil {
		w.refused(out, r, err)
		return
	}
	answer := &pulpv3.WaitTasksResponse{Done: found.GetDone(), Matched: found.GetMatched(), Remaining: found.GetRemaining()}
	h := w.gateway.hrefs.at(ctx)
	for _, t := range found.GetTasks() {
		answer.Tasks = append(answer.Tasks, h.minimal(t))
	}
	text, err := marshalView(view{message: answer})
	if err != nil {
		w.refused(out, r, err)
		return
	}
	_ = http.NewResponseController(out).SetWriteDeadline(time.Now().Add(answerPatience)) // only a recorder in a test has none
	out.Header().Set("Content-Type", contentType)
	_, _ = out.Write(text) // fails only when nobody is left to read it
}

// waitTime reads a timeout in seconds.
func waitTime(text string) (time.Duration, bool) {
	if text == "" {
		return limits.DefaultWait, true
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0 && seconds <= limits.MaxWait.Seconds()) { // also not a number at all
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
