package status

// Waiting is how many waiters are registered for a task.
func (s *Service) Waiting(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiters[id])
}

// Registered is for how many tasks there are waiters.
func (s *Service) Registered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiters)
}

// Following tells whether a leader is followed.
func (s *Service) Following() bool { return s.following.Load() }

// PageBytes ends a page early.
const PageBytes = pageBytes
