package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/client/clienttest"
	"github.com/sluice-tasks/sluice/pkg/errs"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// uuidForm begins the rule for ids, whose words are those of pkg/limits.
const uuidForm = "must be a UUID"

// Each of these is a mistake of the person who typed it: exit code 2, and the line names what was wrong.
func TestBadInputIsNamedAndNothingIsDispatched(t *testing.T) {
	long := strings.Repeat("x", 1025)
	deep := strings.Repeat("[", 101) + strings.Repeat("]", 101)
	file := filepath.Join(t.TempDir(), "args.json")
	if err := os.WriteFile(file, []byte("[1,"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string // what standard error begins with, behind "sluice: "
	}{
		"unknown command":         {[]string{"frobnicate"}, `there is no command "frobnicate"`},
		"mistyped command":        {[]string{"dispatxh"}, `there is no command "dispatxh", did you mean "dispatch"?`},
		"unknown subcommand":      {[]string{"task", "frobnicate"}, `there is no command "task frobnicate"`},
		"no subcommand":           {[]string{"task"}, `expected one of "list", "show"`},
		"unknown flag":            {[]string{"dispatch", "x", "--frobnicate"}, `unknown flag --frobnicate`},
		"no name":                 {[]string{"dispatch"}, `expected "<name>"`},
		"two names":               {[]string{"dispatch", "x", "y"}, `unexpected argument y`},
		"output":                  {[]string{"task", "list", "-o", "xml"}, `--output must be one of "text","json" but got "xml"`},
		"limit":                   {[]string{"task", "list", "--limit", "many"}, `--limit: expected a valid 64 bit int but got "many"`},
		"limit of nothing":        {[]string{"task", "list", "--limit", "0"}, `--limit: must be at least 1, is 0`},
		"resources limit":         {[]string{"resource", "list", "--limit", "1001"}, `limit: must be between 0 and 1000, is 1001`},
		"no resources":            {[]string{"resource", "list", "--limit", "0"}, `--limit: must be at least 1, is 0`},
		"no time of stats":        {[]string{"stats", "--since", "0s"}, `--since: must be between 1s and 720h, is 0s`},
		"no queue":                {[]string{"resource", "show", "r", "--limit", "0"}, `--limit: must be at least 1, is 0`},
		"state":                   {[]string{"task", "list", "--state", "asleep"}, `--state: must be one of waiting, running, canceling, completed, failed, canceled, skipped, is "asleep"`},
		"duration":                {[]string{"task", "wait", "--all", "--timeout", "soon"}, `--timeout: expected duration but got "soon"`},
		"negative timeout":        {[]string{"task", "wait", "--all", "--timeout=-1s"}, `--timeout: must not be negative, is -1s`},
		"since":                   {[]string{"stats", "--since", "1ms"}, `since: must be between 1s and 720h0m0s, is 1ms`},
		"nothing to wait for":     {[]string{"task", "wait"}, `give the ids of tasks, or --all`},
		"too much to wait for":    {[]string{"task", "wait", "--all", clienttest.ID(1)}, `give ids or --all, not both`},
		"address":                 {[]string{"task", "list", "--addr", "localhost"}, `--addr: must have the form host:port, is "localhost"`},
		"address of schedulers":   {[]string{"executor", "--scheduler-addr", "127.0.0.1:1,localhost"}, `--scheduler-addr: must have the form host:port, is "localhost"`},
		"empty name":              {[]string{"dispatch", ""}, `name: must not be empty or blank`},
		"blank name":              {[]string{"dispatch", "  "}, `name: must not be empty or blank`},
		"long name":               {[]string{"dispatch", long}, `name: must be at most 255 bytes, has 1025`},
		"control in name":         {[]string{"dispatch", "a\tb"}, `name: must not contain control characters, has U+0009 at byte 1`},
		"invalid UTF-8":           {[]string{"dispatch", "x", "--exclusive", "a\xff"}, `argument 4 is not valid UTF-8: "a\xff"`},
		"args cut off":            {[]string{"dispatch", "x", "--args", "[1,"}, `--args: is not JSON: unexpected end of JSON input, at byte 3 of [1,`},
		"args with words":         {[]string{"dispatch", "x", "--args", "[one]"}, `--args: is not JSON: invalid character 'o' looking for beginning of value, at byte 2 of [one]`},
		"args with a tail":        {[]string{"dispatch", "x", "--args", "[1] [2]"}, `--args: is not JSON: invalid character '[' after top-level value, at byte 5 of [1] [2]`},
		"args of an object":       {[]string{"dispatch", "x", "--args", "{}"}, `--args: must be JSON for an array, is {}`},
		"args of a number":        {[]string{"dispatch", "x", "--args", " 7"}, `--args: must be JSON for an array, is 7`},
		"args of blanks":          {[]string{"dispatch", "x", "--args", " "}, `--args: is not JSON: unexpected end of JSON input`},
		"args too deep":           {[]string{"dispatch", "x", "--args", deep}, `args: must be nested at most 100 deep`},
		"args too large":          {[]string{"dispatch", "x", "--args", `["` + strings.Repeat("x", 1<<20) + `"]`}, `args: must be at most 1048576 bytes, has 1048580`},
		"args from a bad file":    {[]string{"dispatch", "x", "--args", "@" + file}, `--args: is not JSON: unexpected end of JSON input, at byte 3 of [1,`},
		"args from no file":       {[]string{"dispatch", "x", "--args", "@/nonexistent/file"}, `--args: open /nonexistent/file: no such file or directory`},
		"kwargs of an array":      {[]string{"dispatch", "x", "--kwargs", "[]"}, `--kwargs: must be JSON for an object, is []`},
		"kwargs of null":          {[]string{"dispatch", "x", "--kwargs", "null"}, `--kwargs: must be JSON for an object, is null`},
		"kwargs with single":      {[]string{"dispatch", "x", "--kwargs", "{'a': 1}"}, `--kwargs: is not JSON: invalid character '\'' looking for beginning of object key string, at byte 2 of {'a': 1}`},
		"standard input twice":    {[]string{"dispatch", "x", "--args", "@-", "--kwargs", "@-"}, `--kwargs: --args already reads standard input`},
		"empty resource":          {[]string{"dispatch", "x", "--exclusive", "ok", "--exclusive", ""}, `exclusive[1]: must not be empty or blank`},
		"blank resource":          {[]string{"dispatch", "x", "--shared", "\u00a0"}, `shared[0]: must not be empty or blank`},
		"long resource":           {[]string{"dispatch", "x", "--exclusive", long}, `exclusive[0]: must be at most 1024 bytes, has 1025`},
		"control in resource":     {[]string{"dispatch", "x", "--shared", "a\nb"}, `shared[0]: must not contain control characters, has U+000A at byte 1`},
		"prefixed resource":       {[]string{"dispatch", "x", "--exclusive", "shared:a"}, `exclusive[0]: must not begin with "shared:": list it under --shared without the prefix`},
		"neither of both":         {[]string{"dispatch", "x", "--no-defer"}, `--no-defer: needs --immediate`},
		"group":                   {[]string{"dispatch", "x", "--group", "mine"}, `group: ` + uuidForm},
		"correlation id":          {[]string{"dispatch", "x", "--correlation-id", "a\x00"}, `correlation-id: must not contain control characters, has U+0000 at byte 1`},
		"need without a version":  {[]string{"dispatch", "x", "--need", "core"}, `--need[0]: must have the form COMPONENT=VERSION, is "core"`},
		"need of no component":    {[]string{"dispatch", "x", "--need", "=1"}, `--need[0]: must have the form COMPONENT=VERSION, is "=1"`},
		"need twice":              {[]string{"dispatch", "x", "--need", "a=1", "--need", "a=2"}, `--need[1]: names a again`},
		"blank need":              {[]string{"dispatch", "x", "--need", "a= "}, `need["a"]: must not be empty or blank`},
		"waiting without end":     {[]string{"dispatch", "x", "--wait-timeout", "1s"}, `--wait-timeout: needs --wait`},
		"negative wait":           {[]string{"dispatch", "x", "--wait", "--wait-timeout=-1s"}, `--wait-timeout: must not be negative, is -1s`},
		"no time":                 {[]string{"dispatch", "x", "--timeout", "0s"}, `--timeout: must be more than 0s, is 0s`},
		"negative time":           {[]string{"dispatch", "x", "--timeout=-1s"}, `--timeout: must be more than 0s, is -1s`},
		"too little time":         {[]string{"dispatch", "x", "--timeout", "1us"}, `timeout: must be between 1ms and 720h0m0s, is 1µs`},
		"too much time":           {[]string{"dispatch", "x", "--timeout", "721h"}, `timeout: must be between 1ms and 720h0m0s, is 721h0m0s`},
		"time without a unit":     {[]string{"dispatch", "x", "--timeout", "30"}, `--timeout: expected duration but got "30"`},
		"no attempts":             {[]string{"dispatch", "x", "--retry", "0"}, `retry: must be between 1 and 100, is 0`},
		"too many attempts":       {[]string{"dispatch", "x", "--retry", "101"}, `retry: must be between 1 and 100, is 101`},
		"attempts beyond numbers": {[]string{"dispatch", "x", "--retry", "4294967299"}, `--retry: expected a valid 32 bit int but got "4294967299"`},
		"attempts in words":       {[]string{"dispatch", "x", "--retry", "often"}, `--retry: expected a valid 32 bit int but got "often"`},
		"pause without retries":   {[]string{"dispatch", "x", "--retry-backoff", "1s"}, `--retry-backoff: needs --retry`},
		"limit without retries":   {[]string{"dispatch", "x", "--retry-max-backoff", "0s"}, `--retry-max-backoff: needs --retry`},
		"code without retries":    {[]string{"dispatch", "x", "--retry-on", "TIMEOUT"}, `--retry-on: needs --retry`},
		"negative pause":          {[]string{"dispatch", "x", "--retry", "2", "--retry-backoff=-1s"}, `--retry-backoff: must not be negative, is -1s`},
		"negative limit":          {[]string{"dispatch", "x", "--retry", "2", "--retry-max-backoff=-1s"}, `--retry-max-backoff: must not be negative, is -1s`},
		"long pause":              {[]string{"dispatch", "x", "--retry", "2", "--retry-backoff", "25h"}, `retry-backoff: must be between 0s and 24h0m0s, is 25h0m0s`},
		"long limit":              {[]string{"dispatch", "x", "--retry", "2", "--retry-max-backoff", "25h"}, `retry-max-backoff: must be between 0s and 24h0m0s, is 25h0m0s`},
		"code in small letters":   {[]string{"dispatch", "x", "--retry", "2", "--retry-on", "A", "--retry-on", "timeout"}, `retry-on[1]: must be 1 to 64 capital letters, digits and underscores`},
		"retry while I wait":      {[]string{"dispatch", "x", "--retry", "2", "--immediate"}, `retry: must not be set for an immediate task, whose client waits`},
		"blank diagnostics":       {[]string{"dispatch", "x", "--profile", " "}, `profile[0]: must not be empty or blank`},
		"file":                    {[]string{"dispatch", "x", "--file-id", clienttest.ID(1), "--file-id", "a.txt"}, `file-id[1]: ` + uuidForm},
		"id to show":              {[]string{"task", "show", "7"}, `id: ` + uuidForm},
		"id to wait for":          {[]string{"task", "wait", clienttest.ID(1), "7"}, `id[1]: ` + uuidForm},
		"id to watch":             {[]string{"task", "watch", "7"}, `id: ` + uuidForm},
		"id to explain":           {[]string{"task", "explain", "7"}, `id: ` + uuidForm},
		"id of logs":              {[]string{"task", "logs", "7"}, `id: ` + uuidForm},
		"id to cancel":            {[]string{"task", "cancel", "7"}, `id: ` + uuidForm},
		"id to delete":            {[]string{"task", "delete", "", "7"}, `: id: is required`},
		"blank resource to show":  {[]string{"resource", "show", " "}, `name: must not be empty or blank`},
		"resource to filter":      {[]string{"task", "list", "--resource", ""}, `resource[0]: must not be empty or blank`},
		"parent to filter":        {[]string{"task", "list", "--parent", "7"}, `parent: ` + uuidForm},
	} {
		t.Run(name, func(t *testing.T) {
			server := clienttest.New(t)
			got := ask(t, server, c.args...)
			if got.code != exitUsage {
				t.Errorf("exit code %d, want %d", got.code, exitUsage)
			}
			if !strings.HasPrefix(got.stderr, "sluice: "+c.want) {
				t.Errorf("got  %swant sluice: %s", got.stderr, c.want)
			}
			if strings.Contains(got.stderr, "rpc error") || strings.Contains(got.stderr, "task.") || strings.Contains(got.stderr, "_") {
				t.Errorf("jargon: %s", got.stderr)
			}
			if n := len(server.Specs()); n != 0 || got.stdout != "" {
				t.Errorf("%d tasks were dispatched, and printed: %s", n, got.stdout)
			}
		})
	}
}

func TestEachBrokenRuleHasItsLine(t *testing.T) {
	got := ask(t, clienttest.New(t), "dispatch", "", "--exclusive", "a", "--exclusive", "", "--shared", "shared:x", "--correlation-id", "\a")
	check(t, outcome{code: exitUsage, stderr: `sluice: correlation-id: must not contain control characters, has U+0007 at byte 0
sluice: exclusive[1]: must not be empty or blank
sluice: name: must not be empty or blank
sluice: shared[0]: must not begin with "shared:": list it under --shared without the prefix
`}, got)
}

func TestTooManyResourcesAreCountedTogether(t *testing.T) {
	args := []string{"dispatch", "x"}
	for range 501 {
		args = append(args, "--exclusive", "a", "--shared", "b")
	}
	got := ask(t, clienttest.New(t), args...)
	check(t, outcome{code: exitUsage, stderr: "sluice: exclusive: and --shared must have at most 1000 entries together, have 1002\n"}, got)
}

func TestUsageErrorsPointToTheHelpOfTheirCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"frobnicate"}, "sluice: `sluice --help` says what it takes\n"},
		{[]string{"task", "show"}, "sluice: `sluice task show --help` says what it takes\n"},
		{[]string{"dispatch", "x", "--nonsense"}, "sluice: `sluice dispatch --help` says what it takes\n"},
	} {
		if got := sluice(t, nil, c.args...); !strings.HasSuffix(got.stderr, c.want) {
			t.Errorf("%v: %s", c.args, got.stderr)
		}
	}
}

func TestResourceNamesAreTakenLiterally(t *testing.T) {
	server := clienttest.New(t)
	got := ask(t, server, "dispatch", "x", "--exclusive", `a,b\,c`, "--exclusive=-x", "--shared", "one", "--shared", "$two", "--need", "core=1.0,2", "--exclusive", "a,b\\,c")
	if got.code != exitOK {
		t.Fatal(got.stderr)
	}
	spec := server.Specs()[0]
	if diff := cmp.Diff([]string{`a,b\,c`, "-x", `a,b\,c`}, spec.GetExclusiveResources()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"one", "$two"}, spec.GetSharedResources()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"core": "1.0,2"}, spec.GetVersions()); diff != "" {
		t.Error(diff)
	}
}

func TestArgumentsReachTheServerAsTheyWereGiven(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kwargs.json")
	if err := os.WriteFile(file, []byte("{\n\"big\": 12345678901234567890.50, \"text\": \"<&>\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := clienttest.New(t)
	got := sluiceWith(t, `["from standard input"]`, map[string]string{"SLUICE_ADDR": server.Addr},
		"dispatch", "x", "--args", "@-", "--kwargs", "@"+file, "--immediate", "--no-defer", "--group", clienttest.ID(8), "--correlation-id", "c 1")
	if got.code != exitOK {
		t.Fatal(got.stderr)
	}
	deferred := false
	want := []*taskv1.TaskSpec{{
		Name: "x", ArgsJson: `["from standard input"]`, KwargsJson: "{\n\"big\": 12345678901234567890.50, \"text\": \"<&>\"}",
		Immediate: true, Deferred: &deferred, GroupId: clienttest.ID(8), CorrelationId: "c 1",
	}}
	if diff := cmp.Diff(want, server.Specs(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestOptionsOfADispatchReachTheServer(t *testing.T) {
	second, minute := durationpb.New(time.Second), durationpb.New(time.Minute)
	for line, want := range map[string]*taskv1.TaskSpec{
		"--timeout 90s":          {Timeout: durationpb.New(90 * time.Second)},
		"--timeout 1s --wait -w": {Timeout: second},
		"--retry 1":              {Retry: &taskv1.RetryPolicy{MaxAttempts: 1}},
		"--retry 3 --retry-backoff 1s --retry-max-backoff 1m --retry-on TIMEOUT --retry-on A,B": nil, // a comma is no letter
		"--retry 3 --retry-backoff 1s --retry-max-backoff 1m --retry-on TIMEOUT --retry-on E_404": {
			Retry: &taskv1.RetryPolicy{MaxAttempts: 3, Backoff: second, MaxBackoff: minute, On: []string{"TIMEOUT", "E_404"}},
		},
		"--retry 2 --retry-backoff 0s --retry-max-backoff 0s": {
			Retry: &taskv1.RetryPolicy{MaxAttempts: 2, Backoff: durationpb.New(0), MaxBackoff: durationpb.New(0)},
		},
		"--profile memory --profile a,b":        {ProfileOptions: []string{"memory", "a,b"}},
		"--file-id " + clienttest.ID(900) + " ": {FileIds: []string{clienttest.ID(900)}},
	} {
		t.Run(line, func(t *testing.T) {
			server := clienttest.New(t)
			server.OnDispatch = clienttest.Complete("1")
			got := ask(t, server, append([]string{"dispatch", "x"}, strings.Fields(line)...)...)
			if want == nil {
				if got.code != exitUsage || len(server.Specs()) > 0 {
					t.Errorf("exit code %d, %v", got.code, server.Specs())
				}
				return
			}
			deferred := true
			want.Name, want.Deferred = "x", &deferred
			if diff := cmp.Diff([]*taskv1.TaskSpec{want}, server.Specs(), protocmp.Transform()); diff != "" || got.code != exitOK {
				t.Errorf("exit code %d, %s%s", got.code, got.stderr, diff)
			}
		})
	}
}

// What limits the time of `task wait` must not make tasks fail.
func TestTheTimeoutOfTasksIsNotTakenFromTheEnvironment(t *testing.T) {
	server := clienttest.New(t)
	got := sluice(t, map[string]string{"SLUICE_ADDR": server.Addr, "SLUICE_TIMEOUT": "1s"}, "dispatch", "x")
	if got.code != exitOK || server.Specs()[0].GetTimeout() != nil {
		t.Errorf("exit code %d: %s%v", got.code, got.stderr, server.Specs())
	}
}

func TestBothListsMayNameTheSameResource(t *testing.T) {
	server := clienttest.New(t)
	if got := ask(t, server, "dispatch", "x", "--exclusive", "a", "--shared", "a"); got.code != exitOK {
		t.Error(got.stderr)
	}
}

func TestFlagsCanBeGivenInTheEnvironment(t *testing.T) {
	server := clienttest.New(t)
	variables := map[string]string{
		"SLUICE_ADDR": server.Addr, "SLUICE_OUTPUT": "json", "SLUICE_EXCLUSIVE": "a,b", "SLUICE_IMMEDIATE": "true", "SLUICE_CORRELATION_ID": "c",
		"SLUICE_GROUP": "", "SLUICE_HELP": "true", "SLUICE_SHARED": "env",
	}
	got := sluice(t, variables, "dispatch", "x", "--shared", "flag")
	if got.code != exitOK || !strings.HasPrefix(got.stdout, "{") {
		t.Fatalf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	deferred := true
	want := []*taskv1.TaskSpec{{
		Name: "x", ExclusiveResources: []string{"a,b"}, SharedResources: []string{"flag"}, Immediate: true, Deferred: &deferred, CorrelationId: "c",
	}}
	if diff := cmp.Diff(want, server.Specs(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestAMistakeInTheEnvironmentIsNamed(t *testing.T) {
	for name, value := range map[string]string{"SLUICE_OUTPUT": "xml", "SLUICE_LIMIT": "many"} {
		got := sluice(t, map[string]string{name: value}, "task", "list")
		if got.code != exitUsage || !strings.Contains(got.stderr, "(from "+name+" in the environment)") {
			t.Errorf("%s=%s: exit code %d: %s", name, value, got.code, got.stderr)
		}
	}
}

func TestDatabaseURLIsHonouredBehindOurOwnVariable(t *testing.T) {
	for _, c := range []struct {
		variables map[string]string
		want      string
	}{
		{map[string]string{"DATABASE_URL": "general"}, "general"},
		{map[string]string{"DATABASE_URL": "general", "SLUICE_DATABASE_URL": "own"}, "own"},
	} {
		var commands grammar
		var env Environment
		env.setDefaults()
		parser, err := newParser(&commands, &env, &variables{lookup: lookup(c.variables)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse([]string{"status"}); err != nil {
			t.Fatal(err)
		}
		if got := commands.Status.DatabaseURL; got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestAnAddressWhereNobodyAnswersSaysWhatToDo(t *testing.T) {
	addr := unused(t)
	id := clienttest.ID(1)
	for _, args := range [][]string{
		{"dispatch", "x"},
		{"dispatch", "x", "--wait"},
		{"task", "list"},
		{"task", "show", id},
		{"task", "wait", id},
		{"task", "wait", "--all"},
		{"task", "watch", id},
		{"task", "explain", id},
		{"task", "logs", id},
		{"task", "cancel", id},
		{"task", "delete", id},
		{"file", "put", "-"},
		{"file", "get", id},
		{"file", "delete", id},
		{"worker", "list"},
		{"resource", "list"},
		{"resource", "show", "r"},
		{"stats"},
		{"status"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			got := sluice(t, map[string]string{"SLUICE_ADDR": addr}, args...)
			check(t, outcome{code: exitNo, stderr: "sluice: no Sluice answers at " + addr + "; start one with `sluice dev` or give --addr\n"}, got)
		})
	}
}

func TestTheServersOwnWordsArePassedOn(t *testing.T) {
	server := clienttest.New(t)
	done := server.Put(&taskv1.Task{Name: "a"}).GetId()
	server.Change(done, clienttest.Complete("1"))
	waiting := server.Put(&taskv1.Task{Name: "b"}).GetId()
	unknown := clienttest.ID(77)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"task", "show", unknown}, "there is no task " + unknown},
		{[]string{"task", "wait", unknown}, "there is no task " + unknown},
		{[]string{"task", "watch", unknown}, "there is no task " + unknown},
		{[]string{"task", "logs", unknown}, "there is no task " + unknown},
		{[]string{"task", "explain", unknown}, "there is no task " + unknown},
		{[]string{"task", "cancel", done}, "task " + done + " is completed and can't be canceled"},
		{[]string{"task", "delete", waiting}, "task " + waiting + " is waiting and can't be deleted before it has ended"},
		{[]string{"resource", "show", "r"}, `no task holds "r" or waits for it`},
	} {
		check(t, outcome{code: exitNo, stderr: "sluice: " + c.want + "\n"}, ask(t, server, c.args...))
	}
}

func TestAnInternalErrorShowsItsReferenceAndNothingElse(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(string) error { return errors.New("pq: password of secret table") }
	got := ask(t, server, "task", "list")
	if got.code != exitNo || !strings.HasPrefix(got.stderr, "sluice: the server ran into an internal error (ref ") || strings.Contains(got.stderr, "secret") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

func TestAServerThatHasNoLeaderSaysSo(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(string) error { return errs.Away(errs.NotLeading, nil, "no scheduler leads at the moment") }
	check(t, outcome{code: exitNo, stderr: "sluice: no scheduler leads at the moment\n"}, ask(t, server, "dispatch", "x"))
}

func TestAPanicOfTheServerIsNoPanicHere(t *testing.T) {
	server := clienttest.New(t)
	server.Fail = func(string) error { panic("boom") }
	got := ask(t, server, "worker", "list")
	if got.code != exitNo || strings.Contains(got.stderr, "boom") || strings.Contains(got.stderr, "goroutine") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestOutputThatCouldNotBeWrittenIsNoSuccess(t *testing.T) {
	server := clienttest.New(t)
	server.Put(&taskv1.Task{Name: "a"})
	for _, form := range []string{"text", "json"} {
		var stderr strings.Builder
		code := Main(t.Context(), []string{"task", "list", "-o", form, "--addr", server.Addr}, Environment{Stdout: full{}, Stderr: &stderr, LookupEnv: lookup(nil)})
		if code != exitNo || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: exit code %d: %s", form, code, stderr.String())
		}
	}
}

func TestACutOffDispatchDoesNotClaimThatNothingHappened(t *testing.T) {
	server := clienttest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	server.OnDispatch = func(*taskv1.Task) { cancel() }
	var stderr strings.Builder
	code := Main(ctx, []string{"dispatch", "x", "--addr", server.Addr}, Environment{Stdout: full{}, Stderr: &stderr, LookupEnv: lookup(nil)})
	// The answer can have been faster.
	if code != exitNo || !(strings.Contains(stderr.String(), "whether the task was dispatched is not known") || strings.Contains(stderr.String(), "no space")) {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestManyIdsAndNobodyThereIsOneSentence(t *testing.T) {
	got := sluice(t, map[string]string{"SLUICE_ADDR": unused(t)}, "task", "cancel", clienttest.ID(1), clienttest.ID(2))
	if got.code != exitNo || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}
