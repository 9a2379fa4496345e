package dispatcher

import (
	"context"
	"time"
)

// What calls together put into one transaction, and what one hint carries.
const (
	MaxRows  = maxRows
	MaxBytes = maxBytes
	MaxOffer = maxOffer
)

// Waiting is how many calls wait behind the transaction that is under way.
func (s *Service) Waiting() int {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	return len(s.intake.waiting)
}

// PartSize is how much of a file is one row.
const PartSize = partSize

// NewReader makes what lets so many messages be read at a time, and so many wait for it.
func NewReader(atOnce, waiting int, within time.Duration) *reader {
	return newReader(atOnce, waiting, within)
}

// Read is read.
func (r *reader) Read(ctx context.Context, receive func() error) error { return r.read(ctx, receive) }
