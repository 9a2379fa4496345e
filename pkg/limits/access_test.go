package limits_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// password asks who has a name and a password.
func password(username, password string) *accessv1.AuthenticateRequest {
	return &accessv1.AuthenticateRequest{Credentials: &accessv1.AuthenticateRequest_Password{Password: &accessv1.Password{Username: username, Password: password}}}
}

func token(text string) *accessv1.AuthenticateRequest {
	return &accessv1.AuthenticateRequest{Credentials: &accessv1.AuthenticateRequest_Token{Token: text}}
}

func user(username, password string) *accessv1.CreateUserRequest {
	return &accessv1.CreateUserRequest{Username: username, Password: password}
}

// schedule is one that passes, changed.
func schedule(change func(*dispatcherv1.TaskSchedule)) *dispatcherv1.CreateTaskScheduleRequest {
	s := &dispatcherv1.TaskSchedule{Name: "nightly", Task: newSpec("test.noop"), DispatchInterval: durationpb.New(time.Hour)}
	change(s)
	return &dispatcherv1.CreateTaskScheduleRequest{Schedule: s}
}

func scheduled(change func(*taskv1.TaskSpec)) *dispatcherv1.CreateTaskScheduleRequest {
	return schedule(func(s *dispatcherv1.TaskSchedule) { change(s.GetTask()) })
}

func TestBadUsersAndSchedulesNameTheFieldAndTheRule(t *testing.T) {
	const secret = "correct horse"
	for _, c := range []struct {
		name        string
		request     proto.Message
		field, rule string
	}{
		{"no credentials", &accessv1.AuthenticateRequest{}, "credentials", "is required"},
		{"client with a line", &accessv1.AuthenticateRequest{Credentials: token("t").GetCredentials(), Client: "a\nb"}, "client", "U+000A"},
		{"no user", user("", secret), "username", "must be 1 to 150 letters"},
		{"user with a space", user("a b", secret), "username", "must be 1 to 150 letters"},
		{"user with a slash", user("a/b", secret), "username", "must be 1 to 150 letters"},
		{"user with a colon, which basic credentials can't carry", user("a:b", secret), "username", "must be 1 to 150 letters"},
		{"user of another alphabet", user("jürgen", secret), "username", "must be 1 to 150 letters"},
		{"user in invalid UTF-8", user("a\xff", secret), "username", "must be 1 to 150 letters"},
		{"no password", user("a", ""), "password", "at least 8 bytes"},
		{"password of the name", user("Administrator", "administrator"), "password", "must not be the name"},
		{"new password of the name", &accessv1.SetPasswordRequest{Username: "administrator", Password: "ADMINISTRATOR"}, "password", "must not be the name"},
		{"user without a name", &accessv1.DeleteUserRequest{}, "username", "must be 1 to 150 letters"},
		{"token of nobody", &accessv1.CreateTokenRequest{}, "user_id", "must be between 1"},
		{"no token to delete", &accessv1.DeleteTokenRequest{}, "token", "must not be empty"},

		{"no schedule", &dispatcherv1.CreateTaskScheduleRequest{}, "schedule", "is required"},
		{"schedule without a name", schedule(func(s *dispatcherv1.TaskSchedule) { s.Name = " " }), "schedule.name", "must not be empty"},
		{"schedule without a task", schedule(func(s *dispatcherv1.TaskSchedule) { s.Task = nil }), "schedule.task", "is required"},
		{"schedule of a bad task", scheduled(func(s *taskv1.TaskSpec) { s.ArgsJson = "{}" }), "schedule.task.args_json", "array"},
		{"immediate", scheduled(func(s *taskv1.TaskSpec) { s.Immediate = true }), "schedule.task.immediate", "must not be set in a schedule"},
		{"parent", scheduled(func(s *taskv1.TaskSpec) { s.ParentId = id }), "schedule.task.parent_id", "must not be set in a schedule"},
		{"group", scheduled(func(s *taskv1.TaskSpec) { s.GroupId = id }), "schedule.task.group_id", "must not be set in a schedule"},
		{"request id", scheduled(func(s *taskv1.TaskSpec) { s.RequestId = "r" }), "schedule.task.request_id", "must not be set in a schedule"},
		{"files", scheduled(func(s *taskv1.TaskSpec) { s.FileIds = []string{id} }), "schedule.task.file_ids", "must not be set in a schedule"},
		{"next time before there were times", schedule(func(s *dispatcherv1.TaskSchedule) {
			s.NextDispatch = timestamppb.New(time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC))
		}), "schedule.next_dispatch", "1970"},
		{"next time that is none", schedule(func(s *dispatcherv1.TaskSchedule) { s.NextDispatch = &timestamppb.Timestamp{Nanos: -1} }), "schedule.next_dispatch", "1970"},
		{"interval that is none", schedule(func(s *dispatcherv1.TaskSchedule) { s.DispatchInterval = &durationpb.Duration{Seconds: 1, Nanos: -1} }), "schedule.dispatch_interval", ""},
		{"schedule by no id", &dispatcherv1.GetTaskScheduleRequest{ScheduleId: "nightly"}, "schedule_id", "must be a UUID"},
		{"schedule to delete by no id", &dispatcherv1.DeleteTaskScheduleRequest{}, "schedule_id", "is required"},
		{"group to cancel by no id", &dispatcherv1.CancelTaskGroupRequest{GroupId: "g"}, "group_id", "must be a UUID"},
		{"task of nobody's user", spec(func(s *taskv1.TaskSpec) { s.CreatedBy = -1 }), "task.created_by", "must be between 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := violations(t, c.request)
			if diff := cmp.Diff([]string{c.field}, fields(got)); diff != "" {
				t.Error(diff)
			} else if !strings.Contains(got[0].Rule, c.rule) {
				t.Errorf("%q does not say %q", got[0].Rule, c.rule)
			}
		})
	}
}

func TestGoodUsersAndSchedulesPass(t *testing.T) {
	for name, request := range map[string]proto.Message{
		"what nobody can have is wrong, not malformed": password("jürgen\x00", "\xff"),
		"short password that is only tried":            password("a", ""),
		"token":                                        token("t"),
		"user with all signs":                          user("Ab9@.+-_", "\x00\x01 ü\n678"),
		"name as a part of the password":               user("a", "aaaaaaaa"),
		"schedule":                                     schedule(func(*dispatcherv1.TaskSchedule) {}),
		"schedule for once":                            schedule(func(s *dispatcherv1.TaskSchedule) { s.DispatchInterval = nil }),
		"schedule that begins later":                   schedule(func(s *dispatcherv1.TaskSchedule) { s.NextDispatch = timestamppb.Now() }),
		"schedule that begins with the clock":          schedule(func(s *dispatcherv1.TaskSchedule) { s.NextDispatch = &timestamppb.Timestamp{} }),
		"schedule of a task with resources and retries": scheduled(func(s *taskv1.TaskSpec) {
			s.ExclusiveResources, s.Retry = []string{"r"}, &taskv1.RetryPolicy{MaxAttempts: 3}
		}),
	} {
		if got := violations(t, request); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
