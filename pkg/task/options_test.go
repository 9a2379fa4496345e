package task_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/task"
)

func TestOptionsComeBackAsTheyWereStored(t *testing.T) {
	for name, options := range map[string]task.Options{
		"none":    {},
		"timeout": {Timeout: 1500 * time.Millisecond},
		"a user":  {CreatedBy: 1<<53 + 1},
		"all": {
			Timeout: time.Hour, Profile: []string{"memory"}, Files: []string{"f1", "f2"}, CreatedBy: 7,
			Retry: &task.Retry{Attempts: 3, Backoff: time.Second, MaxBackoff: time.Minute, On: []string{"TIMEOUT"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := options.Text()
			if err != nil {
				t.Fatal(err)
			}
			if (text == "") != options.Empty() {
				t.Errorf("the text of %+v is %q", options, text)
			}
			back, err := task.ParseOptions(text)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, options) {
				t.Errorf("%+v came back as %+v", options, back)
			}
		})
	}
	if _, err := task.ParseOptions("{"); err == nil {
		t.Error("half a text was taken for options")
	}
}

func TestAFailureIsRetriedIfThePolicySaysSo(t *testing.T) {
	policy := &task.Retry{Attempts: 3}
	chosen := &task.Retry{Attempts: 3, On: []string{"TIMEOUT", "PERMANENT"}}
	failure := func(code string) *task.Error { return &task.Error{Code: code} }
	for _, c := range []struct {
		name     string
		policy   *task.Retry
		attempts int32
		failure  *task.Error
		want     bool
	}{
		{"no policy", nil, 1, failure("ERROR"), false},
		{"no failure", policy, 1, nil, false},
		{"first", policy, 1, failure("ERROR"), true},
		{"second", policy, 2, failure("ERROR"), true},
		{"last", policy, 3, failure("ERROR"), false},
		{"permanent", policy, 1, failure("PERMANENT"), false},
		{"permanent, though chosen", chosen, 1, failure("PERMANENT"), false},
		{"chosen", chosen, 1, failure("TIMEOUT"), true},
		{"not chosen", chosen, 1, failure("ERROR"), false},
	} {
		if got := c.policy.Again(c.attempts, c.failure); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestPausesDoubleUpToTheirLimitAndDiffer(t *testing.T) {
	policy := &task.Retry{Attempts: 100, Backoff: time.Second, MaxBackoff: 10 * time.Second}
	for attempts, most := range map[int32]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 99: 10 * time.Second} {
		seen := map[time.Duration]bool{}
		for range 50 {
			pause := policy.Pause(attempts)
			if pause < most/2 || pause > most {
				t.Fatalf("after %d attempts the pause is %s, not between half of %s and all of it", attempts, pause, most)
			}
			seen[pause] = true
		}
		if len(seen) < 2 {
			t.Errorf("after %d attempts all pauses are the same", attempts)
		}
	}
	if pause := (&task.Retry{Attempts: 2}).Pause(1); pause != 0 {
		t.Errorf("a backoff of zero is a pause of %s", pause)
	}
}
