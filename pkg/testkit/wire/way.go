package wire

import (
	"sync"
	"time"
)

// Way is one direction of a wire.
type Way struct {
	mu      sync.Mutex
	state   state
	changed chan struct{} // closed by the next change
	lost    int64
}

// state says what becomes of what comes. The zero state passes everything.
type state struct {
	held, lost bool
	late       time.Duration
	rate       int // bytes per second
}

// wake is how often a second something drips.
const wake = 50

func newWay() *Way { return &Way{changed: make(chan struct{})} }

// Pass lets everything through, what was held first.
func (w *Way) Pass() { w.set(state{}) }

// Hold lets nothing through and loses nothing.
func (w *Way) Hold() { w.set(state{held: true}) }

// Drop loses what comes from now on, and what was held.
func (w *Way) Drop() { w.set(state{lost: true}) }

// Delay lets everything through that much after it came.
func (w *Way) Delay(by time.Duration) { w.set(state{late: by}) }

// Drip lets so many bytes through in a second, on each connection; at least one in each 50th of a second.
func (w *Way) Drip(bytesPerSecond int) { w.set(state{rate: max(bytesPerSecond, wake)}) }

// Lost is how many bytes were lost so far.
func (w *Way) Lost() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

func (w *Way) lose(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost += int64(n)
}

func (w *Way) set(s state) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Way) now() (state, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.changed
}
