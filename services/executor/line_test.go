package executor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/limits"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// recorder is the scheduler's end of a line without a network, so that time can be that of synctest.
type recorder struct {
	stream

	began time.Time
	sent  []message
	// busy, if there is one, holds up each Send until something comes through it.
	busy chan struct{}
}

// message is one that was sent: when, and of which tasks it says what.
type message struct {
	After                  time.Duration
	Drain                  bool
	Acknowledged, Finished []string
}

// Send notes what is sent.
func (w *recorder) Send(r *schedulerv1.AcquireRequest) error {
	m := message{After: time.Since(w.began), Drain: r.GetDrain() != nil}
	for _, claim := range r.GetReport().GetAcknowledged() {
		m.Acknowledged = append(m.Acknowledged, claim.GetTaskId())
	}
	for _, finish := range r.GetReport().GetFinished() {
		m.Finished = append(m.Finished, finish.GetClaim().GetTaskId())
	}
	w.sent = append(w.sent, m)
	if w.busy != nil {
		<-w.busy
	}
	return nil
}

// speak runs a line in a bubble: before says something of which nothing is sent yet, do goes on while the line sends, and what
// was sent until nothing more happens is returned.
func speak(t *testing.T, before func(*line), do func(*line, *recorder)) (sent []message) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		l, w := newLine(1, unending(), cancel), &recorder{began: time.Now()}
		if before != nil {
			before(l)
		}
		go l.send(ctx, w)
		if do != nil {
			do(l, w)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		sent = w.sent
	})
	return sent
}

func one(task string) claim { return claim{task: task, number: 1} }

func completed(result string) *taskv1.Outcome {
	return &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: result}
}

func TestWhatALineSaysAndWhen(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*line)
		do     func(*line, *recorder)
		want   []message
	}{
		"an acknowledgement goes at once": {
			do:   func(l *line, _ *recorder) { l.acknowledge(one("a")) },
			want: []message{{Acknowledged: []string{"a"}}},
		},
		"a report goes at once, with all that there is to say": {
			before: func(l *line) {
				l.acknowledge(one("a"))
				l.finish(one("b"), completed(""))
				l.wantNoMore()
			},
			want: []message{{Drain: true}, {Acknowledged: []string{"a"}, Finished: []string{"b"}}},
		},
		"what has ended before it was acknowledged is acknowledged all the same": {
			before: func(l *line) {
				l.acknowledge(one("a"))
				l.finish(one("a"), completed(""))
			},
			want: []message{{Acknowledged: []string{"a"}, Finished: []string{"a"}}},
		},
		"what is to be said twice is": {
			do: func(l *line, _ *recorder) {
				l.acknowledge(one("a"))
				<-time.After(time.Second)
				l.acknowledge(one("a"))
			},
			want: []message{{Acknowledged: []string{"a"}}, {After: time.Second, Acknowledged: []string{"a"}}},
		},
		"of what is not ours any more nothing is said": {
			do: func(l *line, w *recorder) {
				w.busy = make(chan struct{}, 1)
				l.finish(one("first"), completed(""))
				synctest.Wait() // it is on its way
				l.acknowledge(one("a"))
				l.finish(one("b"), completed(""))
				l.drop(one("a"))
				l.drop(one("b"))
				w.busy <- struct{}{}
			},
			want: []message{{Finished: []string{"first"}}},
		},
		"what comes while a message is on its way goes with the next": {
			do: func(l *line, w *recorder) {
				w.busy = make(chan struct{}, 2)
				l.finish(one("first"), completed(""))
				synctest.Wait()
				for i := range 5 {
					<-time.After(time.Second)
					l.finish(one(fmt.Sprint(i)), completed(""))
				}
				w.busy <- struct{}{}
				w.busy <- struct{}{}
			},
			want: []message{{Finished: []string{"first"}}, {After: 5 * time.Second, Finished: []string{"0", "1", "2", "3", "4"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, speak(t, c.before, c.do)); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
		})
	}
}

// A message that is too large costs the line, and the next one would carry the same again.
func TestReportsAreSplit(t *testing.T) {
	failed := func(size int) *taskv1.Outcome {
		text := strings.Repeat("x", size)
		return &taskv1.Outcome{State: taskv1.State_STATE_FAILED, Error: &taskv1.TaskError{Description: text, Traceback: text, Reason: text}}
	}
	for name, c := range map[string]struct {
		finishes, acknowledgements int
		outcome                    *taskv1.Outcome
		want                       []int // claims in each message
	}{
		"as many as there can be": {finishes: reportClaims, outcome: completed(""), want: []int{reportClaims}},
		"one more":                {finishes: reportClaims + 1, outcome: completed(""), want: []int{reportClaims, 1}},
		"both kinds":              {finishes: 600, acknowledgements: 1500, outcome: completed(""), want: []int{reportClaims, reportClaims, 100}},
		"largest results":         {finishes: 3, outcome: completed(`"` + strings.Repeat("x", limits.MaxJSON-2) + `"`), want: []int{1, 1, 1}},
		"results": {
			finishes: 25, acknowledgements: 3, outcome: completed(`"` + strings.Repeat("x", reportBytes/10) + `"`), want: []int{13, 10, 5},
		},
		"largest errors": {finishes: 10, outcome: failed(limits.MaxErrorText), want: []int{6, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(1, unending(), nil)
			said := map[string]bool{}
			for i := range c.finishes {
				l.finish(one(fmt.Sprint("f", i)), c.outcome)
			}
			for i := range c.acknowledgements {
				l.acknowledge(one(fmt.Sprint("a", i)))
			}
			var got []int
			for _, r := range l.take() {
				if size := proto.Size(r); size > limits.MaxMessage/2 {
					t.Errorf("a message of %d bytes", size)
				}
				n := 0
				for _, f := range r.GetReport().GetFinished() {
					said[f.GetClaim().GetTaskId()] = true
					n++
				}
				for _, a := range r.GetReport().GetAcknowledged() {
					said[a.GetTaskId()] = true
					n++
				}
				got = append(got, n)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("claims by message (-want +got):\n%s", diff)
			}
			if len(said) != c.finishes+c.acknowledgements {
				t.Errorf("%d claims of %d are reported", len(said), c.finishes+c.acknowledgements)
			}
			if again := l.take(); len(again) != 0 {
				t.Errorf("reported twice: %v", again)
			}
		})
	}
}
