package heartbeat_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// look is a statement that answers the time: how long it took to get there and back, and what the clock was set by before.
type look struct {
	after, there, back time.Duration
	set                time.Duration
	step               bool
}

func TestClockThatIsSetIsToldFromAStatementThatIsSlow(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, looks := range map[string][]look{
		"quick and slow statements":      {{back: ms}, {after: s, there: 3 * s}, {after: s, back: 3 * s}, {after: s, there: ms, back: ms}, {after: time.Hour, back: 2 * s}},
		"forward":                        {{back: ms}, {after: 3 * s, back: ms, set: 5 * time.Minute, step: true}, {after: 3 * s, back: ms}},
		"back":                           {{back: ms}, {after: 3 * s, back: ms, set: -5 * time.Minute, step: true}, {after: 3 * s, back: ms}},
		"by little":                      {{back: ms}, {after: s, back: ms, set: 300 * ms, step: true}},
		"less than can be told":          {{back: ms}, {after: s, back: 3 * s, set: 2 * s}, {after: s, back: ms, step: true}},
		"forward and back":               {{back: ms}, {after: s, back: ms, set: time.Hour, step: true}, {after: s, back: ms, set: -time.Hour, step: true}},
		"while nobody looked":            {{back: ms}, {after: time.Hour, back: ms, set: 10 * s, step: true}},
		"by decades":                     {{back: ms}, {after: s, back: ms, set: -50 * 365 * 24 * time.Hour, step: true}, {after: s, back: ms}},
		"corrected smoothly for minutes": append([]look{{back: ms}}, repeat(look{after: s, back: ms, set: 80 * ms}, 300)...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c heartbeat.Clock
				shown := time.Until(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
				for i, l := range looks {
					pass(l.after)
					shown += l.set
					sent := time.Now()
					pass(l.there)
					at := time.Now().Add(shown)
					pass(l.back)
					step := c.Observe(sent, time.Now(), at)
					if (step != 0) != l.step {
						t.Errorf("look %d: set by %s, it says %s", i, l.set, step)
					}
					if l.step && l.set != 0 && (step-l.set).Abs() > l.there+l.back+l.after/500+20*time.Millisecond {
						t.Errorf("look %d: set by %s, it says %s", i, l.set, step)
					}
					if since := c.Belief(time.Now()).Since; (l.step || i == 0) != since.Equal(at) {
						t.Errorf("look %d: silence counts from %s, the clock showed %s", i, since, at)
					}
				}
			})
		})
	}
}

// What is believed is never later than what the clock shows, unless it was set back; and after a quick statement nearly as late.
func TestBeliefIsNeverAheadOfTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c heartbeat.Clock
		r := rand.New(rand.NewPCG(1, 2))
		shown := 42 * time.Hour
		for i := range 10_000 {
			quick := i%10 == 0
			statement := func() time.Duration {
				if quick {
					return time.Duration(r.Int64N(int64(2 * time.Millisecond)))
				}
				return time.Duration(r.Int64N(int64(3 * time.Second)))
			}
			sent := time.Now()
			pass(statement())
			at := time.Now().Add(shown)
			pass(statement())
			if step := c.Observe(sent, time.Now(), at); step != 0 {
				t.Fatalf("a step of %s", step)
			}
			pass(time.Duration(r.Int64N(int64(10 * time.Second))))
			ahead := c.Belief(time.Now()).Now.Sub(time.Now().Add(shown))
			if ahead > 0 || quick && ahead < -5*time.Millisecond {
				t.Fatalf("after statement %d: ahead of the clock by %s", i, ahead)
			}
			shown += time.Duration(r.Int64N(int64(time.Millisecond))) // it runs a little faster than ours
		}
	})
}

func TestNobodyIsSilentAsLongAsNothingIsKnown(t *testing.T) {
	var c heartbeat.Clock
	if got := c.Belief(time.Now()); got != (heartbeat.Belief{}) {
		t.Errorf("it believes %v", got)
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

func repeat(l look, n int) (all []look) {
	for range n {
		all = append(all, l)
	}
	return all
}
