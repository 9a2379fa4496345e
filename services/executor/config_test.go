package executor

import (
	"strings"
	"testing"
	"time"
)

func TestConfigThatCannotWorkIsRefused(t *testing.T) {
	for want, config := range map[string]Config{
		"no directory":   {},
		"slots must be":  {WorkDir: "/tmp", Slots: -1},
		"time to live":   {WorkDir: "/tmp", TTL: time.Millisecond},
		"negative":       {WorkDir: "/tmp", CancelGrace: -1},
		"name must have": {WorkDir: "/tmp", Name: strings.Repeat("x", 256)},
		"is negative: -": {WorkDir: "/tmp", MaxTasksPerChild: -1},
	} {
		if _, err := config.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", config, err, want)
		}
	}
	config, err := Config{WorkDir: "/tmp"}.complete()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(config.Name, "@") || config.TTL != 30*time.Second || config.ImmediateTimeout != 5*time.Second || config.MaxTasksPerChild != 100 {
		t.Errorf("defaults: %+v", config)
	}
}
