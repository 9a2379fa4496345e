package meter

import (
	"os"
	"testing"
	"time"
)

func TestAProcessMayHaveAnyName(t *testing.T) {
	const line = "12 (a ) R (b) S 7 12 12 0 -1 4194560 1 2 3 4 150 50 1000 500 20 0 1 0 4242 1 2 3"
	got, ok := parseProcess(line)
	want := process{name: "a ) R (b", parent: 7, own: 2 * time.Second, reaped: 15 * time.Second, started: 42420 * time.Millisecond}
	if !ok || got != want {
		t.Errorf("got %+v, %t", got, ok)
	}
	for _, line := range []string{"", "12 (a", "12 (a) S 7"} {
		if _, ok := parseProcess(line); ok {
			t.Errorf("%q was taken for a process", line)
		}
	}
}

func TestAProcessThatIsNotPostgresIsNoServer(t *testing.T) {
	if got := findPostmaster(os.Getpid(), time.Now()); got != 0 {
		t.Errorf("our own parent %d was taken for a postmaster", got)
	}
}
