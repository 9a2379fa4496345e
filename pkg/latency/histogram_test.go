package latency_test

import (
	"bytes"
	"errors"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-tasks/sluice/pkg/latency"
)

// duration draws a time that is as likely to be microseconds as weeks.
func duration() *rapid.Generator[time.Duration] {
	return rapid.Custom(func(t *rapid.T) time.Duration {
		most := int64(1) << rapid.IntRange(0, 43).Draw(t, "doublings")
		return time.Duration(rapid.Int64Range(0, most).Draw(t, "microseconds")) * time.Microsecond
	})
}

func of(times ...time.Duration) *latency.Histogram {
	h := &latency.Histogram{}
	for _, d := range times {
		h.Add(d)
	}
	return h
}

func encode(t interface{ Fatal(args ...any) }, h *latency.Histogram) []byte {
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPercentilesAreWithinFivePercentOfTheTrueOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(duration(), 1, 300).Draw(t, "times")
		h := of(times...)
		slices.Sort(times)
		if got := h.Count(); got != int64(len(times)) {
			t.Fatalf("%d of %d are counted", got, len(times))
		}
		if got, want := h.Max(), times[len(times)-1]; got != want {
			t.Fatalf("the longest is %s, not %s", got, want)
		}
		for _, share := range []float64{0, 0.01, 0.5, 0.95, 0.99, 0.999, 1} {
			want := times[max(0, int(math.Ceil(share*float64(len(times))-1e-9))-1)]
			got := h.Quantile(share)
			if want < 1<<42*time.Microsecond && math.Abs(float64(got-want)) > 0.05*float64(want) {
				t.Fatalf("%v of %v is %s, not %s", share, times, got, want)
			}
			if got > h.Max() {
				t.Fatalf("%v of %v is %s, and the longest %s", share, times, got, h.Max())
			}
		}
	})
}

func TestAddingUpHistogramsIsAddingUpTheirTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(duration()).Draw(t, "a"), rapid.SliceOf(duration()).Draw(t, "b")
		sum := of(a...)
		sum.Merge(of(b...))
		if !bytes.Equal(encode(t, sum), encode(t, of(append(b, a...)...))) {
			t.Fatalf("%v and %v do not add up", a, b)
		}
	})
}

func TestWhatIsEncodedComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := of(rapid.SliceOf(duration()).Draw(t, "times")...)
		encoded := encode(t, h)
		back, err := latency.Parse(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if back.Count() != h.Count() || back.Max() != h.Max() || back.Quantile(0.5) != h.Quantile(0.5) {
			t.Fatalf("%d times up to %s came back as %d up to %s", h.Count(), h.Max(), back.Count(), back.Max())
		}
		if !bytes.Equal(encoded, encode(t, back)) {
			t.Fatal("it is encoded otherwise the second time")
		}
	})
}

// The borders are constants that nobody can check by looking at them.
func TestAnEighthOfADoublingBeginsWhereItShould(t *testing.T) {
	for i, step := range latency.Steps() {
		// step^8 >= 2^(8*63+i), and one less is below.
		bound := new(big.Int).Lsh(big.NewInt(1), uint(8*63+i))
		eighth := func(n *big.Int) *big.Int { return new(big.Int).Exp(n, big.NewInt(8), nil) }
		n := new(big.Int).SetUint64(step)
		if eighth(n).Cmp(bound) < 0 || eighth(new(big.Int).Sub(n, big.NewInt(1))).Cmp(bound) >= 0 {
			t.Errorf("step %d is %#x", i, step)
		}
	}
}

func TestWhatIsEmptyHasNoTimes(t *testing.T) {
	h := of()
	if h.Count() != 0 || h.Max() != 0 || h.Quantile(0.5) != 0 || len(encode(t, h)) != 0 {
		t.Errorf("%d times, the longest %s, encoded %x", h.Count(), h.Max(), encode(t, h))
	}
	h.Merge(of())
	h.Merge(of(time.Second))
	h.Merge(of())
	if h.Count() != 1 || h.Quantile(0.5) != time.Second {
		t.Errorf("%d times, half of them below %s", h.Count(), h.Quantile(0.5))
	}
}

func TestAClockThatWasPutBackMakesNoTimeBelowZero(t *testing.T) {
	if h := of(-time.Hour); h.Count() != 1 || h.Quantile(0.5) != 0 || h.Max() != 0 {
		t.Errorf("half of %d below %s", h.Count(), h.Quantile(0.5))
	}
}

func TestWhatUsuallyTakesAboutAsLongTakesFewBytes(t *testing.T) {
	h := of()
	for i := range 100_000 {
		h.Add(time.Duration(10+i%30) * time.Millisecond)
	}
	if n := len(encode(t, h)); n > 60 {
		t.Errorf("%d bytes", n)
	}
}

func TestWhatIsNoHistogramIsRefused(t *testing.T) {
	good := encode(t, of(time.Millisecond, time.Second))
	for name, data := range map[string][]byte{
		"another version":           {2, 1, 1, 1},
		"a version and no more":     {1},
		"cut off":                   good[:len(good)-1],
		"too long":                  append(slices.Clone(good), 0),
		"a bucket that is not":      {1, 1, 0xff, 0xff, 0x03, 1},
		"no counts":                 {1, 1, 1},
		"empty at the end":          {1, 1, 0, 48, 0, 0},
		"the longest somewhere":     {1, 9, 1, 1},
		"more than can be counted":  {1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1},
		"a number without an end":   {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"longer than time can last": {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xd0, 0x02, 1},
	} {
		if _, err := latency.Parse(data); !errors.Is(err, latency.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(f, of(0, time.Millisecond, time.Hour)))
	f.Add([]byte{1, 1, 0, 0, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := latency.Parse(data)
		if err != nil {
			return
		}
		again, err := latency.Parse(encode(t, h))
		if err != nil || again.Count() != h.Count() || again.Max() != h.Max() || again.Quantile(0.9) != h.Quantile(0.9) {
			t.Errorf("%x: %d times, then %d, %v", data, h.Count(), again.Count(), err)
		}
		if h.Quantile(0.5) > h.Max() {
			t.Errorf("%x: half take %s, none above %s", data, h.Quantile(0.5), h.Max())
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	h := of()
	for i := 0; b.Loop(); i++ {
		h.Add(time.Duration(i&0xfffff) * time.Microsecond)
	}
}
