package latency

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// version is the first byte of what is encoded, so that the buckets can be changed one day.
const version = 1

// ErrDamaged says that what was to be parsed is not a histogram.
var ErrDamaged = errors.New("damaged histogram")

// AppendBinary adds the encoded histogram to a slice; one that is empty adds nothing. It never fails.
//
// The form is the version, the longest time in microseconds, the number of the first bucket that is not empty, and the counts of the
// buckets from there on up to the last one that is not; a run of empty ones is a zero and by how many it is longer than one. All but
// the version are varints, so most buckets take a byte.
func (h *Histogram) AppendBinary(b []byte) ([]byte, error) {
	if h.count == 0 {
		return b, nil
	}
	filled := func(n uint64) bool { return n > 0 }
	first := slices.IndexFunc(h.counts, filled)
	b = append(b, version)
	b = binary.AppendUvarint(b, h.max)
	b = binary.AppendUvarint(b, uint64(h.first+first))
	empty := uint64(0)
	for _, n := range h.counts[first:] {
		if n == 0 {
			empty++
			continue
		}
		if empty > 0 {
			b = binary.AppendUvarint(append(b, 0), empty-1)
			empty = 0
		}
		b = binary.AppendUvarint(b, n)
	}
	return b, nil
}

// Parse reads an encoded histogram; nothing is one without times. Its error is ErrDamaged.
func Parse(data []byte) (*Histogram, error) {
	h := &Histogram{}
	if len(data) == 0 {
		return h, nil
	}
	if data[0] != version {
		return nil, fmt.Errorf("%w: unknown version %d", ErrDamaged, data[0])
	}
	r := reader{rest: data[1:]}
	longest, next := r.number(), r.number()
	if end := bucketOf(longest); next <= uint64(end) {
		h.reach(int(next), end)
	}
	last := -1 // the last bucket that is not empty
	for len(r.rest) > 0 && !r.bad && next < buckets {
		n := r.number()
		if n == 0 {
			next += min(r.number(), buckets) + 1
			continue
		}
		last = int(next)
		if n > math.MaxInt64-h.count {
			r.bad = true
			break
		}
		h.reach(int(next), int(next))
		h.counts[int(next)-h.first] += n
		h.count += n
		next++
	}
	switch {
	case r.bad || len(r.rest) > 0 || h.count == 0 || longest > math.MaxInt64/1000:
		return nil, fmt.Errorf("%w: it is cut off, or says more than there can be", ErrDamaged)
	case bucketOf(longest) != last:
		return nil, fmt.Errorf("%w: the longest time is not in the last bucket", ErrDamaged)
	}
	h.max = longest
	return h, nil
}

// reader takes varints off the front of what is left.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}
