package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

// everyMessage calls visit for each message of pulp.v3.
func everyMessage(visit func(protoreflect.MessageDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("pulp.v3", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			visit(file.Messages().Get(i))
		}
		return true
	})
}

// TestEveryFieldCanBeWritten fails when somebody gives pulp.v3 a field of a kind that the codec does not know.
func TestEveryFieldCanBeWritten(t *testing.T) {
	seen := 0
	everyMessage(func(message protoreflect.MessageDescriptor) {
		seen++
		filled := dynamicpb.NewMessage(message)
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			switch {
			case field.IsList():
				list := filled.Mutable(field).List()
				list.Append(list.NewElement())
			case field.IsMap():
				filled.Mutable(field).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
			case field.Message() != nil:
				filled.Mutable(field)
			default:
				filled.Set(field, filled.NewField(field))
			}
		}
		if _, err := (codec{}).Marshal(filled); err != nil {
			t.Error(err)
		}
	})
	if seen < 20 {
		t.Errorf("saw only %d messages", seen)
	}
}

// bodies are the requests that have one, besides CreateTaskRequest. A route that takes another fails TestEveryBodyIsTested.
var bodies = []proto.Message{
	&pulpv3.CancelTaskRequest{}, &pulpv3.CreateTasksRequest{}, &pulpv3.PurgeTasksRequest{},
	&pulpv3.AddTaskRoleRequest{}, &pulpv3.RemoveTaskRoleRequest{},
	&pulpv3.CreateTaskGroupRequest{}, &pulpv3.CancelTaskGroupRequest{},
	&pulpv3.CreateTaskScheduleRequest{}, &pulpv3.AddTaskScheduleRoleRequest{}, &pulpv3.RemoveTaskScheduleRoleRequest{},
}

func TestEveryBodyIsTested(t *testing.T) {
	all, err := readRoutes(routesYAML)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range all.table {
		for method, operation := range route.operations {
			tested := slices.ContainsFunc(append(bodies, &pulpv3.CreateTaskRequest{}), func(body proto.Message) bool {
				return body.ProtoReflect().Descriptor() == operation.input
			})
			if takesBody(method) && !tested {
				t.Errorf("%s %v: no test fills a %s", method, route.segments, operation.input.FullName())
			}
		}
	}
}

// TestEveryBodyFieldCanBeRead fails when a request body gets a field that the decoder can't fill, or a rule names none.
func TestEveryBodyFieldCanBeRead(t *testing.T) {
	used := map[protoreflect.FullName]bool{}
	var read func(message protoreflect.Message)
	read = func(message protoreflect.Message) {
		fields := message.Descriptor().Fields()
		for i := range fields.Len() {
			field := fields.Get(i)
			used[field.FullName()] = true
			var given string
			switch {
			case rules[field.FullName()].fromPath:
				continue
			case field.IsList() && field.Message() != nil:
				list := message.NewField(field).List()
				read(list.NewElement().Message())
				given = `[{"name":"v"}]`
			case field.IsMap() || rules[field.FullName()].open == '{':
				given = `{"k":"v"}`
			case field.IsList():
				given = `["v"]`
			case rules[field.FullName()].open == '[':
				given = `[]`
			case field.Message() != nil:
				read(message.NewField(field).Message())
				given = `{"max_attempts":1}`
			case field.Kind() == protoreflect.BoolKind:
				given = `true`
			case field.Kind() == protoreflect.Int32Kind:
				given = `7`
			case field.Kind() == protoreflect.DoubleKind:
				given = `7.5`
			default:
				given = `"v"`
			}
			faults := fieldErrors{}
			decodeField(message, field, []byte(given), faults)
			if len(faults) > 0 || !message.Has(field) {
				t.Errorf("%s = %s: %v", field.FullName(), given, faults)
			}
		}
	}
	read((&pulpv3.CreateTaskRequest{}).ProtoReflect())
	for _, body := range bodies {
		read(body.ProtoReflect())
	}
	for name := range rules {
		if !used[name] {
			t.Errorf("the rule for %s is about no field of a request body", name)
		}
	}
}

func TestSecondsKeepTheirDigitsOnBothWays(t *testing.T) {
	for given, want := range map[float64]string{
		0: "0", 1: "1", 0.001: "0.001", 1.001: "1.001", 2.5: "2.5", 86400: "86400", 2592000: "2592000", -1.5: "-1.5", 1e300: "1000000000", -1e300: "-1000000000",
	} {
		text, err := codec{}.Marshal(&pulpv3.Retry{Backoff: seconds(duration(given))})
		if err != nil || string(text) != `{"max_attempts":0,"backoff":`+want+`,"max_backoff":null,"on":[]}` {
			t.Errorf("%v: %s, %v", given, text, err)
		}
	}
}

func TestMessagesAboutAWholeFieldWinOverThoseAboutWhatIsInIt(t *testing.T) {
	fields := byField([]errs.Violation{
		{Field: "retry.on[3]", Rule: "item"},
		{Field: "retry.on", Rule: "list"},
		{Field: "retry.backoff", Rule: "a"},
		{Field: "retry.backoff", Rule: "b"},
		{Field: `versions["a.b"]`, Rule: "version"},
		{Field: "files[1]", Rule: "f"},
		{Field: "files[0]", Rule: "g"},
		{Field: "timeout.x", Rule: "inside"},
		{Field: "timeout", Rule: "whole"},
	})
	text, err := codec{}.Marshal(fields)
	const want = `{"files":{"0":["g"],"1":["f"]},"retry":{"backoff":["a","b"],"on":["list"]},"timeout":["whole"],"versions":{"a.b":["version"]}}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v\nwant %s", text, err, want)
	}
}

func TestRoutesAreReadFromTheSameFileAsTheHandlers(t *testing.T) {
	all, err := readRoutes(routesYAML)
	if err != nil {
		t.Fatal(err)
	}
	for path, methods := range map[string]string{
		"/api/v3/tasks": "GET, POST, HEAD, OPTIONS", "/api/v3/tasks/x": "DELETE, GET, PATCH, HEAD, OPTIONS", "/api/v3/tasks/": "",
		"/api/v3/tasks/x/y": "", "/api/v3/status": "GET, HEAD, OPTIONS", "": "", "/": "",
	} {
		route, got := all.find(path), ""
		if route != nil {
			got = route.allow()
		}
		if got != methods {
			t.Errorf("%q: %q, want %q", path, got, methods)
		}
	}
	for _, broken := range []string{"http: [", "http: {rules: [{selector: pulp.v3.NoService.Call, get: /x}]}", "http: {rules: [{selector: pulp.v3.Task, get: /x}]}"} {
		if _, err := readRoutes([]byte(broken)); err == nil {
			t.Errorf("%s: no error", broken)
		}
	}
}

func TestTimesHaveSixDigits(t *testing.T) {
	for want, at := range map[string]*timestamppb.Timestamp{
		`"2026-11-22T10:15:54.000000Z"`: {Seconds: 1795342554},
		`"2026-11-22T10:15:54.953684Z"`: {Seconds: 1795342554, Nanos: 953684999},
		`"1970-01-01T00:00:00.000000Z"`: {},
	} {
		text, err := codec{}.Marshal(&pulpv3.OnlineApp{LastHeartbeat: at})
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s, %v, want %s", text, err, want)
		}
	}
}

func TestUnmarshalOfSomethingElseIsAnError(t *testing.T) {
	if err := (codec{}).Unmarshal([]byte(`{}`), new(int)); err == nil {
		t.Error("an int was filled")
	}
	var refused *refusal
	if err := (codec{}).Unmarshal([]byte(`{}`), &pulpv3.CreateTaskRequest{}); !errors.As(err, &refused) || err.Error() != `{"name":["This field is required."]}` {
		t.Errorf("%v", err)
	}
}

func TestNumberIsTotal(t *testing.T) {
	for text, want := range map[string]struct {
		n  int32
		ok bool
	}{"": {}, "x": {}, "1.5": {}, "7": {7, true}, "-7": {-7, true}, "9999999999": {1<<31 - 1, true}, "-9999999999": {-1 << 31, true}} {
		if n, ok := number(text); n != want.n || ok != want.ok {
			t.Errorf("%q: %d, %v", text, n, ok)
		}
	}
}

func TestCutIsTotal(t *testing.T) {
	all := []int{1, 2, 3}
	for _, c := range []struct {
		size, skip int32
		want       []int
	}{{2, 0, []int{1, 2}}, {2, 2, []int{3}}, {2, 3, []int{}}, {2, 1_000_001, []int{}}, {1000, 0, all}} {
		if got := cut(all, c.size, c.skip); !slices.Equal(got, c.want) {
			t.Errorf("%d from %d: %v", c.size, c.skip, got)
		}
	}
}

func FuzzReference(f *testing.F) {
	const id = "019412ab-0000-7000-8000-0000000000aa"
	for _, reference := range []string{id, "/pulp/api/v3/tasks/" + id + "/", "http://h/pulp/api/v3/tasks/" + id, "prn:core.task:" + id, "//", "http://", "prn:core.task:", "{" + id + "}"} {
		f.Add(reference)
	}
	h := hrefs{root: "/pulp/"}
	f.Fuzz(func(t *testing.T, reference string) {
		id, ok := h.id(collectionTasks, modelTask, reference)
		if !ok {
			return
		}
		if again, ok := h.id(collectionTasks, modelTask, h.of(collectionTasks, id)); !ok || again != id {
			t.Errorf("%q is %q, whose href is %q", reference, id, again)
		}
	})
}

func TestFold(t *testing.T) {
	for path, want := range map[string]string{"": "", "/": "/", "//": "/", "a//b": "a/b", "///a////b//": "/a/b/"} {
		if diff := cmp.Diff(want, fold(path)); diff != "" {
			t.Errorf("%q: %s", path, diff)
		}
	}
}
