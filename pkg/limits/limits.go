// Package limits holds the limits of every field that a client can send, and enforces them: one place, called by the
// servers' interceptor for every request, so that no service can forget one.
//
// # Owns
//
// The numbers below, which the comments in proto/ repeat for readers, and Check.
//
// # Failure
//
// A request that breaks rules gets InvalidArgument with one violation per broken field, of the first 16. Nothing has been read
// or written by then.
package limits

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Limits of fields. Sizes are in bytes of UTF-8.
const (
	MaxName          = 255
	MaxResourceName  = 1024
	MaxResources     = 1000 // of one task, both kinds together
	MaxVersions      = 64
	MaxJSON          = 1 << 20 // arguments, named arguments, result: each
	MaxJSONDepth     = 100
	MaxCorrelationID = 255
	MaxRequestID     = 128
	MaxDescription   = 1024
	MaxErrorText     = 64 << 10
	MaxLog           = 256 << 10
	MaxPage          = 1000
	MaxPurge         = 10_000 // tasks that one call of PurgeTasks looks at
	DefaultPage      = 100
	MaxOffset        = 1_000_000
	MaxBatch         = 1000 // tasks of one DispatchBatch
	MaxOffered       = 2000
	MaxSlots         = 10_000
	MaxTaskNames     = 10_000
	MaxAttempts      = 100
	MaxRetryCodes    = 32
	MaxCode          = 64
	MaxProfiles      = 16
	MaxProfile       = 64
	MaxFiles         = 100     // of one task
	MaxFilePart      = 1 << 20 // of one message
	MaxFile          = 1 << 30
	MaxParts         = 100     // parts of a task's work with progress of their own
	MaxCreated       = 1000    // resources that one task made
	MaxMessageText   = 1024    // of progress, for people
	MaxCounted       = 1 << 53 // of a group's progress: what sums up must not overflow, and JSON can hold no more
	MaxConditions    = 200     // of one filter
	MaxNesting       = 20      // of one filter
	MaxValues        = 1000    // of one condition
	MaxOrder         = 8
	MaxArtifact      = 4 << 20
	MaxArtifacts     = 16 // of one task
	MaxSchedules     = 10_000
	MaxUsername      = 150
	MinPassword      = 8
	MaxPassword      = 1024
	MaxToken         = 255
	MaxAddress       = 64 // of a client, as text
	MaxLogText       = 64 << 10
	MaxWorkerName    = 64
	MaxPath          = 4096 // as Linux has it
	MaxWait          = 5 * time.Minute
	DefaultWait      = time.Minute
	MaxSince         = 30 * 24 * time.Hour
	DefaultSince     = time.Hour
	MinTTL           = time.Second
	MinSince         = time.Second
	MaxTTL           = time.Hour
	MinTimeout       = time.Millisecond
	MaxTimeout       = 30 * 24 * time.Hour
	MaxBackoff       = 24 * time.Hour
	MinInterval      = time.Second // between dispatches of a schedule
	MaxInterval      = 10 * 365 * 24 * time.Hour
	// MaxMessage is the largest gRPC message that a server takes: a full assignment with room to spare.
	MaxMessage = 8 << 20
)

// maxSilence is as long as anything can be, for what a clock says that nobody set.
const maxSilence = 365 * 24 * time.Hour

// MaxViolations is how many broken fields are named. The answer travels in HTTP/2 trailers, once as text and once as details,
// and clients in other languages take no more than 8 KiB of those: they would show an error about headers instead.
const MaxViolations = 16

// path names a field. Nearly all fields are right, so its text is only put together when a rule is broken.
type path struct {
	in   *path
	name string
	// nth is the place in a list, from 1; 0: the field itself.
	nth int
	// key: name is the key of an entry of in.
	key bool
}

func at(name string) path { return path{name: name} }

func (p path) dot(name string) path { return path{in: &p, name: name} }

// item is the i-th element, from 0, of the list.
func (p path) item(i int) path { p.nth = i + 1; return p }

func (p path) entry(key string) path { return path{in: &p, name: key, key: true} }

// String is the path as clients see it: tasks[3].versions["core"].
func (p path) String() string {
	text := strings.Clone(p.name) // or the compiler thinks that p is kept, and all paths go to the heap
	switch {
	case p.key:
		// Cut: a name that is too long must not make the answer too long.
		text = p.in.String() + fmt.Sprintf("[%.40q]", text)
	case p.in != nil:
		text = p.in.String() + "." + text
	}
	if p.nth > 0 {
		text = fmt.Sprintf("%s[%d]", text, p.nth-1)
	}
	return text
}

// checks collects violations; its methods name the field they look at.
type checks struct{ violations []errs.Violation }

// fail notes a violation: the first of its field, unless there are enough already.
func (c *checks) fail(at path, format string, args ...any) {
	if len(c.violations) == MaxViolations {
		return
	}
	field := at.String()
	if n := len(c.violations); n > 0 && c.violations[n-1].Field == field {
		return
	}
	c.violations = append(c.violations, errs.Violation{Field: field, Rule: fmt.Sprintf(format, args...)})
}

// err is nil when no rule was broken.
func (c *checks) err() error {
	if len(c.violations) == 0 {
		return nil
	}
	return errs.Invalid(c.violations...)
}

// text checks a string that may be empty.
func (c *checks) text(at path, value string, limit int) {
	switch {
	case len(value) > limit:
		c.fail(at, "must be at most %d bytes, has %d", limit, len(value))
	case plain(value):
	case !utf8.ValidString(value):
		c.fail(at, "must be valid UTF-8")
	default:
		if i := strings.IndexFunc(value, unicode.IsControl); i >= 0 {
			r, _ := utf8.DecodeRuneInString(value[i:])
			c.fail(at, "must not contain control characters, has U+%04X at byte %d", r, i)
		}
	}
}

// plain reports whether all characters are of ASCII and can be printed, as those of nearly all names are.
func plain(value string) bool {
	for i := range len(value) {
		if b := value[i]; b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// size checks a string in which anything may stand.
func (c *checks) size(at path, value string, limit int) {
	if len(value) > limit {
		c.fail(at, "must be at most %d bytes, has %d", limit, len(value))
	}
}

// label checks a string that must say something.
func (c *checks) label(at path, value string, limit int) {
	if strings.TrimSpace(value) == "" {
		c.fail(at, "must not be empty or blank")
		return
	}
	c.text(at, value, limit)
}

func (c *checks) resource(at path, value string) {
	c.label(at, value, MaxResourceName)
	if strings.HasPrefix(value, task.SharedPrefix) {
		c.fail(at, "must not begin with %q: list it under shared_resources without the prefix", task.SharedPrefix)
	}
}

func (c *checks) id(at path, value string) {
	switch {
	case value == "":
		c.fail(at, "is required")
	case !canonical(value):
		c.fail(at, "must be a UUID in lower case, like 01234567-89ab-7def-8123-456789abcdef")
	}
}

func (c *checks) optionalID(at path, value string) {
	if value != "" {
		c.id(at, value)
	}
}

// canonical knows the one form of a UUID that is taken: no braces, prefixes or capitals. One task, one spelling.
func canonical(value string) bool {
	if len(value) != 36 {
		return false
	}
	for i := range len(value) {
		switch b := value[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if b != '-' {
				return false
			}
		case b >= '0' && b <= '9', b >= 'a' && b <= 'f':
		default:
			return false
		}
	}
	return true
}

func (c *checks) versions(at path, versions map[string]string) {
	switch {
	case len(versions) == 0:
		return
	case len(versions) > MaxVersions:
		c.fail(at, "must have at most %d entries, has %d", MaxVersions, len(versions))
		return
	}
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		entry := at.entry(component)
		c.label(entry, component, MaxName)
		c.label(entry, versions[component], MaxName)
	}
}

func (c *checks) within(at path, value, low, high int64) {
	if value < low || value > high {
		c.fail(at, "must be between %d and %d, is %d", low, high, value)
	}
}

func (c *checks) span(at path, value *durationpb.Duration, low, high time.Duration) {
	if value == nil {
		return
	}
	if err := value.CheckValid(); err != nil {
		c.fail(at, "must be a valid duration")
		return
	}
	if d := value.AsDuration(); d < low || d > high {
		c.fail(at, "must be between %s and %s, is %s", low, high, d)
	}
}
