package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sluice-tasks/sluice/pkg/limits"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

type point struct {
	X int `json:"x"`
	Y int `json:"y"`
}

type base struct {
	Verbose bool `json:"verbose,omitempty"`
}

type everything struct {
	Name  string `json:"name"`
	Count uint8  `json:"count"`
	base
	Ratio  *float64        `json:"ratio"`
	Tags   []string        `json:"tags,omitempty"`
	At     point           `json:"at,omitzero"`
	Any    any             `json:"any,omitempty"`
	Raw    json.RawMessage `json:"raw,omitempty"`
	Hidden int             `json:"-"`
}

func half() *float64 { f := 0.5; return &f }

func TestArgumentsMeetParameters(t *testing.T) {
	for name, c := range map[string]struct {
		args, kwargs string
		want         everything
		wantError    string
	}{
		"by name":     {"", `{"name": "a", "count": 2}`, everything{Name: "a", Count: 2}, ""},
		"by position": {`["a", 2, true, 0.5]`, "", everything{Name: "a", Count: 2, base: base{Verbose: true}, Ratio: half()}, ""},
		"both ways": {
			`["a"]`, `{"count": 2, "at": {"x": 1, "y": 2}, "raw": 1.00}`,
			everything{Name: "a", Count: 2, At: point{1, 2}, Raw: json.RawMessage("1.00")},
			"",
		},
		"null for an option":   {"", `{"name": "a", "count": 2, "tags": null, "ratio": null, "at": null, "raw": null}`, everything{Name: "a", Count: 2}, ""},
		"missing":              {`["a"]`, "", everything{}, `t() is missing the argument "count"`},
		"all missing":          {"", "", everything{}, `t() is missing the argument "name"`},
		"unexpected":           {"", `{"name": "a", "count": 2, "x": 1, "b": 2}`, everything{}, `t() got an unexpected argument "b"`},
		"hidden":               {"", `{"name": "a", "count": 2, "Hidden": 1}`, everything{}, `t() got an unexpected argument "Hidden"`},
		"case matters":         {"", `{"Name": "a", "count": 2}`, everything{}, `t() got an unexpected argument "Name"`},
		"too many":             {`["a", 2, true, 1, [], {}, 1, 2, 3]`, "", everything{}, `t() takes at most 8 positional arguments, got 9`},
		"twice":                {`["a", 2]`, `{"name": "b"}`, everything{}, `t() got the argument "name" twice, by position and by name`},
		"null":                 {`[null, 2]`, "", everything{}, `t() argument "name" must not be null`},
		"a number as string":   {`[1, 2]`, "", everything{}, `t() argument "name" must be a string, is number`},
		"a string as integer":  {`["a", "2"]`, "", everything{}, `t() argument "count" must be an integer (uint8), is string`},
		"a fraction":           {`["a", 2.5]`, "", everything{}, `t() argument "count" must be an integer (uint8), is number 2.5`},
		"too large":            {`["a", 256]`, "", everything{}, `t() argument "count" must be an integer (uint8), is number 256`},
		"an object as array":   {"", `{"name": "a", "count": 2, "tags": {}}`, everything{}, `t() argument "tags" must be an array, is object`},
		"wrong inside":         {"", `{"name": "a", "count": 2, "at": {"x": "1"}}`, everything{}, `t() argument "at" must be an integer (int) at "x", is string`},
		"unexpected inside":    {"", `{"name": "a", "count": 2, "at": {"z": 1}}`, everything{}, `t() argument "at" is not valid: unknown field "z"`},
		"args not an array":    {`{}`, "", everything{}, `t() positional arguments are not a JSON array: json: cannot unmarshal object into Go value of type []json.RawMessage`},
		"kwargs not an object": {"", `[]`, everything{}, `t() named arguments are not a JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage`},
	} {
		t.Run(name, func(t *testing.T) {
			mux := worker.NewMux()
			var got everything
			worker.Handle(mux, "t", func(_ context.Context, in everything) (worker.None, error) {
				got = in
				return worker.None{}, nil
			})
			outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t", ArgsJson: c.args, KwargsJson: c.kwargs}})
			if description := outcome.GetError().GetDescription(); description != c.wantError {
				t.Fatalf("error %q, want %q", description, c.wantError)
			}
			if c.wantError != "" && (!outcome.GetSafe() || outcome.GetError().GetCode() != task.CodePermanent) {
				t.Errorf("safe %v, code %s", outcome.GetSafe(), outcome.GetError().GetCode())
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(everything{})); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

// explosive panics when it is written as JSON.
type explosive struct{}

func (explosive) MarshalJSON() ([]byte, error) { panic("boom\nbang") }

type silent struct{}

func (silent) Error() string { return "" }

type loop struct{ Next *loop }

func TestWhateverAHandlerDoesBecomesAnOutcome(t *testing.T) {
	type handler = func(context.Context, struct{}) (any, error)
	returns := func(v any, err error) handler {
		return func(context.Context, struct{}) (any, error) { return v, err }
	}
	circle := &loop{}
	circle.Next = circle
	safe := regexp.MustCompile(`^(the result (is|must)|the handler ended) `) // texts of ours, with nothing of the handler's in them
	for name, c := range map[string]struct {
		handler handler
		result  string
		failure string // the beginning of the description
	}{
		"a value":             {returns(map[string]any{"a<b": 1}, nil), `{"a<b":1}`, ""},
		"nothing":             {returns(nil, nil), "null", ""},
		"None":                {returns(worker.None{}, nil), "null", ""},
		"raw":                 {returns(json.RawMessage(` {"b":1.0,"a":10000000000000000000000} `), nil), ` {"b":1.0,"a":10000000000000000000000} `, ""},
		"empty raw":           {returns(json.RawMessage(nil), nil), "null", ""},
		"as large as can be":  {returns(strings.Repeat("x", limits.MaxJSON-2), nil), `"` + strings.Repeat("x", limits.MaxJSON-2) + `"`, ""},
		"too large":           {returns(strings.Repeat("x", limits.MaxJSON-1), nil), "", "the result is 1048577 bytes, more than the limit of 1048576"},
		"raw that is no JSON": {returns(json.RawMessage(`{"a":`), nil), "", "the result must be valid JSON: unexpected end of JSON input"},
		"raw not UTF-8":       {returns(json.RawMessage("\"\xff\""), nil), "", "the result must be valid UTF-8"},
		"too deep":            {returns(json.RawMessage(strings.Repeat("[", 101)+strings.Repeat("]", 101)), nil), "", "the result must be nested at most 100 deep"},
		"NaN":                 {returns(math.NaN(), nil), "", "the result can't be written as JSON: unsupported value: NaN"},
		"a channel":           {returns(make(chan int), nil), "", "the result can't be written as JSON: unsupported type: chan int"},
		"a circle":            {returns(circle, nil), "", "the result can't be written as JSON: unsupported value: encountered a cycle"},
		"an error":            {returns(1, errors.New("no\nluck")), "", "no\nluck"},
		"an empty error":      {returns(nil, silent{}), "", "the handler returned a worker_test.silent without a text"},
		"a bad text":          {returns(nil, errors.New("a\xff\x00b")), "", "a\uFFFD\uFFFDb"},
		"a panic":             {func(context.Context, struct{}) (any, error) { panic("ouch\nand more") }, "", "panic: ouch"},
		"a blank panic":       {func(context.Context, struct{}) (any, error) { panic("\n \t\r\n") }, "", "panic: a string without a text"},
		"a late line":         {func(context.Context, struct{}) (any, error) { panic("\n\n  ouch\x1b[31m\xff\x00!\r\nmore") }, "", "panic: ouch [31m\uFFFD !"},
		"a long panic":        {func(context.Context, struct{}) (any, error) { panic(strings.Repeat("€", 100_000)) }, "", "panic: " + strings.Repeat("€", 341)},
		"a safe panic":        {func(context.Context, struct{}) (any, error) { panic(worker.Safef("ouch")) }, "", "panic: ouch"},
		"a nil panic":         {func(context.Context, struct{}) (any, error) { panic(nil) }, "", "panic: panic called with nil argument"},
		"a panic in JSON":     {returns(explosive{}, nil), "", "panic: boom"},
		"Goexit":              {func(context.Context, struct{}) (any, error) { runtime.Goexit(); return nil, nil }, "", "the handler ended its goroutine without returning"},
	} {
		t.Run(name, func(t *testing.T) {
			mux := worker.NewMux()
			worker.Handle(mux, "t", c.handler)
			outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}})
			if err := worker.Check(outcome); err != nil {
				t.Errorf("the outcome could not be reported: %v", err)
			}
			if outcome.GetResultJson() != c.result {
				t.Errorf("result of %d bytes %.50q, want %d bytes %.50q", len(outcome.GetResultJson()), outcome.GetResultJson(), len(c.result), c.result)
			}
			description := outcome.GetError().GetDescription()
			if (c.failure == "") != (outcome.GetState() == taskv1.State_STATE_COMPLETED) || !strings.HasPrefix(description, c.failure) {
				t.Errorf("%s: %q, want %q", outcome.GetState(), description, c.failure)
			}
			panicked := strings.HasPrefix(description, "panic: ")
			if trace := outcome.GetError().GetTraceback(); panicked != (trace != "") {
				t.Errorf("traceback %q", trace)
			}
			code := map[bool]string{panicked: task.CodePanic, c.failure == "": "", !panicked && c.failure != "": task.CodeError}[true]
			if got := outcome.GetError().GetCode(); got != code {
				t.Errorf("code %q, want %q", got, code)
			}
			if ours := safe.MatchString(description); outcome.GetSafe() != ours {
				t.Errorf("declared safe: %v, want %v", outcome.GetSafe(), ours)
			}
		})
	}
}

func TestLongErrorsAreCut(t *testing.T) {
	for _, unit := range []string{"x", "ä", "€", "𝄞", "\x80", "\x00"} {
		mux := worker.NewMux()
		worker.Handle(mux, "t", func(context.Context, struct{}) (worker.None, error) {
			return worker.None{}, errors.New("." + strings.Repeat(unit, 100_000))
		})
		outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}})
		got := outcome.GetError().GetDescription()
		if err := worker.Check(outcome); err != nil || !utf8.ValidString(got) || !strings.HasPrefix(got, ".") {
			t.Errorf("%q: %d bytes, %v", unit, len(got), err)
		}
		if unit != "\x80" && len(got) < limits.MaxErrorText-4 { // a run of invalid bytes becomes one character
			t.Errorf("%q: cut to %d bytes", unit, len(got))
		}
	}
}

func deep(n int) int {
	if n == 0 {
		panic("at the bottom")
	}
	return deep(n-1) + 1
}

func TestTracebackHasTheHandlersFramesOnly(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(context.Context, struct{}) (int, error) { return deep(2), nil })
	trace := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "t"}}).GetError().GetTraceback()
	var functions []string
	for line := range strings.Lines(trace) {
		if !strings.HasPrefix(line, "\t") {
			functions = append(functions, strings.TrimSpace(line))
		} else if !strings.Contains(line, "mux_test.go:") {
			t.Errorf("no place in %q", line)
		}
	}
	const here = "github.com/sluice-tasks/sluice/pkg/worker_test."
	want := []string{here + "deep", here + "deep", here + "deep", here + "TestTracebackHasTheHandlersFramesOnly.func1"}
	if diff := cmp.Diff(want, functions); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestMuxKnowsNamesAndTraits(t *testing.T) {
	mux := worker.NewMux()
	plain := func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil }
	raw := func(context.Context, worker.Arguments) (json.RawMessage, error) { return nil, nil }
	discard := func(context.Context, string) error { return nil }
	worker.Handle(mux, "c", plain)
	worker.Handle(mux, "a", plain, worker.InProcess(), worker.Timeout(time.Minute))
	worker.HandleRaw(mux, "b", raw, worker.Immediate(), worker.Discards(discard))
	if diff := cmp.Diff([]string{"a", "b", "c"}, mux.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for name, want := range map[string]worker.Traits{
		"a": {InProcess: true, Timeout: time.Minute}, "b": {InProcess: true, Immediate: true, Discards: true}, "c": {},
	} {
		if got, known := mux.Traits(name); got != want || !known {
			t.Errorf("%s: %+v, %v", name, got, known)
		}
	}
	if _, known := mux.Traits("d"); known {
		t.Error("knows what nobody added")
	}
	outcome := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: "d"}})
	if diff := cmp.Diff(failed("ERROR", true, `this worker has no handler for the task "d"`), outcome, protocmp.Transform()); diff != "" {
		t.Errorf("unknown task (-want +got):\n%s", diff)
	}
}

func TestMuxKnowsVersions(t *testing.T) {
	mux := worker.NewMux()
	if got := mux.Versions(); len(got) != 0 {
		t.Errorf("without components: %v", got)
	}
	plain := func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil }
	worker.Handle(mux, "a", plain, worker.Component("core", "1.2"))
	worker.Handle(mux, "b", plain, worker.Component("core", "1.2"), worker.Component("rpm", "3"))
	want := map[string]string{"core": "1.2", "rpm": "3"}
	got := mux.Versions()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	got["core"] = "9"
	if diff := cmp.Diff(want, mux.Versions()); diff != "" {
		t.Errorf("versions after someone else changed the ones given out (-want +got):\n%s", diff)
	}
}

// failed is the outcome of a handler's error.
func failed(code string, safe bool, description string) *taskv1.Outcome {
	outcome := worker.Failed(description, "")
	outcome.Error.Code, outcome.Safe = code, safe
	return outcome
}

func TestMistakesOfTheProgramPanic(t *testing.T) {
	type embedded struct{ *point }
	type twice struct {
		base
		Loud bool `json:"verbose"`
	}
	mux := worker.NewMux()
	plain := func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil }
	worker.Handle(mux, "there", plain, worker.Component("core", "1"))
	for i := range limits.MaxVersions - 1 {
		worker.Handle(mux, fmt.Sprintf("part %d", i), plain, worker.Component(fmt.Sprint("part ", i), "1"))
	}
	for name, mistake := range map[string]func(){
		"twice":             func() { worker.Handle(mux, "there", plain) },
		"no name":           func() { worker.Handle(mux, "", plain) },
		"long name":         func() { worker.Handle(mux, strings.Repeat("x", 256), plain) },
		"no struct":         func() { worker.Handle(mux, "a", func(context.Context, map[string]any) (int, error) { return 0, nil }) },
		"pointer to struct": func() { worker.Handle(mux, "b", func(context.Context, *point) (int, error) { return 0, nil }) },
		"embedded pointer":  func() { worker.Handle(mux, "c", func(context.Context, embedded) (int, error) { return 0, nil }) },
		"one name twice":    func() { worker.Handle(mux, "d", func(context.Context, twice) (int, error) { return 0, nil }) },
		"blank name":        func() { worker.Handle(mux, " ", plain) },
		"name with newline": func() { worker.Handle(mux, "a\nb", plain) },
		"negative timeout":  func() { worker.Handle(mux, "e", plain, worker.Timeout(-1)) },
		"endless timeout":   func() { worker.Handle(mux, "f", plain, worker.Timeout(limits.MaxTimeout+1)) },
		"another version":   func() { worker.Handle(mux, "g", plain, worker.Component("core", "2")) },
		"two versions": func() {
			worker.Handle(mux, "h", plain, worker.Component("part 1", "1"), worker.Component("part 1", "2"))
		},
		"no version":   func() { worker.Handle(mux, "i", plain, worker.Component("part 1", "")) },
		"no component": func() { worker.Handle(mux, "j", plain, worker.Component("", "1")) },
		"a version too many": func() {
			worker.Handle(mux, "k", plain, worker.Component("the last one", "1"))
		},
		"nothing to discard by": func() { worker.Handle(mux, "l", plain, worker.Discards(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("went unnoticed")
				}
				if got := len(mux.Names()); got != limits.MaxVersions || len(mux.Versions()) != limits.MaxVersions {
					t.Errorf("%d handlers, %d versions", got, len(mux.Versions()))
				}
			}()
			mistake()
		})
	}
}

func TestOutsideOfATaskThereIsNothing(t *testing.T) {
	ctx := t.Context()
	if diff := cmp.Diff(worker.Task{}, worker.Current(ctx)); diff != "" {
		t.Errorf("current task (-want +got):\n%s", diff)
	}
	if got := worker.RawArguments(ctx); got.Args != nil || got.Kwargs != nil {
		t.Errorf("arguments: %+v", got)
	}
	worker.Logger(ctx).Info("into the void")
	if _, err := worker.Dispatch(ctx, worker.Spec{Name: "x"}); err == nil {
		t.Error("dispatched")
	}
	if _, err := worker.NewGroup(ctx, "x"); err == nil {
		t.Error("made a group")
	}
	if dir, err := worker.WorkingDir(ctx); err == nil {
		t.Errorf("got the directory %q", dir)
	}
}

func TestDirectoryIsAskedForByTheHandlerOrNotAtAll(t *testing.T) {
	mux := worker.NewMux()
	worker.Handle(mux, "asks", func(ctx context.Context, _ struct{}) (string, error) { return worker.WorkingDir(ctx) })
	worker.Handle(mux, "does not", func(context.Context, struct{}) (worker.None, error) { return worker.None{}, nil })
	asked := 0
	given := func() (string, error) { asked++; return "/its/own", nil }
	for _, c := range []struct {
		task  string
		dir   func() (string, error)
		asked int
		want  *taskv1.Outcome
	}{
		{"does not", given, 0, &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: "null"}},
		{"asks", given, 1, &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED, ResultJson: `"/its/own"`}},
		{"asks", func() (string, error) { return "", errors.New("the disk is full") }, 1, worker.Failed("the disk is full", "")},
		{"asks", nil, 1, worker.Failed("find the working directory: not called with the context of a running task", "")},
	} {
		got := mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: c.task}, WorkingDir: c.dir})
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: outcome (-want +got):\n%s", c.task, diff)
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times so far, want %d", c.task, asked, c.asked)
		}
	}
}

func TestStartDoesNotWaitForTheHandler(t *testing.T) {
	mux, release := worker.NewMux(), make(chan struct{})
	worker.Handle(mux, "waits", func(context.Context, struct{}) (worker.None, error) { <-release; return worker.None{}, nil })
	worker.Handle(mux, "panics", func(context.Context, struct{}) (worker.None, error) { <-release; panic("boom") })
	start := func(name string) <-chan *taskv1.Outcome {
		return mux.Start(t.Context(), worker.Run{Assignment: &taskv1.Assignment{Name: name}})
	}
	waits, panics, unknown := start("waits"), start("panics"), start("nobody knows")
	if len(waits) != 0 || len(panics) != 0 {
		t.Error("there is an outcome before the handler returned")
	}
	close(release)
	for name, c := range map[string]struct {
		outcome <-chan *taskv1.Outcome
		want    taskv1.State
	}{
		"waits": {waits, taskv1.State_STATE_COMPLETED}, "panics": {panics, taskv1.State_STATE_FAILED}, "unknown": {unknown, taskv1.State_STATE_FAILED},
	} {
		if got := <-c.outcome; got.GetState() != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if len(waits)+len(panics)+len(unknown) != 0 {
		t.Error("there are two outcomes of one run")
	}
}

// Names and ids in a line of a handler's log say whose it is.
func TestLoggerNamesTheTask(t *testing.T) {
	var text strings.Builder
	mux := worker.NewMux()
	worker.Handle(mux, "logs", func(ctx context.Context, _ struct{}) (worker.None, error) {
		worker.Logger(ctx).InfoContext(ctx, "a line", slog.Int("n", 1))
		return worker.None{}, nil
	})
	run := worker.Run{
		Assignment: &taskv1.Assignment{Name: "logs", TaskId: "the-task", CorrelationId: "the-request"}, Log: slog.New(slog.NewTextHandler(&text, nil)),
	}
	mux.Run(t.Context(), run)
	if !strings.HasSuffix(text.String(), "level=INFO msg=\"a line\" task_id=the-task correlation_id=the-request n=1\n") {
		t.Errorf("logged %q", text.String())
	}
	run.Log = nil
	if got := mux.Run(t.Context(), run); got.GetState() != taskv1.State_STATE_COMPLETED {
		t.Errorf("without a log: %v", got)
	}
}
