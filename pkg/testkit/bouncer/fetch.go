package bouncer

import (
	"context"
	"path/filepath"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

// fetched returns the program from the cache, and fills the cache first if need be.
func (p places) fetched(ctx context.Context) (program, error) {
	works := func(root string) error {
		_, err := unpacked(root).inspect(ctx)
		return err
	}
	home, err := debian.Cache{Dir: p.cache, Tools: p.tools}.Fetch("root", works, func(a *debian.Archive) error {
		return a.Unpack(ctx, "pgbouncer")
	})
	if err != nil {
		return program{}, err
	}
	return unpacked(home).inspect(ctx)
}

// unpacked is the program below the folder into which its package was unpacked.
func unpacked(root string) program {
	return program{path: filepath.Join(root, "usr/sbin/pgbouncer"), libraries: debian.LibraryPath(root)}
}
