package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrMajor says that the cluster was made by another major version than the binaries.
var ErrMajor = errors.New("PostgreSQL versions differ")

// paths are the places in a server's folder.
type paths struct {
	dir, lock, data, newData, run, hba, log string
}

func pathsIn(dir string) paths {
	return paths{
		dir:     dir,
		lock:    filepath.Join(dir, "lock"),
		data:    filepath.Join(dir, "data"),
		newData: filepath.Join(dir, "data.new"),
		run:     filepath.Join(dir, "run"),
		hba:     filepath.Join(dir, "hba.conf"),
		log:     filepath.Join(dir, "postgres.log"),
	}
}

// Major returns the major version of the cluster in dir; 0 when there is none yet. Options.Major takes it.
func Major(dir string) (int, error) {
	file := filepath.Join(dir, "data", "PG_VERSION")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the cluster: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the version of the cluster in %s: %w", file, err)
	}
	return major, nil
}

func checkMajor(p paths, b Binaries) error {
	major, err := Major(p.dir)
	if err != nil || major == 0 || major == b.Major {
		return err
	}
	return fmt.Errorf("%w: the cluster in %s was made by PostgreSQL %d, the binaries in %s are %s; "+
		"install version %d, or move the cluster with pg_upgrade", ErrMajor, p.data, major, b.Dir, b.Version, major)
}

// makeCluster runs initdb unless there is a cluster. The cluster is made beside its place and renamed at the end, so
// that a kill in the middle leaves nothing that looks like one.
func makeCluster(ctx context.Context, p paths, cfg Config, server account) error {
	_, err := os.Stat(p.data)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(p.newData, 0o700); err != nil {
		return err
	}
	if err := server.own(p.newData); err != nil {
		return err
	}
	// Locale C: the order of text is the order of bytes and does not change with the next C library, which would
	// silently corrupt indexes. Trust is for initdb's own hba file; the server is started with ours.
	args := []string{"-D", p.newData, "-U", superuser, "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-instructions"}
	if cfg.Durable {
		args = append(args, "--data-checksums")
	} else {
		args = append(args, "--no-sync")
	}
	if err := runInitdb(ctx, exec.Command(cfg.Binaries.initdb(), args...), p, server); err != nil {
		return err
	}
	if err := os.Rename(p.newData, p.data); err != nil {
		return err
	}
	return syncDir(p.dir)
}

func runInitdb(ctx context.Context, cmd *exec.Cmd, p paths, server account) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Dir = p.dir
	cmd.Env = childEnv(p.dir)
	cmd.SysProcAttr = childAttr(server, syscall.SIGKILL)
	child, err := launch(cmd)
	if err != nil {
		return fmt.Errorf("run initdb as %s: %w", server.name, err)
	}
	select {
	case <-child.done:
	case <-ctx.Done():
		child.kill()
		<-child.done
		return fmt.Errorf("run initdb: %w", ctx.Err())
	}
	if child.err != nil {
		return fmt.Errorf("run initdb as %s: %w: %s", server.name, child.err, lastLines(output.String()))
	}
	return nil
}

// syncDir makes a rename survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// childEnv is all that PostgreSQL gets of our environment: our secrets are not its business, and PGPORT, PGDATA and LC_*
// of whoever started us would change what it does.
func childEnv(dir string) []string {
	env := []string{"LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
