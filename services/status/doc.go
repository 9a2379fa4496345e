// Package status answers questions about tasks.
//
// # Owns
//
// What executors tell about a run beside its outcome: the tables task_log and task_report. Everything else it only reads.
//
// # Waiting
//
// Whoever waits for a task is woken by the leader's stream of committed changes (Follow), and looks at the database: the
// stream says that there is something to see, never what. A change that the stream lost is found by the look that each
// waiter makes once a second; while no leader can be followed it looks sooner at first, then as rarely.
//
// # Failure
//
// Nothing here is needed for tasks to run. While the database is away, callers are told to try again.
package status
