package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

func TestPurgeTellsWhatItDeleted(t *testing.T) {
	server := clienttest.New(t)
	var asked []*dispatcherv1.PurgeTasksRequest
	server.OnPurge = func(r *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
		asked = append(asked, r)
		answer := &dispatcherv1.PurgeTasksResponse{Deleted: []*dispatcherv1.PurgedCount{
			{State: taskv1.State_STATE_COMPLETED, Count: 3}, {State: taskv1.State_STATE_FAILED, Count: 1},
		}}
		if r.GetPageToken() == "" {
			answer.NextPageToken = "17"
		}
		return answer, nil
	}
	check(t, outcome{stdout: "deleted: 6 completed, 2 failed\n"}, ask(t, server, "task", "purge", "--finished-before", "30d", "--yes"))
	if before := asked[0].GetFinishedBefore().AsTime(); len(asked) != 2 || !before.Equal(now().Add(-30*24*time.Hour)) || len(asked[0].GetStates()) != 0 {
		t.Errorf("asked for %v", asked)
	}
	asked = nil
	got := ask(t, server, "task", "purge", "--finished-before", "2026-01-01T12:00:00+02:00", "--state", "failed,canceled", "-y", "-o", "json")
	if got.code != exitOK || strings.Join(strings.Fields(got.stdout), "") != `{"deleted":{"completed":6,"failed":2}}` {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	want := []taskv1.State{taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED}
	if before := asked[0].GetFinishedBefore().AsTime(); !before.Equal(time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)) || !slices.Equal(asked[0].GetStates(), want) {
		t.Errorf("asked for %v", asked)
	}
}

func TestPurgeNeedsATimeAndAYes(t *testing.T) {
	server := clienttest.New(t)
	server.OnPurge = func(r *dispatcherv1.PurgeTasksRequest) (*dispatcherv1.PurgeTasksResponse, error) {
		t.Errorf("purged: %v", r)
		return &dispatcherv1.PurgeTasksResponse{}, nil
	}
	const form = `--finished-before: must be an age such as 30d or 12h, or a time such as 2026-03-01T00:00:00Z, is `
	for line, want := range map[string]string{
		"":                                           `missing flags: --finished-before`,
		"--finished-before 30d":                      `--yes: is required where nobody can be asked`,
		"--finished-before yesterday --yes":          form + `"yesterday"`,
		"--finished-before -3d --yes":                form + `"-3d"`,
		"--finished-before=-3h --yes":                form + `"-3h"`,
		"--finished-before 3 --yes":                  form + `"3"`,
		"--finished-before 99999999d --yes":          form + `"99999999d"`,
		"--finished-before 2026-03-01 --yes":         form + `"2026-03-01"`,
		"--finished-before 1h --state running --yes": `--state: must be one of completed, failed, canceled, skipped, is "running"`,
	} {
		got := ask(t, server, append([]string{"task", "purge"}, strings.Fields(line)...)...)
		if line == "--finished-before -3d --yes" { // the parser takes it for flags
			want = ""
		}
		if got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+want) {
			t.Errorf("%s: exit code %d, %s", line, got.code, got.stderr)
		}
	}
}

func TestAgesAndTimes(t *testing.T) {
	for text, want := range map[string]time.Time{
		"0s": now(), "90m": now().Add(-90 * time.Minute), "1d": now().Add(-24 * time.Hour), "36500d": now().Add(-36500 * 24 * time.Hour),
		"2026-03-01T00:00:00Z": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := moment(now(), text); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestAServerThatHasTooMuchToDoIsToldInWords(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(string) error {
		return &errs.Error{Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "7 tasks wait: try again later", RetryAfter: 20 * time.Millisecond}
	}
	check(t, outcome{code: exitNo, stderr: "sluice: the server has too much to do: 7 tasks wait: try again later\n"}, ask(t, server, "dispatch", "x"))
	if n := len(server.Specs()); n != 0 {
		t.Errorf("%d tasks are stored", n)
	}
}

func TestRequestIDReachesTheServer(t *testing.T) {
	server := clienttest.New(t)
	first := ask(t, server, "dispatch", "x", "--request-id", "nightly")
	check(t, first, ask(t, server, "dispatch", "x", "--request-id", "nightly"))
	if diff := cmp.Diff([]string{"nightly", "nightly"}, server.Requests()); diff != "" || first.code != exitOK {
		t.Errorf("exit code %d: %s", first.code, diff)
	}
	server.Fail = func(string) error {
		return errs.Exists(errs.RequestIDReused, "task.request_id belongs to another task: task.kwargs_json is not the same")
	}
	check(t, outcome{code: exitUsage, stderr: "sluice: --request-id belongs to another task: --kwargs is not the same\n"},
		ask(t, server, "dispatch", "x", "--request-id", "nightly"))
	got := ask(t, server, "dispatch", "x", "--request-id", strings.Repeat("x", 129))
	if got.code != exitUsage {
		t.Errorf("a long one: exit code %d, %s", got.code, got.stderr)
	}
}

func TestDispatcherRefusesLimitsThatMakeNoSense(t *testing.T) {
	for line, want := range map[string]string{
		"--max-pending-tasks 0":      `--max-pending-tasks: must be at least 1, is 0`,
		"--max-pending-bytes 10KiB":  `--max-pending-bytes: must be at least 1MiB`,
		"--max-live-tasks=-1":        `--max-live-tasks: must not be negative, is -1`,
		"--keep-tasks 1s":            `--keep-tasks: must be at least 1m, or 0s for ever, is 1s`,
		"--keep-tasks=-1h":           `--keep-tasks: must be at least 1m, or 0s for ever, is -1h0m0s`,
		"--max-pending-bytes 64Megs": `--max-pending-bytes`,
	} {
		got := sluice(t, nil, append([]string{"dispatcher"}, strings.Fields(line)...)...)
		if got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+want) {
			t.Errorf("%s: exit code %d, %s", line, got.code, got.stderr)
		}
	}
	var flags IntakeFlags
	flags.MaxPendingTasks, flags.MaxPendingBytes, flags.KeepTasks = 7, 2<<20, time.Hour
	cfg := dispatcher.Defaults()
	if err := flags.apply(&cfg); err != nil || cfg.MaxPending != 7 || cfg.MaxPendingBytes != 2<<20 || cfg.MaxLive != 0 || cfg.KeepTasks != time.Hour {
		t.Errorf("%+v, %v", cfg, err)
	}
}
