package dispatcher

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
