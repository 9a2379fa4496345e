package bouncer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/postgres/embedded"
	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

const (
	findTimeout    = 3 * time.Minute // with a fetch
	versionTimeout = 10 * time.Second
)

// installed is looked for once per test process. It is a global because tests have no common caller but TestMain.
var installed finding

type finding struct {
	once    sync.Once
	program program
	err     error
}

func (f *finding) get() (program, error) {
	f.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
		defer cancel()
		f.program, f.err = machine().find(ctx)
	})
	return f.program, f.err
}

// program is a PgBouncer that runs here.
type program struct {
	path      string
	libraries string // folders for LD_LIBRARY_PATH; empty when it needs none
	version   [2]int // 1, 18
}

func (p program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.path, args...)
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"} // no PG* of ours leads it elsewhere
	if p.libraries != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+p.libraries)
	}
	return cmd
}

// preparesForClients tells versions that know the setting from those that do not start with it.
func (p program) preparesForClients() bool {
	return p.version[0] > 1 || p.version[0] == 1 && p.version[1] >= 21
}

var versionLine = regexp.MustCompile(`PgBouncer (\d+)\.(\d+)`)

// inspect runs the program to see that it does, and which version it is.
func (p program) inspect(ctx context.Context) (program, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, "--version")
	cmd.Env = p.command().Env
	output, err := cmd.CombinedOutput()
	if err != nil {
		return program{}, fmt.Errorf("%s does not run here: %w: %s", p.path, err, strings.TrimSpace(string(output)))
	}
	m := versionLine.FindStringSubmatch(string(output))
	if m == nil {
		return program{}, fmt.Errorf("%s does not tell its version: %q", p.path, output)
	}
	for i := range p.version {
		if p.version[i], err = strconv.Atoi(m[i+1]); err != nil {
			return program{}, fmt.Errorf("read the version of %s: %w", p.path, err)
		}
	}
	return p, nil
}

// places are where to look.
type places struct {
	path  string // list of folders with programs
	tools string // the same for apt-get and dpkg
	cache string // folder for what is fetched; empty: nothing is
}

// machine is this one. The program is a server, so an ordinary user's PATH does not have its folder.
func machine() places {
	p := places{tools: os.Getenv("PATH")}
	p.path = p.tools + string(filepath.ListSeparator) + "/usr/sbin" + string(filepath.ListSeparator) + "/usr/local/sbin"
	if cache, err := embedded.CacheDir(); err == nil {
		p.cache = filepath.Join(cache, "pgbouncer")
	}
	return p
}

// find returns the first PgBouncer that runs.
func (p places) find(ctx context.Context) (program, error) {
	var errs []error
	if path, err := debian.Program(p.path, "pgbouncer"); err != nil {
		errs = append(errs, err)
	} else {
		found, err := program{path: path}.inspect(ctx)
		if err == nil {
			return found, nil
		}
		errs = append(errs, err)
	}
	found, err := p.fetched(ctx)
	if err == nil {
		return found, nil
	}
	return program{}, errors.Join(append(errs, fmt.Errorf("fetch it: %w", err))...)
}
