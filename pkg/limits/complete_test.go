package limits_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sluice-tasks/sluice/pkg/limits"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// eachRequest calls do with an empty request of every method of every service of ours.
func eachRequest(t *testing.T, do func(method protoreflect.MethodDescriptor, empty proto.Message)) {
	t.Helper()
	found := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "sluice.") {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				kind, err := protoregistry.GlobalTypes.FindMessageByName(methods.Get(j).Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				found++
				do(methods.Get(j), kind.New().Interface())
			}
		}
		return true
	})
	if found < 20 {
		t.Fatalf("only %d methods found: the walk is broken", found)
	}
}

func TestEveryRequestOfEveryServiceIsKnown(t *testing.T) {
	eachRequest(t, func(method protoreflect.MethodDescriptor, empty proto.Message) {
		if !limits.Knows(empty) {
			t.Errorf("%s: %s has no rules in Check", method.FullName(), empty.ProtoReflect().Descriptor().FullName())
		}
	})
}

// The walk above sees the packages that are linked into this test. A new service must be among them.
func TestEveryServicePackageIsSeen(t *testing.T) {
	folders, err := filepath.Glob("../pb/sluice/*/v1")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no generated packages found: %v", err)
	}
	for _, folder := range folders {
		pkg := "sluice." + filepath.Base(filepath.Dir(folder)) + ".v1"
		seen := false
		protoregistry.GlobalFiles.RangeFilesByPackage(protoreflect.FullName(pkg), func(protoreflect.FileDescriptor) bool {
			seen = true
			return false
		})
		if !seen {
			t.Errorf("%s is not linked in: Check can't know its requests", pkg)
		}
	}
}

func TestMessagesOfOthersPass(t *testing.T) {
	other := structpb.NewStringValue("x")
	if limits.Knows(other) {
		t.Error("a message of another package is known")
	}
	if err := limits.Check(other); err != nil {
		t.Errorf("it is refused: %v", err)
	}
}

// place is one string field, however deep: put makes a request with it set.
type place struct {
	name string
	put  func(value string) proto.Message
}

// places finds all string fields under a message. with turns a filled message into the whole request.
func places(message protoreflect.MessageType, path string, with func(protoreflect.Message) proto.Message) []place {
	if strings.Count(path, ".") > 6 {
		return nil // filters have no end
	}
	var found []place
	add := func(name string, set func(m protoreflect.Message, value string)) {
		found = append(found, place{name: name, put: func(value string) proto.Message {
			m := message.New()
			set(m, value)
			return with(m)
		}})
	}
	list := message.Descriptor().Fields()
	for i := range list.Len() {
		field := list.Get(i)
		name := path + "." + string(field.Name())
		text := field.Kind() == protoreflect.StringKind
		switch {
		case field.IsMap():
			add(name+" (key)", func(m protoreflect.Message, v string) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString(v).MapKey(), protoreflect.ValueOfString("1"))
			})
			add(name+" (value)", func(m protoreflect.Message, v string) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString(v))
			})
		case text && field.IsList():
			add(name+"[]", func(m protoreflect.Message, v string) { m.Mutable(field).List().Append(protoreflect.ValueOfString(v)) })
		case text:
			add(name, func(m protoreflect.Message, v string) { m.Set(field, protoreflect.ValueOfString(v)) })
		case field.Kind() == protoreflect.MessageKind:
			inner, err := protoregistry.GlobalTypes.FindMessageByName(field.Message().FullName())
			if err != nil {
				panic(err)
			}
			found = append(found, places(inner, name, func(m protoreflect.Message) proto.Message {
				outer := message.New()
				if field.IsList() {
					outer.Mutable(field).List().Append(protoreflect.ValueOfMessage(m))
				} else {
					outer.Set(field, protoreflect.ValueOfMessage(m))
				}
				return with(outer)
			})...)
		}
	}
	return found
}

// later are the parts of a worker's messages at which Check does not look, because a mistake there is the mistake of one run:
// it must not end the stream. Each has a check of its own, for which the same rules hold.
var later = map[string]func(*executorv1.WorkRequest) error{
	"WorkRequest.ended.outcome.":   func(r *executorv1.WorkRequest) error { return limits.CheckOutcome(r.GetEnded().GetOutcome()) },
	"WorkRequest.call.dispatch.":   checkCall,
	"WorkRequest.call.new_group.":  checkCall,
	"WorkRequest.call.keep_file.":  checkCall,
	"WorkRequest.call.fetch_file.": checkCall,
}

func checkCall(r *executorv1.WorkRequest) error { return limits.CheckCall(r.GetCall()) }

// check finds the check that is responsible for a place.
func (p place) check() func(proto.Message) error {
	for prefix, own := range later {
		if strings.HasPrefix(p.name, prefix) {
			return func(request proto.Message) error { return own(request.(*executorv1.WorkRequest)) }
		}
	}
	return limits.Check
}

// No text of a client is stored or compared without a bound on its length.
func TestEveryStringOfEveryRequestIsBounded(t *testing.T) {
	huge := strings.Repeat("1", 2<<20)
	seen := 0
	eachRequest(t, func(_ protoreflect.MethodDescriptor, empty proto.Message) {
		whole := func(m protoreflect.Message) proto.Message { return m.Interface() }
		for _, p := range places(empty.ProtoReflect().Type(), string(empty.ProtoReflect().Descriptor().Name()), whole) {
			seen++
			check := p.check()
			small, big := fmt.Sprint(check(p.put("1"))), fmt.Sprint(check(p.put(huge)))
			// A UUID is refused in any length but one; everything else must be refused for the length alone.
			if small == big && !strings.Contains(big, "must be a UUID") {
				t.Errorf("%s takes 2 MiB as it takes one byte: %.200s", p.name, big)
			}
		}
	})
	if seen < 40 {
		t.Errorf("only %d strings found: the walk is broken", seen)
	}
}

func TestMistakesOfOneRunDoNotEndTheStreamOfItsWorker(t *testing.T) {
	ended := &executorv1.RunEnded{TaskId: id, Claim: 1, Outcome: &taskv1.Outcome{State: taskv1.State_STATE_RUNNING, ResultJson: "no JSON"}}
	call := &executorv1.Call{TaskId: id, Request: &executorv1.Call_Dispatch{Dispatch: &taskv1.TaskSpec{Name: " ", ArgsJson: strings.Repeat("[", 2<<20)}}}
	for _, request := range []*executorv1.WorkRequest{
		{Message: &executorv1.WorkRequest_Ended{Ended: ended}}, {Message: &executorv1.WorkRequest_Call{Call: call}},
	} {
		if err := limits.Check(request); err != nil {
			t.Errorf("%.60s: %v", request, err)
		}
	}
	if limits.CheckOutcome(ended.GetOutcome()) == nil || limits.CheckCall(call) == nil {
		t.Error("and nobody refuses them")
	}
}

// comments reads, from the protos, the comment before each field, by "Message.field".
func comments(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../proto/sluice/*/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("no protos found: %v", err)
	}
	message := regexp.MustCompile(`^message (\w+) \{`)
	field := regexp.MustCompile(`^  +(?:repeated |optional )?[\w.<>, ]+ (\w+) = \d+`)
	found := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		in, comment := "", ""
		for line := range strings.Lines(string(text)) {
			if m := message.FindStringSubmatch(line); m != nil {
				in = m[1]
			}
			if c, is := strings.CutPrefix(strings.TrimSpace(line), "//"); is {
				comment += c
				continue
			}
			if m := field.FindStringSubmatch(line); m != nil && in != "" {
				found[in+"."+m[1]] = comment
			}
			comment = ""
		}
	}
	return found
}

// Readers of the protos see the numbers that are enforced.
func TestProtoCommentsStateTheLimits(t *testing.T) {
	number := func(n int) string {
		text := fmt.Sprint(n)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	}
	size := func(n int) string {
		if n >= 1<<20 {
			return fmt.Sprintf("%d MiB", n>>20)
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	bytes := func(n int) string { return number(n) + " bytes" }
	hours := func(d time.Duration) string { return fmt.Sprintf("0 to %d hours", int(d.Hours())) }
	days := func(d time.Duration) string { return fmt.Sprintf("%d days", int(d.Hours()/24)) }
	text := comments(t)
	for field, phrases := range map[string][]string{
		"TaskSpec.name":                       {bytes(limits.MaxName)},
		"TaskSpec.args_json":                  {size(limits.MaxJSON), fmt.Sprintf("%d deep", limits.MaxJSONDepth)},
		"TaskSpec.kwargs_json":                {size(limits.MaxJSON), fmt.Sprintf("%d deep", limits.MaxJSONDepth)},
		"TaskSpec.exclusive_resources":        {bytes(limits.MaxResourceName), number(limits.MaxResources) + " in both lists"},
		"TaskSpec.versions":                   {number(limits.MaxVersions) + " entries", bytes(limits.MaxName)},
		"TaskSpec.correlation_id":             {bytes(limits.MaxCorrelationID)},
		"TaskSpec.request_id":                 {"1 to " + bytes(limits.MaxRequestID)},
		"PurgeTasksRequest.page_size":         {number(limits.MaxPurge)},
		"TaskError.description":               {size(limits.MaxErrorText)},
		"TaskError.traceback":                 {size(limits.MaxErrorText)},
		"Task.result_json":                    {size(limits.MaxJSON)},
		"Outcome.result_json":                 {size(limits.MaxJSON)},
		"TaskSpec.timeout":                    {"1 millisecond to " + days(limits.MaxTimeout)},
		"TaskSpec.profile_options":            {number(limits.MaxProfiles), bytes(limits.MaxProfile)},
		"TaskSpec.file_ids":                   {number(limits.MaxFiles)},
		"TaskError.code":                      {number(limits.MaxCode) + " capital letters"},
		"RetryPolicy.max_attempts":            {"1 to " + number(limits.MaxAttempts)},
		"RetryPolicy.backoff":                 {hours(limits.MaxBackoff), "1 second"},
		"RetryPolicy.max_backoff":             {hours(limits.MaxBackoff), "1 minute"},
		"RetryPolicy.on":                      {number(limits.MaxRetryCodes)},
		"Progress.code":                       {bytes(limits.MaxName)},
		"Progress.message":                    {bytes(limits.MaxMessageText)},
		"Progress.suffix":                     {bytes(limits.MaxName)},
		"CreatedResource.resource":            {bytes(limits.MaxResourceName)},
		"PutTaskReportRequest.progress":       {number(limits.MaxParts)},
		"PutTaskReportRequest.created":        {number(limits.MaxCreated)},
		"PutTaskReportRequest.discarded":      {number(limits.MaxCreated)},
		"PutFileRequest.name":                 {bytes(limits.MaxName)},
		"PutFileRequest.data":                 {size(limits.MaxFilePart)},
		"GetFileResponse.data":                {size(limits.MaxFilePart)},
		"WorkerHello.name":                    {"1 to " + number(limits.MaxWorkerName)},
		"WorkerHello.handlers":                {number(limits.MaxTaskNames)},
		"WorkerHello.slots":                   {number(limits.MaxSlots)},
		"WorkerHello.immediate_slots":         {"0 to " + number(limits.MaxSlots)},
		"WorkerHello.versions":                {number(limits.MaxVersions), bytes(limits.MaxName)},
		"TaskHandler.name":                    {bytes(limits.MaxName)},
		"TaskHandler.timeout":                 {days(limits.MaxTimeout)},
		"RunLog.text":                         {size(limits.MaxLogText)},
		"NewGroup.description":                {bytes(limits.MaxDescription)},
		"CreateTaskGroupRequest.description":  {bytes(limits.MaxDescription)},
		"OfferRequest.settle_task_ids":        {number(limits.MaxPage)},
		"OfferRequest.tasks":                  {number(limits.MaxOffered)},
		"OfferedTask.name":                    {bytes(limits.MaxName)},
		"OfferedTask.exclusive_resources":     {number(limits.MaxResources+1) + " together"},
		"DispatchBatchRequest.tasks":          {"1 to " + number(limits.MaxBatch), size(limits.MaxMessage) + " in all"},
		"Report.acknowledged":                 {number(limits.MaxSlots)},
		"Report.finished":                     {number(limits.MaxSlots)},
		"Hello.executor":                      {bytes(limits.MaxName)},
		"Hello.slots":                         {"0 to " + number(limits.MaxSlots)},
		"Hello.immediate_slots":               {"0 to " + number(limits.MaxSlots)},
		"Hello.task_names":                    {number(limits.MaxTaskNames), bytes(limits.MaxName)},
		"ListResourcesRequest.page_size":      {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"GetResourceRequest.name":             {bytes(limits.MaxResourceName)},
		"GetResourceRequest.page_size":        {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"ListTasksRequest.name":               {bytes(limits.MaxName)},
		"ListTasksRequest.correlation_id":     {bytes(limits.MaxCorrelationID)},
		"ListTasksRequest.page_size":          {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"ListTasksRequest.page_token":         {bytes(limits.MaxName)},
		"ListTasksRequest.offset":             {number(limits.MaxOffset)},
		"ListTasksRequest.order":              {number(limits.MaxOrder) + " keys"},
		"Condition.values":                    {number(limits.MaxValues) + " values", bytes(limits.MaxResourceName)},
		"AwaitTasksRequest.timeout":           {fmt.Sprintf("%d minutes", int(limits.MaxWait.Minutes())), fmt.Sprintf("%d minute", int(limits.DefaultWait.Minutes()))},
		"WatchTasksRequest.resume":            {bytes(limits.MaxName)},
		"ListTaskGroupsRequest.page_size":     {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"ListTaskGroupsRequest.offset":        {number(limits.MaxOffset)},
		"PutTaskArtifactRequest.name":         {"1 to " + number(limits.MaxProfile), number(limits.MaxArtifacts) + " names"},
		"PutTaskArtifactRequest.content_type": {bytes(limits.MaxName)},
		"PutTaskArtifactRequest.data":         {size(limits.MaxArtifact)},
		"PutTaskReportRequest.group_progress": {number(limits.MaxParts) + " parts"},
		"GroupProgress.code":                  {bytes(limits.MaxName)},
		"GroupProgress.message":               {bytes(limits.MaxMessageText)},
		"GroupProgress.suffix":                {bytes(limits.MaxName)},
		"AuthenticateRequest.client":          {bytes(limits.MaxAddress)},
		"Password.username":                   {bytes(limits.MaxUsername)},
		"Password.password":                   {bytes(limits.MaxPassword)},
		"CreateUserRequest.password":          {number(limits.MinPassword) + " to " + bytes(limits.MaxPassword)},
		"SetPasswordRequest.password":         {number(limits.MinPassword) + " to " + bytes(limits.MaxPassword)},
		"TaskSchedule.name":                   {"1 to " + bytes(limits.MaxName)},
		"CreateTaskScheduleRequest.schedule":  {number(limits.MaxSchedules)},
		"WaitTasksRequest.task_ids":           {"1 to " + number(limits.MaxPage)},
		"WaitTasksRequest.timeout":            {fmt.Sprintf("%d minutes", int(limits.MaxWait.Minutes())), fmt.Sprintf("%d minute", int(limits.DefaultWait.Minutes()))},
		"GetTaskLogResponse.text":             {size(limits.MaxLog)},
		"PutTaskLogRequest.text":              {size(limits.MaxLog)},
		"GetStatsRequest.name":                {bytes(limits.MaxName)},
		"GetStatsRequest.since":               {fmt.Sprintf("%d days", int(limits.MaxSince.Hours()/24)), fmt.Sprintf("%d hour", int(limits.DefaultSince.Hours()))},
		"RegisterRequest.name":                {bytes(limits.MaxName)},
		"RegisterRequest.versions":            {number(limits.MaxVersions) + " entries"},
		"RegisterRequest.ttl":                 {fmt.Sprintf("%d second to %d hour", int(limits.MinTTL.Seconds()), int(limits.MaxTTL.Hours()))},
	} {
		comment, there := text[field]
		if !there {
			t.Errorf("%s is not in the protos", field)
		}
		for _, phrase := range phrases {
			if !strings.Contains(comment, phrase) {
				t.Errorf("%s: the comment %q does not say %q", field, comment, phrase)
			}
		}
	}
}
