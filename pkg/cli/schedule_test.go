package cli

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// planned is a server with two schedules.
func planned(t *testing.T) *clienttest.Server {
	t.Helper()
	server := clienttest.New(t)
	for _, args := range [][]string{
		{
			"nightly", "command.run", "--every", "24h", "--at", "2027-03-01T02:00:00Z", "--args", "[]", "--kwargs", `{"argv": ["ls"], "n": 12345678901234567890}`,
			"--exclusive", "e1", "--exclusive", "e2", "--shared", "s", "--need", "core=3.1", "--correlation-id", "c", "--timeout", "90s",
			"--retry", "3", "--retry-backoff", "0s", "--retry-on", "TIMEOUT", "--profile", "memory",
		},
		{"a first one", "test.noop"},
	} {
		if got := ask(t, server, append([]string{"schedule", "create"}, args...)...); got.code != exitOK {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	server.ChangeSchedules(func(s *dispatcherv1.TaskSchedule) {
		s.CreatedAt, s.UpdatedAt = timestamppb.New(now().Add(-90*time.Second)), timestamppb.New(now())
		if s.GetDispatchInterval() == nil {
			s.NextDispatch = nil
		} else {
			s.LastTaskId = clienttest.ID(7)
		}
	})
	return server
}

func TestOutputOfSchedules(t *testing.T) {
	for name, args := range map[string][]string{
		"schedule-create":     {"schedule", "create", "another", "test.noop", "--at", "90s"},
		"schedule-create-old": {"schedule", "create", "a first one", "test.noop"},
		"schedule-list":       {"schedule", "list"},
		"schedule-show":       {"schedule", "show", clienttest.ScheduleID(1)},
		"schedule-show-once":  {"schedule", "show", clienttest.ScheduleID(2)},
		"schedule-delete":     {"schedule", "delete", clienttest.ScheduleID(1), clienttest.ScheduleID(9)},
	} {
		for _, form := range []string{"text", "json"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				got := ask(t, planned(t), append(args, "--output", form)...)
				if form == "json" && got.stdout != "" {
					isJSON(t, got.stdout)
				}
				golden(t, form+"/"+name, got.String())
			})
		}
	}
}

func TestNoSchedules(t *testing.T) {
	server := clienttest.New(t)
	check(t, outcome{stderr: "there are no schedules\n"}, ask(t, server, "schedule", "list"))
	check(t, outcome{stdout: "[]\n"}, ask(t, server, "schedule", "list", "-o", "json"))
}

func TestScheduleMistakesAreNamedByTheirFlags(t *testing.T) {
	server := clienttest.New(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"every":       {[]string{"n", "t", "--every", "0s"}, "--every: must be more than 0s, is 0s"},
		"often":       {[]string{"n", "t", "--every", "10ms"}, "every: "},
		"seldom":      {[]string{"n", "t", "--every", "876000h"}, "every: "},
		"at":          {[]string{"n", "t", "--at", "noon"}, `--at: must be a time such as 2026-03-01T00:00:00Z, or a duration such as 90s, is "noon"`},
		"in the past": {[]string{"n", "t", "--at=-1h"}, `--at: must be a time`},
		"a long time": {[]string{"n", "t", "--at", "1900-01-01T00:00:00Z"}, "at: "},
		"name":        {[]string{" ", "t"}, "name: "},
		"task":        {[]string{"n", " "}, "task: "},
		"resource":    {[]string{"n", "t", "--exclusive", " "}, "exclusive[0]: "},
		"args":        {[]string{"n", "t", "--args", "{}"}, "--args: must be JSON for an array, is {}"},
		"profile":     {[]string{"n", "t", "--profile", ""}, "profile[0]: "},
	} {
		got := ask(t, server, append([]string{"schedule", "create"}, c.args...)...)
		if got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+c.want) || got.stdout != "" {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
	if got := ask(t, server, "schedule", "show", "x"); got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: id: ") {
		t.Errorf("got %+v", got)
	}
}
