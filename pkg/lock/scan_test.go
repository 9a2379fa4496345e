package lock_test

// scan is the reference: the unblocking pass that Pulp's workers make over all incomplete tasks, oldest first. It is
// slow and obviously right, and knows nothing of queues.
type scan struct {
	tasks []*scanned // incomplete, oldest first
}

type scanned struct {
	seq               int64
	exclusive, shared map[string]bool
	unblocked         bool
}

func (s *scan) admit(seq int64, exclusive, shared []string) {
	k := &scanned{seq: seq, exclusive: map[string]bool{}, shared: map[string]bool{}}
	for _, name := range exclusive {
		k.exclusive[name] = true
	}
	for _, name := range shared {
		if !k.exclusive[name] {
			k.shared[name] = true
		}
	}
	s.tasks = append(s.tasks, k)
}

func (s *scan) release(seq int64) {
	for i, k := range s.tasks {
		if k.seq == seq {
			s.tasks = append(s.tasks[:i], s.tasks[i+1:]...)
			return
		}
	}
}

// unblock makes one pass and returns the tasks it unblocked. Blocked or not, each task keeps all its resources from the
// younger ones.
func (s *scan) unblock() (unblocked []int64) {
	exclusive, shared := map[string]bool{}, map[string]bool{}
	for _, k := range s.tasks {
		if !k.unblocked && disjoint(k.exclusive, exclusive) && disjoint(k.exclusive, shared) && disjoint(k.shared, exclusive) {
			k.unblocked = true
			unblocked = append(unblocked, k.seq)
		}
		for name := range k.exclusive {
			exclusive[name] = true
		}
		for name := range k.shared {
			shared[name] = true
		}
	}
	return unblocked
}

func disjoint(a, b map[string]bool) bool {
	for name := range a {
		if b[name] {
			return false
		}
	}
	return true
}
