package executor

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// shelf is where a run that is told of stores what it has, in a bubble of synctest.
type shelf struct {
	began time.Time
	put   []storing
	// takes is how long each storing takes, fails whether it comes to nothing.
	takes time.Duration
	fails atomic.Bool
	busy  int
}

// storing is one storing: when it ended, how far the first part was, and the log.
type storing struct {
	After time.Duration
	Done  int64
	Log   string
}

func (s *shelf) store(report *statusv1.PutTaskReportRequest, log *output) unstored {
	if s.busy++; s.busy > 1 {
		panic("two at once: which of them arrives last?")
	}
	defer func() { s.busy-- }()
	<-time.After(s.takes)
	now := storing{After: time.Since(s.began)}
	if report != nil && len(report.GetProgress()) > 0 {
		now.Done = report.GetProgress()[0].GetDone()
	}
	if log != nil {
		now.Log = log.text
	}
	s.put = append(s.put, now)
	return unstored{report: s.fails.Load() && report != nil, log: s.fails.Load() && log != nil}
}

// telling runs do in a bubble, and returns what was stored until nothing more happens.
func telling(t *testing.T, do func(*told, *shelf)) (put []storing) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		s := &shelf{began: time.Now()}
		run := &told{store: s.store, storing: make(chan struct{}, 1), logEvery: 2 * time.Second}
		do(run, s)
		<-time.After(time.Hour)
		synctest.Wait()
		put = s.put
	})
	return put
}

func at(done int64) *taskv1.Progress { return &taskv1.Progress{Code: "part", Done: done} }

func TestWhatARunTellsIsStoredBySteps(t *testing.T) {
	const step = 51 * time.Millisecond
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for name, c := range map[string]struct {
		do   func(*told, *shelf)
		want []storing
	}{
		"nothing that is told is nothing that is stored": {
			func(run *told, _ *shelf) { run.end() }, nil,
		},
		"much progress is stored twice a second, the last of it at the end": {
			func(run *told, _ *shelf) {
				for i := range int64(25) {
					must(run.progress(at(i)))
					<-time.After(step)
				}
				must(run.progress(at(100)))
				run.end()
			},
			[]storing{
				{After: tellEvery, Done: 9}, {After: 10*step + tellEvery, Done: 19}, {After: 25 * step, Done: 100},
			},
		},
		"after the end nothing is kept": {
			func(run *told, _ *shelf) {
				run.end()
				if run.progress(at(1)) == nil || run.created(&taskv1.CreatedResource{}) == nil || run.write("x") == nil {
					panic("kept")
				}
			}, nil,
		},
		"what could not be stored is stored again": {
			func(run *told, s *shelf) {
				s.fails.Store(true)
				must(run.progress(at(1)))
				<-time.After(tellEvery + step)
				s.fails.Store(false)
				<-time.After(2 * tellAgain)
				run.end()
			},
			[]storing{{After: tellEvery, Done: 1}, {After: tellEvery + tellAgain, Done: 1}},
		},
		"what could not be stored comes with the end at the latest": {
			func(run *told, s *shelf) {
				s.fails.Store(true)
				must(run.progress(at(1)))
				<-time.After(tellEvery + step)
				s.fails.Store(false)
				run.end()
			},
			[]storing{{After: tellEvery, Done: 1}, {After: tellEvery + step, Done: 1}},
		},
		"the end waits for what is being stored, and nothing else begins": {
			func(run *told, s *shelf) {
				s.takes = time.Minute
				must(run.progress(at(1)))
				must(run.write("one"))
				<-time.After(3 * time.Second) // a report is on its way, the log is due
				must(run.progress(at(2)))
				<-time.After(time.Second) // and another report
				run.end()
			},
			[]storing{{After: tellEvery + time.Minute, Done: 1}, {After: tellEvery + 2*time.Minute, Done: 2, Log: "one"}},
		},
		"the log is stored while it grows": {
			func(run *told, _ *shelf) {
				must(run.write("one"))
				<-time.After(3 * time.Second)
				must(run.write(" two"))
				<-time.After(10 * time.Second)
				run.end()
			},
			[]storing{{After: 2 * time.Second, Log: "one"}, {After: 4 * time.Second, Log: "one two"}},
		},
		"a log that could not be stored is stored again": {
			func(run *told, s *shelf) {
				s.fails.Store(true)
				must(run.write("one"))
				<-time.After(3 * time.Second)
				s.fails.Store(false)
				run.end()
			},
			[]storing{{After: 2 * time.Second, Log: "one"}, {After: 3 * time.Second, Log: "one"}},
		},
		"who takes over the log of a process waits for nobody": {
			func(run *told, s *shelf) {
				s.takes = time.Minute
				must(run.progress(at(1)))
				<-time.After(time.Second)
				began := time.Now()
				run.heard(output{text: "all", written: 3})
				if waited := time.Since(began); waited > 0 {
					panic(fmt.Sprint("waited for ", waited))
				}
				run.end()
			},
			[]storing{{After: tellEvery + time.Minute, Done: 1}, {After: tellEvery + 2*time.Minute, Log: "all"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, telling(t, c.do)); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheLogOfAProcessIsLookedAtWithoutBeingTaken(t *testing.T) {
	source, w, err := newCapture()
	if err != nil {
		t.Fatal(err)
	}
	defer source.close()
	defer func() { _ = w.Close() }()
	var logs []string
	run := &told{storing: make(chan struct{}, 1), logEvery: time.Hour, store: func(_ *statusv1.PutTaskReportRequest, log *output) unstored {
		logs = append(logs, log.text)
		return unstored{}
	}}
	run.listen(source)
	for _, text := range []string{"one ", "two ", ""} {
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		run.look() // the third time there is nothing new
	}
	if _, err := w.WriteString("three"); err != nil {
		t.Fatal(err)
	}
	run.heard(source.take())
	run.look() // the process goes on with another task: what it writes is none of ours
	if _, err := w.WriteString("of the next"); err != nil {
		t.Fatal(err)
	}
	run.end()
	if diff := cmp.Diff([]string{"one ", "one two ", "one two three"}, logs); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestWhatATaskTellsHasLimits(t *testing.T) {
	var log *output
	run := &told{storing: make(chan struct{}, 1), logEvery: time.Hour, store: func(_ *statusv1.PutTaskReportRequest, o *output) unstored {
		log = o
		return unstored{}
	}}
	for i := range 1001 {
		err := run.created(&taskv1.CreatedResource{Resource: fmt.Sprint(i)})
		if refused := err != nil; refused != (i == 1000) {
			t.Errorf("resource %d: %v", i, err)
		}
		err = run.progress(&taskv1.Progress{Code: fmt.Sprint(i)})
		if refused := err != nil; refused != (i >= 100) {
			t.Errorf("part %d: %v", i, err)
		}
	}
	if err := run.created(&taskv1.CreatedResource{Resource: "7", Incomplete: true}); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	if diff := cmp.Diff([]string{"7"}, run.incomplete()); diff != "" {
		t.Errorf("incomplete (-want +got):\n%s", diff)
	}
	run.gone([]string{"7"})
	if err := run.created(&taskv1.CreatedResource{Resource: "another"}); err != nil {
		t.Errorf("when one was deleted: %v", err)
	}
	for range 3 {
		if err := run.write(strings.Repeat("x", 300<<10)); err != nil {
			t.Fatal(err)
		}
	}
	run.end()
	if len(log.text) != 256<<10 || !log.truncated {
		t.Errorf("log of %d bytes, truncated %v", len(log.text), log.truncated)
	}
}
