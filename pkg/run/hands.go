package run

import "sync"

// Hands are goroutines that stay for what is done again and again. A new goroutine begins with a small stack, and has it copied each
// time it turns out too small; one that stays has a stack that fits.
type Hands struct {
	work chan func()
	all  sync.WaitGroup
}

// NewHands has none yet: they come with the work. Wait must be called in the end.
func NewHands() *Hands { return &Hands{work: make(chan func())} }

// Go does something beside the caller, and at once: if no hand is free, there is one more from then on. What is done must not end
// its goroutine.
func (h *Hands) Go(do func()) {
	select {
	case h.work <- do:
	default:
		work := h.work
		h.all.Go(func() {
			do()
			for do := range work {
				do()
			}
		})
	}
}

// Wait waits until all is done, and lets the hands go. As with a sync.WaitGroup nothing may be given to them meanwhile; it may be
// afterwards.
func (h *Hands) Wait() {
	close(h.work)
	h.all.Wait()
	h.work = make(chan func())
}
