package languages

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/testkit/debian"
)

func (m machine) fetching() debian.Cache { return debian.Cache{Dir: m.cache, Tools: m.tools} }

// keep returns the folder of a name in the cache, and has fill make its content if it is not there yet. The name tells the
// content, so that what is there is never out of date.
func (m machine) keep(name string, fill func(dir string) error) (string, error) {
	return m.fetching().Keep(name, nil, fill)
}

// key names content: the same parts have the same key, on every machine.
func key(parts ...string) string {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d %s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}
