package heartbeat

import "context"

// Beat is one beat without a stream.
func (s *Service) Beat(ctx context.Context, incarnation string) error {
	return s.beat(ctx, incarnation)
}

// Pending is how many lives wait for their beat to be written.
func (s *Service) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}
