// Package debian fetches Debian packages for tests, as whoever runs them, without installing anything.
//
// # Owns
//
// The way from the archive to a folder: packages are downloaded by the machine's apt, which knows its mirrors and checks the
// signatures, and are unpacked below a folder together with the libraries that they need and the machine does not have. apt's
// own state is not changed.
//
// The cache that keeps such folders, and whatever else tests have to fetch, from one run to the next. Of several processes that
// want the same, one fetches and the others wait; a folder is there completely or not at all.
//
// # Failure
//
// Where something is missing (apt, the network, a place to write) the error says what, with the end of what the programs wrote,
// and nothing half made is left. Whether the test is then skipped or fails is for the caller to say. A folder that no longer
// works, for example after an upgrade of the machine, is fetched again.
package debian
