// Package probe waits for facts that can only be looked at.
//
// # Owns
//
// How often a test looks, and how long it is patient. A fact that a channel can tell needs no probe: wait for the channel.
//
// # Failure
//
// The test fails with what it waited for. The patience is no claim about speed; it only ends when something is broken.
package probe

import (
	"testing"
	"time"
)

const (
	look     = 5 * time.Millisecond
	patience = time.Minute
)

// Eventually returns when holds does, and fails the test when that takes a minute. It is for what only the database,
// another process or another goroutine knows. What says it in words: "the leader is followed".
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
