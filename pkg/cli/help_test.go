package cli

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// leaves are all commands, as words.
func leaves(t *testing.T) []*kong.Node {
	t.Helper()
	var env Environment
	env.setDefaults()
	parser, err := newParser(&grammar{}, &env, &variables{lookup: lookup(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Leaves(true)
}

// asks reports whether a command asks a running Sluice; the others are services, with help of their own.
func asks(node *kong.Node) bool {
	group := node.ClosestGroup()
	return group != nil && group.Key != "services" && group.Key != "start"
}

func TestEveryCommandHasAHelpThatANewcomerCanLearnFrom(t *testing.T) {
	for _, node := range leaves(t) {
		if node.Help == "" || !strings.HasSuffix(node.Help, ".") {
			t.Errorf("%s: its help is no sentence: %q", node.Path(), node.Help)
		}
		if asks(node) && !strings.Contains(node.Detail, "    sluice "+node.Path()) {
			t.Errorf("%s: its help has no example", node.Path())
		}
		for _, value := range node.Values() {
			if !strings.HasSuffix(value.Help, ".") {
				t.Errorf("%s: the help of %s is no sentence: %q", node.Path(), value.Name, value.Help)
			}
		}
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	for _, node := range leaves(t) {
		// The help of status also shows the flags of its service.
		if !asks(node) || node.Name == "status" {
			continue
		}
		for _, flag := range []string{"--help", "-h"} {
			got := sluice(t, nil, append(strings.Fields(node.Path()), flag)...)
			if got.code != exitOK || got.stderr != "" {
				t.Errorf("%s %s: exit code %d, %s", node.Path(), flag, got.code, got.stderr)
			}
			golden(t, "help/"+strings.ReplaceAll(node.Path(), " ", "-"), got.stdout)
		}
	}
	golden(t, "help/task", sluice(t, nil, "task", "--help").stdout)
	golden(t, "help/sluice", sluice(t, nil, "--help").stdout)
	golden(t, "overview", sluice(t, nil).stdout)
}

func TestHelpOfStatusShowsBothItsSides(t *testing.T) {
	got := sluice(t, nil, "status", "--help")
	for _, flag := range []string{"--addr", "--output", "--grpc-addr", "--database-url"} {
		if !strings.Contains(got.stdout, flag) {
			t.Errorf("no %s in %s", flag, got.stdout)
		}
	}
}

func TestNoArgumentsIsNoMistake(t *testing.T) {
	if got := sluice(t, nil); got.code != exitOK || got.stderr != "" {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}

func TestHelpNeedsNoArguments(t *testing.T) {
	got := sluice(t, map[string]string{"SLUICE_OUTPUT": "nonsense"}, "task", "show", "--help")
	if got.code != exitOK || !strings.HasPrefix(got.stdout, "Usage: sluice task show <id>") {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
}
