// Package pgtest gives every test a database of its own in a real PostgreSQL.
//
// # Owns
//
// One server per test process, started at first use and stopped by Main; in it a template database with the schema, and
// a clone of the template per test, dropped when the test ends (some 25 ms for both). The server's folder is in
// /dev/shm if there is room, and TMPDIR is not set. With SLUICE_TEST_DATABASE_URL=postgres://… the clones are made on
// that server instead; its role needs CREATEDB.
//
// And what tests of stores do with a database: read One value, change what Must change, Begin a transaction that is in
// somebody's way, take the database Away, Record what is sent and ask for its Plan.
//
// And servers that a test has for itself, by Own, to kill, to fill up, to set the clock of: those sync as in production, and keep
// what was committed however they end.
//
// A package that uses it has this and nothing else in TestMain, which also checks that no goroutine is left:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// # Failure
//
// A machine without PostgreSQL fails the test with what to install; it does not skip. The common server does not sync to disk,
// so no test may draw conclusions about durability from it.
package pgtest
