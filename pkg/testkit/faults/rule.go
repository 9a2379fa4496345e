package faults

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
)

// Fault is what happens to a request.
type Fault int

// The faults, in the order of how far the server gets.
const (
	// Pass is none: the request is only counted.
	Pass Fault = iota
	// HoldRequest keeps the request from the server for a time.
	HoldRequest
	// CutBefore cuts the connection; nothing of the request is executed.
	CutBefore
	// CutBeforeCommit cuts the connection when everything is executed but the commit, so the server rolls back.
	CutBeforeCommit
	// HoldCommit holds the commit for a time, when everything before it is executed. What that answered reaches the client.
	HoldCommit
	// CommitLate cuts the connection to the client, who does not know more than with CutBeforeCommit; but the commit comes.
	CommitLate
	// HoldAnswer holds the answer for a time; what was asked for is done.
	HoldAnswer
	// LoseAnswer cuts the connection to the client when the server has answered.
	LoseAnswer
)

func (f Fault) String() string {
	switch f {
	case Pass:
		return "pass"
	case HoldRequest:
		return "hold the request"
	case CutBefore:
		return "cut before the request"
	case CutBeforeCommit:
		return "cut before the commit"
	case HoldCommit:
		return "hold the commit"
	case CommitLate:
		return "commit late"
	case HoldAnswer:
		return "hold the answer"
	case LoseAnswer:
		return "lose the answer"
	default:
		return fmt.Sprintf("fault %d", int(f))
	}
}

// aboutCommits are of no use for a request that commits nothing.
func (f Fault) aboutCommits() bool {
	return f == CutBeforeCommit || f == HoldCommit || f == CommitLate
}

// Always is a number of Times without an end.
const Always = math.MaxInt

// Rule says what happens to which requests.
type Rule struct {
	Fault Fault
	// Match picks the requests. Those that commit nothing are not offered to it when the fault is about the commit.
	Match Match
	// Times is how many requests it happens to; 0 means one.
	Times int
	// For is how long what is held is held; 0 means until Release.
	For time.Duration
}

// Armed is a rule that waits for its requests, or has met them.
type Armed struct {
	rule Rule

	mu       sync.Mutex
	left     int
	fired    int
	over     int
	released chan struct{} // closed by Release
}

// takes reports whether the rule is for this request, which is then one of its Times.
func (a *Armed) takes(r *request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left == 0 || r.split || a.rule.Fault.aboutCommits() && !r.Commits || !a.rule.Match(r.Request) {
		return false
	}
	a.left--
	return true
}

func (a *Armed) fire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fired++
}

// Fired is how many requests it has happened to: those that were cut, or whose answer is lost, or that are or were held, or have
// passed.
func (a *Armed) Fired() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fired
}

// Wait waits until it has happened n times.
func (a *Armed) Wait(t testing.TB, n int) {
	t.Helper()
	probe.Eventually(t, fmt.Sprintf("%s %d times", a.rule.Fault, n), func() bool { return a.Fired() >= n })
}

// Over waits until n of those that it has happened to are over: cut, or sent on after they were held. What was to be committed
// late is committed.
func (a *Armed) Over(t testing.TB, n int) {
	t.Helper()
	probe.Eventually(t, fmt.Sprintf("%s is over %d times", a.rule.Fault, n), func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.over >= n
	})
}

func (a *Armed) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over++
}

// Disarm lets all further requests pass. What is held is held on.
func (a *Armed) Disarm() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left = 0
}

// Release lets go what is held, and holds nothing any more: what the rule still meets, it meets without a delay.
func (a *Armed) Release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.released:
	default:
		close(a.released)
	}
}

// hold returns when what is held may go on; false when the proxy is closed instead.
func (a *Armed) hold(closed <-chan struct{}) bool {
	var over <-chan time.Time
	if a.rule.For > 0 {
		timer := time.NewTimer(a.rule.For)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-a.released:
		return true
	case <-over:
		return true
	case <-closed:
		return false
	}
}
