// Package postgres opens the one database that every service shares, runs transactions on it and keeps its schema.
//
// # Owns
//
// The connection pool and the way it speaks to the server, the retry of transactions that the database asked to be
// repeated, the classification of driver errors, and the schema: migrations/*.sql and the table goose_db_version.
//
// Everything here works through a pooler in transaction mode, where two transactions of one client may run on two
// server sessions. So pgx runs in QueryExecModeExec: one round trip, unnamed statements, nothing remembered about the
// session. Its default mode caches named prepared statements, and behind PgBouncer three statements out of four then
// fail with "prepared statement already exists". The price of exec mode: parameter types come from the Go types, so
// JSON is passed as a string or json.RawMessage with a cast ($1::jsonb), never as a bare []byte, which is sent as bytea.
//
// # Failure
//
// Driver errors carry SQL, addresses and user names and must not reach a client. IsUnavailable, IsRetryable and
// Constraint say what an error means; callers map that to their own codes and log the error itself. No error of
// this package contains the password of the database URL.
package postgres
