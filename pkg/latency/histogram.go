package latency

import (
	"math"
	"math/bits"
	"time"
)

const (
	// perDoubling is how many buckets a doubling of the time is divided into: each is 2^(1/8), about 9 %, wide.
	perDoubling = 8
	// doublings of a microsecond have buckets: up to 2^42 µs, 50 days. What took longer is in the last one.
	doublings = 42
	// buckets is how many there are; the first is for zero.
	buckets = 1 + doublings*perDoubling
	// slack is how many buckets beside the one that is needed room is made for: neighbours are needed next.
	slack = perDoubling / 2
)

// steps are where the buckets of a doubling begin: 2^(63+i/8), rounded up. A whole number belongs to the bucket of the last one that
// its bits, shifted to the left end, are not below, so the borders are exact, and the same on every machine.
var steps = [perDoubling]uint64{
	0x8000000000000000, 0x8b95c1e3ea8bd6e7, 0x9837f0518db8a970, 0xa5fed6a9b15138eb,
	0xb504f333f9de6485, 0xc5672a115506dade, 0xd744fccad69d6af5, 0xeac0c6e7dd24392f,
}

// Histogram counts times. The zero value has none. It is not for several goroutines at once.
type Histogram struct {
	// counts are those of the buckets from first on.
	counts []uint64
	first  int
	count  uint64
	max    uint64 // in microseconds
}

// Add counts a time, in whole microseconds. One below zero, by a clock that was put back, counts as zero.
func (h *Histogram) Add(d time.Duration) {
	us := uint64(max(0, d.Microseconds()))
	i := bucketOf(us)
	h.reach(i, i)
	h.counts[i-h.first]++
	h.count++
	h.max = max(h.max, us)
}

// Merge adds all that another has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.count == 0 {
		return
	}
	h.reach(other.first, other.first+len(other.counts)-1)
	for i, n := range other.counts {
		h.counts[other.first-h.first+i] += n
	}
	h.count += other.count
	h.max = max(h.max, other.max)
}

// Count is how many times were added.
func (h *Histogram) Count() int64 { return int64(h.count) }

// Max is the longest of them, to the microsecond; 0 if there is none.
func (h *Histogram) Max() time.Duration { return duration(float64(h.max)) }

// Quantile is the time that a share of all, 0 to 1, did not exceed, within 5 %; 0 if there is none. That of all is Max, and none is
// above that.
func (h *Histogram) Quantile(share float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	// A share like 0.07 is no binary fraction, and must not be rounded up to the next one.
	rank := uint64(min(max(1, math.Ceil(share*float64(h.count)-1e-9)), float64(h.count)))
	if rank == h.count {
		return h.Max()
	}
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return h.stands(h.first + i)
		}
	}
	return h.Max()
}

// stands is the time that stands for all of a bucket: it is as wrong for the shortest of them as for the longest.
func (h *Histogram) stands(bucket int) time.Duration {
	low, high := float64(lowest(bucket)), float64(h.max)
	if bucket+1 < buckets {
		high = min(high, float64(lowest(bucket+1)-1))
	}
	if low >= high {
		return duration(high)
	}
	return duration(2 * low * high / (low + high))
}

// reach makes room for the buckets from low to high.
func (h *Histogram) reach(low, high int) {
	end := h.first + len(h.counts)
	if len(h.counts) > 0 && low >= h.first && high < end {
		return
	}
	if len(h.counts) == 0 {
		h.first, end = low, high+1
	}
	first := min(h.first, max(0, low-slack))
	last := max(end, min(buckets, high+1+slack))
	wider := make([]uint64, last-first)
	copy(wider[h.first-first:], h.counts)
	h.first, h.counts = first, wider
}

// bucketOf is the number of the bucket for a time in microseconds.
func bucketOf(us uint64) int {
	if us == 0 {
		return 0
	}
	octave := bits.Len64(us) - 1
	if octave >= doublings {
		return buckets - 1
	}
	aligned, step := us<<(63-octave), 0
	for step+1 < perDoubling && aligned >= steps[step+1] {
		step++
	}
	return 1 + octave*perDoubling + step
}

// lowest is the shortest time of a bucket, in microseconds. Of the shortest buckets some have none, for there is nothing between one
// microsecond and two: there it is that of the next one.
func lowest(bucket int) uint64 {
	if bucket == 0 {
		return 0
	}
	octave, step := (bucket-1)/perDoubling, (bucket-1)%perDoubling
	low := steps[step] >> (63 - octave)
	if low<<(63-octave) < steps[step] {
		low++
	}
	return low
}

func duration(us float64) time.Duration { return time.Duration(us * float64(time.Microsecond)) }
