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

	"github.com/google/uuid"
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
	MaxDescription   = 1024
	MaxErrorText     = 64 << 10
	MaxLog           = 256 << 10
	MaxPage          = 1000
	DefaultPage      = 100
	MaxOffset        = 1_000_000
	MaxSlots         = 10_000
	MaxTaskNames     = 10_000
	MaxWait          = 5 * time.Minute
	DefaultWait      = time.Minute
	MaxSince         = 30 * 24 * time.Hour
	DefaultSince     = time.Hour
	MinTTL           = time.Second
	MinSince         = time.Second
	MaxTTL           = time.Hour
	// MaxMessage is the largest gRPC message that a server takes: a full assignment with room to spare.
	MaxMessage = 8 << 20
)

// maxViolations is how many broken fields are named. The answer travels in HTTP/2 trailers, once as text and once as details,
// and clients in other languages take no more than 8 KiB of those: they would show an error about headers instead.
const maxViolations = 16

// checks collects violations; its methods name the field they look at.
type checks struct{ violations []errs.Violation }

// fail notes a violation: the first of its field, unless there are enough already.
func (c *checks) fail(field, format string, args ...any) {
	if n := len(c.violations); n == maxViolations || n > 0 && c.violations[n-1].Field == field {
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
func (c *checks) text(field, value string, limit int) {
	switch {
	case len(value) > limit:
		c.fail(field, "must be at most %d bytes, has %d", limit, len(value))
	case !utf8.ValidString(value):
		c.fail(field, "must be valid UTF-8")
	default:
		if at := strings.IndexFunc(value, unicode.IsControl); at >= 0 {
			r, _ := utf8.DecodeRuneInString(value[at:])
			c.fail(field, "must not contain control characters, has U+%04X at byte %d", r, at)
		}
	}
}

// size checks a string in which anything may stand.
func (c *checks) size(field, value string, limit int) {
	if len(value) > limit {
		c.fail(field, "must be at most %d bytes, has %d", limit, len(value))
	}
}

// label checks a string that must say something.
func (c *checks) label(field, value string, limit int) {
	if strings.TrimSpace(value) == "" {
		c.fail(field, "must not be empty or blank")
		return
	}
	c.text(field, value, limit)
}

func (c *checks) resource(field, value string) {
	c.label(field, value, MaxResourceName)
	if strings.HasPrefix(value, task.SharedPrefix) {
		c.fail(field, "must not begin with %q: list it under shared_resources without the prefix", task.SharedPrefix)
	}
}

func (c *checks) id(field, value string) {
	switch {
	case value == "":
		c.fail(field, "is required")
	case !canonical(value):
		c.fail(field, "must be a UUID in lower case, like 01234567-89ab-7def-8123-456789abcdef")
	}
}

func (c *checks) optionalID(field, value string) {
	if value != "" {
		c.id(field, value)
	}
}

// canonical rules out the braces, prefixes and capitals that uuid.Parse lets pass: one task, one spelling.
func canonical(value string) bool {
	id, err := uuid.Parse(value)
	return err == nil && id.String() == value
}

func (c *checks) versions(field string, versions map[string]string) {
	if len(versions) > MaxVersions {
		c.fail(field, "must have at most %d entries, has %d", MaxVersions, len(versions))
		return
	}
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		// Cut: a name that is too long must not make the answer too long.
		entry := fmt.Sprintf("%s[%.40q]", field, component)
		c.label(entry, component, MaxName)
		c.label(entry, versions[component], MaxName)
	}
}

func (c *checks) within(field string, value, low, high int64) {
	if value < low || value > high {
		c.fail(field, "must be between %d and %d, is %d", low, high, value)
	}
}

func (c *checks) span(field string, value *durationpb.Duration, low, high time.Duration) {
	if value == nil {
		return
	}
	if err := value.CheckValid(); err != nil {
		c.fail(field, "must be a valid duration")
		return
	}
	if d := value.AsDuration(); d < low || d > high {
		c.fail(field, "must be between %s and %s, is %s", low, high, d)
	}
}
