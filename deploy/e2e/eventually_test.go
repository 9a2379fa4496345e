package e2e

import (
	"testing"
	"time"
)

const (
	// patience is how long anything may take that takes a moment on a quiet machine. It is no claim about speed.
	patience = 60 * time.Second
	look     = 20 * time.Millisecond
)

// eventually calls check until it returns nil, and fails the test with its last error when that takes too long.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s: %v", what, patience, err)
		}
		<-ticker.C
	}
}
