package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/services/executor"
)

func TestSizesOfMemoryAreRead(t *testing.T) {
	for text, want := range map[string]byteSize{
		"0": 0, "268435456": 256 << 20, "512KiB": 512 << 10, "512MiB": 512 << 20, "2GiB": 2 << 30, " 1 GiB ": 1 << 30,
	} {
		var size byteSize
		if err := size.UnmarshalText([]byte(text)); err != nil || size != want {
			t.Errorf("%q is read as %d, %v", text, size, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1MiB", "1.5GiB", "1GB", "9223372036854775807KiB", "1 MiB 1"} {
		var size byteSize
		if err := size.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "512MiB") {
			t.Errorf("%q is read as %d, %v", text, size, err)
		}
	}
}

func TestFlagsOfAnExecutorThatCannotWorkAreRefused(t *testing.T) {
	good := ExecutorFlags{Slots: -1, TasksPerChild: 100, ChildIdle: time.Minute}
	for name, change := range map[string]func(*ExecutorFlags){
		"--tasks-per-child": func(f *ExecutorFlags) { f.TasksPerChild = 0 },
		"--child-memory":    func(f *ExecutorFlags) { f.ChildMemory = executor.MinChildMemory - 1 },
		"--child-idle":      func(f *ExecutorFlags) { f.ChildIdle = 0 },
		"--diagnostics":     func(f *ExecutorFlags) { f.Diagnostics = []string{"memory", "memray"} },
	} {
		flags := good
		change(&flags)
		if err := flags.apply(&executor.Config{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var config executor.Config
	if err := good.apply(&config); err != nil || config.Slots < 2 {
		t.Errorf("good flags: %d slots, %v", config.Slots, err)
	}
	for text, want := range map[string][]string{"": {"before"}, "none": nil, "memory, logs": {"memory", "logs"}, "logs": {"logs"}} {
		flags, config := good, executor.Config{Diagnostics: []string{"before"}}
		if text != "" {
			flags.Diagnostics = strings.Split(text, ",")
		}
		if err := flags.apply(&config); err != nil || !slices.Equal(config.Diagnostics, want) {
			t.Errorf("%q: %q, %v", text, config.Diagnostics, err)
		}
	}
}
