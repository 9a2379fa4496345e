// Package bouncer puts a real PgBouncer in transaction mode in front of a test's database.
//
// What leans on the session (a SET, a lock of the session, LISTEN, a named prepared statement) works on a connection of
// one's own and fails behind a pooler, often without an error. So the only proof that nothing does is to run behind one.
//
// # Owns
//
// The program: the machine's, or one from the Debian archive, which is kept in the cache folder. And one process of it per
// Start, on a loopback port, with the settings of an ordinary installation. As root it runs as the user who may open the
// database's socket, because PgBouncer refuses root.
//
// # Failure
//
// Where there is neither the program nor a way to fetch it, the test is skipped and says what was tried. Everything else fails
// the test, with what PgBouncer wrote.
package bouncer
