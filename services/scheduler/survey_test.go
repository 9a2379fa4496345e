package scheduler

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestALookSaysOfAFewNamesThatNobodyKnowsThemAndTheNextOnesOfTheRest(t *testing.T) {
	s := newStage(t)
	var log bytes.Buffer
	s.leader.log = slog.New(slog.NewJSONHandler(&log, nil))
	const names = 2*noticesAtOnce + 5
	var rows []*modelRow
	for i := range names {
		row := tRow()
		row.Name = "unknown" + strings.Repeat("x", i)
		rows = append(rows, s.db.add(row))
	}
	s.tick(offers(rows...))
	s.leader.survey()
	s.now = s.now.Add(noticeAfter)
	for i, want := range []int{noticesAtOnce, 2 * noticesAtOnce, names, names} {
		s.leader.survey()
		if got := strings.Count(log.String(), "tasks wait for an executor"); got != want {
			t.Errorf("after look %d there are %d lines, want %d", i, got, want)
		}
	}
}

func TestOfALaterAttemptItIsNotSaidThatAllBeforeItWasWaiting(t *testing.T) {
	began := time.Unix(1000, 0)
	ended := began.Add(3 * time.Second)
	p := &Particulars{
		State: task.Failed, Executor: "x", Attempt: 1, CreatedAt: began.Add(-time.Minute), StartedAt: &began, EndedAt: &ended,
		Error: &task.Error{Description: "no."},
	}
	for attempt, want := range map[int32]string{
		1: "It failed after 3s on x, having waited for 1m0s before: no.",
		2: "It failed after 3s on x; that was attempt 2: no.",
	} {
		p.Attempt = attempt
		if got := p.summary(); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
}
