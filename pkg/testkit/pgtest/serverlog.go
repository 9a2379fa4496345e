package pgtest

import (
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
)

// ServerLog returns what the server of this test process has logged so far, of all its databases. The test is skipped
// when the server is an external one, whose log we cannot read.
func ServerLog(t testing.TB) string {
	t.Helper()
	c := running(t)
	if c.server == nil {
		t.Skip("needs the log of the server, and SLUICE_TEST_DATABASE_URL names one that is not ours")
	}
	text, err := os.ReadFile(c.server.LogPath())
	if err != nil {
		t.Fatalf("pgtest: read the server's log: %v", err)
	}
	return string(text)
}

// LogStatements makes the server log every statement of the database at target, a URL from URL, from the next connection
// on; and returns a function that lists them so far. Each is what the log says: "statement: begin", or
// "execute <unnamed>: select $1", or with the name of a prepared statement in place of <unnamed>.
func LogStatements(t testing.TB, target string) (statements func() []string) {
	t.Helper()
	c := running(t)
	u, err := url.Parse(target)
	if err != nil {
		t.Fatalf("pgtest: log statements: not a URL")
	}
	name := strings.TrimPrefix(u.Path, "/")
	ServerLog(t) // skips before anything is changed
	if _, err := c.admin.Exec(t.Context(), "alter database "+name+" set log_statement = 'all'"); err != nil {
		t.Fatalf("pgtest: log statements: %v", err)
	}
	return func() []string { return statementsOf(ServerLog(t), name) }
}

// statementsOf picks the statements of one database out of a log with the line prefix "%m [%p] %d ". The further lines
// of a message begin with a tab.
func statementsOf(log, database string) []string {
	message := regexp.MustCompile(`^\S+ \S+ \S+ \[\d+\] ` + regexp.QuoteMeta(database) + ` LOG:  ((?:statement|execute [^:]*): .*)$`)
	var found []string
	in := false
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if m := message.FindStringSubmatch(line); m != nil {
			found, in = append(found, m[1]), true
			continue
		}
		if in = in && strings.HasPrefix(line, "\t"); in {
			found[len(found)-1] += "\n" + line[1:]
		}
	}
	return found
}
