package limits

import "google.golang.org/protobuf/proto"

// Knows reports whether Check has rules, or knows that none are needed, for a request.
func Knows(request proto.Message) bool { return new(checks).request(request) }

// Depth is the nesting of valid JSON.
func Depth(text string) int { return depth(text) }

// Canonical reports whether a UUID is spelled as it must be.
func Canonical(value string) bool { return canonical(value) }
