package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// VersionCmd says which build this is.
type VersionCmd struct {
	Output string `short:"o" enum:"text,json" default:"text" placeholder:"text|json" help:"Print for people (text) or for programs (json)."`
}

// Help is the longer explanation.
func (*VersionCmd) Help() string {
	return `Prints the version, the commit it was built from, and the Go release that built it. It asks no server; "sluice status" says which version that has.

    sluice version`
}

// Run prints the version.
func (c *VersionCmd) Run(env *Environment) error {
	v := build()
	if c.Output == "json" {
		return printJSON(env, v)
	}
	from := ""
	if v.Commit != nil {
		from = "commit " + *v.Commit
		if v.Modified {
			from += " with changes"
		}
		from += ", "
	}
	fmt.Fprintf(env.Stdout, "sluice %s (%s%s, %s)\n", v.Version, from, v.Go, v.Platform)
	return nil
}

// Version is the version of this binary: that of its release, or what the Go command derives from the commit.
func Version() string { return build().Version }

// build reads what the Go command wrote into the binary; a test binary has little of it.
func build() versionView {
	v := versionView{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Commit = text(setting.Value)
		case "vcs.modified":
			v.Modified = setting.Value == "true"
		}
	}
	return v
}
