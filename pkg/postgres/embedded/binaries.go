package embedded

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MinMajor is the oldest PostgreSQL major version that Sluice runs on.
const MinMajor = 14

const versionTimeout = 10 * time.Second

// Binaries is a folder with the programs of one PostgreSQL.
type Binaries struct {
	Dir     string // holds initdb and postgres
	Major   int    // 15
	Version string // "15.14", or "19beta1"
}

func (b Binaries) postgres() string { return filepath.Join(b.Dir, "postgres") }
func (b Binaries) initdb() string   { return filepath.Join(b.Dir, "initdb") }

// inspect says what is in dir; the error says why it is of no use.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	b := Binaries{Dir: dir}
	for _, program := range []string{b.initdb(), b.postgres()} {
		info, err := os.Stat(program)
		if err != nil {
			return Binaries{}, fmt.Errorf("no %s in %s", filepath.Base(program), dir)
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return Binaries{}, fmt.Errorf("%s is not executable", program)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, b.postgres(), "--version").CombinedOutput()
	if err != nil {
		// Also the answer of a build for another C library: its loader is missing, the error names the program.
		return Binaries{}, fmt.Errorf("%s does not run here: %w %s", b.postgres(), err, strings.TrimSpace(string(out)))
	}
	b.Version, b.Major = parseVersion(string(out))
	if b.Major == 0 {
		return Binaries{}, fmt.Errorf("%s does not tell its version: %q", b.postgres(), strings.TrimSpace(string(out)))
	}
	return b, nil
}

// parseVersion reads what `postgres --version` prints: "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)".
func parseVersion(out string) (version string, major int) {
	m := regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\s]*)`).FindStringSubmatch(out)
	if m == nil {
		return "", 0
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return "", 0
	}
	return m[1], major
}
