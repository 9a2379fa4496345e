package limits_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// Whatever comes: no panic, and what is refused is refused in a form that can be sent.
func FuzzCheckOfDispatch(f *testing.F) {
	f.Add("n", "[]", "{}", "a b", "shared:a", true, byte(0), "core", "1", "", "", "c", "r")
	f.Add("\xff", "[1", "[]", "", "\x00", false, byte(1), "", "\x85", id, "x", "\n", "\x00")
	f.Add(" ", `"`, `{"a":[`, "a a", "a", false, byte(2), "x", strings.Repeat("y", 256), "{"+id+"}", id, "", strings.Repeat("z", 129))
	f.Fuzz(func(t *testing.T, name, args, kwargs, exclusive, shared string, immediate bool, deferred byte,
		component, version, parent, group, correlation, requestID string,
	) {
		s := &taskv1.TaskSpec{
			Name: name, ArgsJson: args, KwargsJson: kwargs, Immediate: immediate,
			ExclusiveResources: strings.Split(exclusive, " "), SharedResources: strings.Split(shared, " "),
			Versions: map[string]string{component: version}, ParentId: parent, GroupId: group, CorrelationId: correlation, RequestId: requestID,
		}
		if deferred > 0 {
			s.Deferred = proto.Bool(deferred == 1)
		}
		request := &dispatcherv1.DispatchRequest{Task: s}
		err := limits.Check(request)
		if err == nil {
			if _, err := proto.Marshal(request); err != nil {
				t.Errorf("passed, but can't be sent on: %v", err)
			}
			for text, v := range map[string]any{args: &[]any{}, kwargs: &map[string]any{}} {
				if text != "" && json.Unmarshal([]byte(text), v) != nil && !isRange(json.Unmarshal([]byte(text), v)) {
					t.Errorf("passed, but %q is not a %T", text, v)
				}
			}
			return
		}
		var e *errs.Error
		if !errors.As(err, &e) || len(e.Violations) == 0 {
			t.Fatalf("refused without a violation: %v", err)
		}
		names := fields(e.Violations)
		slices.Sort(names)
		if n := len(names); len(slices.Compact(names)) != n {
			t.Errorf("a field is named twice: %v", err)
		}
		if _, err := proto.Marshal(e.GRPCStatus().Proto()); err != nil {
			t.Errorf("the refusal can't be sent: %v", err)
		}
	})
}

// isRange tells a number that Go can't hold, which is nobody's fault, from JSON of another kind.
func isRange(err error) bool {
	var wrong *json.UnmarshalTypeError
	return errors.As(err, &wrong) && strings.HasPrefix(wrong.Value, "number")
}

// What is taken as a UUID agrees with the library that everybody else uses.
func FuzzCanonical(f *testing.F) {
	for _, text := range []string{id, strings.ToUpper(id), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id[:35] + "g", id[:8] + "a" + id[9:], "", id + "0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := uuid.Parse(text)
		if want := err == nil && parsed.String() == text; limits.Canonical(text) != want {
			t.Errorf("%q is taken: %v, want %v", text, !want, want)
		}
	})
}

// The depth agrees with that of Go's own decoder.
func FuzzDepth(f *testing.F) {
	for _, text := range []string{`[]`, `{"a":[1,{"b":[]}]}`, `["[[[",{"\"":"\\"}]`, `"\\\"["`, `1`, nested(101), `[[],[[]]]`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		deepest, now := 0, 0
		for {
			token, err := decoder.Token()
			if err != nil {
				break
			}
			switch token {
			case json.Delim('['), json.Delim('{'):
				now++
				deepest = max(deepest, now)
			case json.Delim(']'), json.Delim('}'):
				now--
			}
		}
		if got := limits.Depth(text); got != deepest {
			t.Errorf("depth of %q is %d, want %d", text, got, deepest)
		}
	})
}
