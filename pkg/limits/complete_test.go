package limits_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sluice-tasks/sluice/pkg/limits"
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

// No text of a client is stored or compared without a bound on its length.
func TestEveryStringOfEveryRequestIsBounded(t *testing.T) {
	huge := strings.Repeat("1", 2<<20)
	seen := 0
	eachRequest(t, func(_ protoreflect.MethodDescriptor, empty proto.Message) {
		whole := func(m protoreflect.Message) proto.Message { return m.Interface() }
		for _, p := range places(empty.ProtoReflect().Type(), string(empty.ProtoReflect().Descriptor().Name()), whole) {
			seen++
			small, big := fmt.Sprint(limits.Check(p.put("1"))), fmt.Sprint(limits.Check(p.put(huge)))
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
	text := comments(t)
	for field, phrases := range map[string][]string{
		"TaskSpec.name":                      {bytes(limits.MaxName)},
		"TaskSpec.args_json":                 {size(limits.MaxJSON), fmt.Sprintf("%d deep", limits.MaxJSONDepth)},
		"TaskSpec.kwargs_json":               {size(limits.MaxJSON), fmt.Sprintf("%d deep", limits.MaxJSONDepth)},
		"TaskSpec.exclusive_resources":       {bytes(limits.MaxResourceName), number(limits.MaxResources) + " in both lists"},
		"TaskSpec.versions":                  {number(limits.MaxVersions) + " entries", bytes(limits.MaxName)},
		"TaskSpec.correlation_id":            {bytes(limits.MaxCorrelationID)},
		"TaskError.description":              {size(limits.MaxErrorText)},
		"TaskError.traceback":                {size(limits.MaxErrorText)},
		"Task.result_json":                   {size(limits.MaxJSON)},
		"Outcome.result_json":                {size(limits.MaxJSON)},
		"CreateTaskGroupRequest.description": {bytes(limits.MaxDescription)},
		"OfferRequest.settle_task_ids":       {number(limits.MaxPage)},
		"OfferRequest.tasks":                 {number(limits.MaxOffered)},
		"OfferedTask.name":                   {bytes(limits.MaxName)},
		"OfferedTask.exclusive_resources":    {number(limits.MaxResources+1) + " together"},
		"DispatchBatchRequest.tasks":         {"1 to " + number(limits.MaxBatch), size(limits.MaxMessage) + " in all"},
		"Report.acknowledged":                {number(limits.MaxSlots)},
		"Report.finished":                    {number(limits.MaxSlots)},
		"Hello.executor":                     {bytes(limits.MaxName)},
		"Hello.slots":                        {"0 to " + number(limits.MaxSlots)},
		"Hello.immediate_slots":              {"0 to " + number(limits.MaxSlots)},
		"Hello.task_names":                   {number(limits.MaxTaskNames), bytes(limits.MaxName)},
		"ListResourcesRequest.page_size":     {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"GetResourceRequest.name":            {bytes(limits.MaxResourceName)},
		"GetResourceRequest.page_size":       {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"ListTasksRequest.name":              {bytes(limits.MaxName)},
		"ListTasksRequest.correlation_id":    {bytes(limits.MaxCorrelationID)},
		"ListTasksRequest.page_size":         {"0 means " + number(limits.DefaultPage), number(limits.MaxPage)},
		"ListTasksRequest.page_token":        {bytes(limits.MaxName)},
		"ListTasksRequest.offset":            {number(limits.MaxOffset)},
		"WaitTasksRequest.task_ids":          {"1 to " + number(limits.MaxPage)},
		"WaitTasksRequest.timeout":           {fmt.Sprintf("%d minutes", int(limits.MaxWait.Minutes())), fmt.Sprintf("%d minute", int(limits.DefaultWait.Minutes()))},
		"GetTaskLogResponse.text":            {size(limits.MaxLog)},
		"PutTaskLogRequest.text":             {size(limits.MaxLog)},
		"GetStatsRequest.name":               {bytes(limits.MaxName)},
		"GetStatsRequest.since":              {fmt.Sprintf("%d days", int(limits.MaxSince.Hours()/24)), fmt.Sprintf("%d hour", int(limits.DefaultSince.Hours()))},
		"RegisterRequest.name":               {bytes(limits.MaxName)},
		"RegisterRequest.versions":           {number(limits.MaxVersions) + " entries"},
		"RegisterRequest.ttl":                {fmt.Sprintf("%d second to %d hour", int(limits.MinTTL.Seconds()), int(limits.MaxTTL.Hours()))},
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
