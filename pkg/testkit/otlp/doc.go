// Package otlp receives in a test what processes export by OTLP over HTTP, as a collector would.
//
// # Owns
//
// The traces that reach it, in the order in which they come. It forgets nothing.
//
// # Failure
//
// What it can't read fails the test, and is answered with 400: the sender drops it, and does not try again.
package otlp
