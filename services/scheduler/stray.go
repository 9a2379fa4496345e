package scheduler

import "time"

const (
	// longestLease is how long a lease lasts at most; the flag for it allows no more.
	longestLease = time.Minute
	// strayLooks is how many looks a leader gets to renew a lease that the clock ran away from. It needs one.
	strayLooks = 3
)

// stray is a standby's memory of a lease that ends later than any lease can: the database's clock went back since it was renewed.
// A leader that lives renews it in its next look. One that died meanwhile does not, and its lease would last for as long as the
// clock went back.
type stray struct {
	epoch int64 // 0: there is none
	since time.Time
}

// see takes note of what an attempt to take the lease has found.
func (s *stray) see(seat Seat) {
	switch {
	case seat.Left <= longestLease:
		*s = stray{}
	case s.epoch != seat.Epoch:
		*s = stray{epoch: seat.Epoch, since: time.Now()}
	}
}

// over reports whether its holder had that long to renew it, and did not.
func (s *stray) over(within time.Duration) bool { return s.epoch != 0 && time.Since(s.since) > within }
