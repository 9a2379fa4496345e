package clock_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/clock"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// off fails the test when a clock is not ahead of ours as it should be, give or take what it took to ask.
func off(t *testing.T, unix int64, ahead time.Duration) {
	t.Helper()
	if is := time.Until(time.Unix(unix, 0)); (is - ahead).Abs() > time.Minute {
		t.Errorf("the clock is ahead by %s, want %s", is.Round(time.Second), ahead)
	}
}

var steps = []time.Duration{0, 5 * time.Minute, -5 * time.Minute, 0}

func TestAGoProgramHasTheClockAndAMonotonicOneThatIsRight(t *testing.T) {
	program := filepath.Join(t.TempDir(), "asks")
	clock.Build(t, "./testdata/asks", program)
	c := clock.New(t)
	cmd := exec.Command(program)
	cmd.Env = os.Environ()
	for name, value := range c.Go() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	ask, answers := talk(t, cmd)
	for _, ahead := range steps {
		c.Set(ahead)
		fmt.Fprintln(ask)
		var unix, passed int64
		if _, err := fmt.Fscanln(answers, &unix, &passed); err != nil {
			t.Fatal(err)
		}
		off(t, unix, ahead)
		if passed < 0 || passed > time.Minute.Milliseconds() {
			t.Errorf("set to %s, it counts %d ms since its start", ahead, passed)
		}
	}
}

// talk starts a program that ends with its input, and with the test.
func talk(t *testing.T, cmd *exec.Cmd) (io.Writer, *bufio.Reader) {
	t.Helper()
	ask, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ask.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return ask, bufio.NewReader(answers)
}

func TestAPostgreSQLHasTheClock(t *testing.T) {
	c := clock.New(t)
	db := pgtest.Own(t, pgtest.Options{Env: c.Libc()}).Admin()
	for _, ahead := range steps {
		c.Set(ahead)
		off(t, pgtest.One[int64](t, db, "select extract(epoch from clock_timestamp())::bigint"), ahead)
		off(t, pgtest.One[int64](t, db, "select extract(epoch from now())::bigint"), ahead)
	}
}
