package executor

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMemoryIsMeasuredAtTheBeginningInBetweenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := measureMemory(os.Getpid(), memoryEvery)
		<-time.After(5 * time.Second)
		p.stop()
		var times []string
		for line := range strings.Lines(p.text()) {
			after, _, _ := strings.Cut(line, "\t")
			times = append(times, after)
		}
		if diff := cmp.Diff([]string{"0.0", "2.0", "4.0", "5.0"}, times); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAProfileOfWhatTakesLongIsThinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &memoryProfile{pid: os.Getpid(), began: time.Now(), ending: make(chan struct{}), ended: make(chan struct{})}
		for i := range maxSamples - 2 {
			p.samples = append(p.samples, memorySample{time.Duration(i), 1})
		}
		go p.follow(time.Minute)
		<-time.After(10*time.Minute + time.Second)
		p.stop()
		// The first two filled it; from then on each pause is two minutes.
		if n := len(p.samples); n != maxSamples/2+4+1 {
			t.Errorf("%d samples", n)
		}
		if p.samples[1].after != 2 || p.samples[2].after != 4 {
			t.Errorf("the first ones are %v", p.samples[:4])
		}
	})
}

func TestNothingIsMeasuredOfAProcessThatHasEnded(t *testing.T) {
	p := measureMemory(1<<30, memoryEvery)
	p.stop()
	if p.text() != "" {
		t.Errorf("measured %q", p.text())
	}
}
