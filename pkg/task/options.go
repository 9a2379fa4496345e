package task

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Options are what a dispatch asked for beyond what every task has. Most tasks have none.
type Options struct {
	// Timeout is how long one attempt may run, 0 for what the handler says.
	Timeout time.Duration
	// Retry is nil unless failures are retried.
	Retry *Retry
	// Profile names diagnostics to be made.
	Profile []string
	// Files are the ids of temporary files.
	Files []string
	// CreatedBy is the number of the user on whose behalf it was dispatched, 0 for nobody.
	CreatedBy int64
}

// Retry says which failures are worth another attempt.
type Retry struct {
	// Attempts is how many there are at most, the first one included.
	Attempts int32
	// Backoff is the pause before the second attempt, doubled for each one after it, at most MaxBackoff.
	Backoff, MaxBackoff time.Duration
	// On are the codes of the errors that are retried; none means all but PERMANENT.
	On []string
}

// Defaults of a Retry.
const (
	DefaultBackoff    = time.Second
	DefaultMaxBackoff = time.Minute
)

// Again reports whether a task that failed is to be started another time, after so many attempts.
func (r *Retry) Again(attempts int32, failure *Error) bool {
	if r == nil || attempts >= r.Attempts || failure == nil || failure.Code == CodePermanent {
		return false
	}
	return len(r.On) == 0 || slices.Contains(r.On, failure.Code)
}

// Pause is how long to wait after so many attempts: between half of the backoff and all of it, so that what failed together
// does not come back together.
func (r *Retry) Pause(attempts int32) time.Duration {
	longest := r.LongestPause(attempts)
	return longest/2 + rand.N(longest/2+1)
}

// LongestPause is the longest that Pause returns, the backoff after so many attempts.
func (r *Retry) LongestPause(attempts int32) time.Duration {
	pause := r.Backoff
	for range attempts - 1 {
		if pause >= r.MaxBackoff/2 {
			pause = r.MaxBackoff
			break
		}
		pause *= 2
	}
	return max(0, min(pause, r.MaxBackoff))
}

// storedOptions is how options stand in the database: times in milliseconds.
type storedOptions struct {
	Timeout   int64        `json:"timeout_ms,omitempty"`
	Retry     *storedRetry `json:"retry,omitempty"`
	Profile   []string     `json:"profile,omitempty"`
	Files     []string     `json:"files,omitempty"`
	CreatedBy int64        `json:"created_by,omitempty"`
}

type storedRetry struct {
	Attempts   int32    `json:"attempts"`
	Backoff    int64    `json:"backoff_ms"`
	MaxBackoff int64    `json:"max_backoff_ms"`
	On         []string `json:"on,omitempty"`
}

// Empty reports whether nothing was asked for.
func (o Options) Empty() bool {
	return o.Timeout == 0 && o.Retry == nil && len(o.Profile) == 0 && len(o.Files) == 0 && o.CreatedBy == 0
}

// Attempts is how many attempts there are at most.
func (o Options) Attempts() int32 {
	if o.Retry == nil {
		return 1
	}
	return o.Retry.Attempts
}

// Text is the form in which options are stored, "" for none.
func (o Options) Text() (string, error) {
	if o.Empty() {
		return "", nil
	}
	stored := storedOptions{Timeout: o.Timeout.Milliseconds(), Profile: o.Profile, Files: o.Files, CreatedBy: o.CreatedBy}
	if r := o.Retry; r != nil {
		stored.Retry = &storedRetry{Attempts: r.Attempts, Backoff: r.Backoff.Milliseconds(), MaxBackoff: r.MaxBackoff.Milliseconds(), On: r.On}
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return "", fmt.Errorf("encode options: %w", err)
	}
	return string(text), nil
}

// ParseOptions is the inverse of Text.
func ParseOptions(text string) (Options, error) {
	if text == "" {
		return Options{}, nil
	}
	var stored storedOptions
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return Options{}, fmt.Errorf("decode options: %w", err)
	}
	o := Options{
		Timeout: time.Duration(stored.Timeout) * time.Millisecond, Profile: stored.Profile, Files: stored.Files, CreatedBy: stored.CreatedBy,
	}
	if r := stored.Retry; r != nil {
		o.Retry = &Retry{
			Attempts: r.Attempts, On: r.On,
			Backoff: time.Duration(r.Backoff) * time.Millisecond, MaxBackoff: time.Duration(r.MaxBackoff) * time.Millisecond,
		}
	}
	return o, nil
}
