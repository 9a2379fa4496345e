package worker

import (
	"testing"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// scroll keeps the progress that it is told.
type scroll struct {
	Calls // for what nobody calls
	told  []*taskv1.Progress
}

func (s *scroll) Progress(p *taskv1.Progress) { s.told = append(s.told, p) }

// A handler may begin a part for each file of a million while the executor takes nothing.
func TestPartThatIsBegunAgainTakesThePlaceOfTheOlderOne(t *testing.T) {
	s := &scroll{}
	r := newReport(s)
	r.armed = true // a tick is held up
	begin := func(code string, done int64) *Progress {
		p := &Progress{report: r, state: &taskv1.Progress{Code: code, State: taskv1.State_STATE_RUNNING}}
		if err := r.add(p); err != nil {
			t.Fatal(err)
		}
		p.Set(done)
		return p
	}
	first := begin("again", 0)
	begin("other", 7)
	for n := range int64(1000) {
		begin("again", n)
	}
	first.Set(5000)
	if len(r.changed) != 2 {
		t.Errorf("%d parts are to be sent, want 2", len(r.changed))
	}
	r.close()
	if len(s.told) != 2 || s.told[0].GetDone() != 999 || s.told[1].GetDone() != 7 {
		t.Errorf("sent %v", s.told)
	}
}
