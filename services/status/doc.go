// Package status answers questions about tasks.
//
// # Owns
//
// What executors tell about a run beside its outcome: the tables task_log, task_report, task_artifact and task_group_progress. Everything
// else it only reads.
//
// # Progress of groups
//
// A run says what it has added to the progress of its group since it began. That stands in its report, and the difference to what
// stood there before is added to the group's row, in the same transaction: what is repeated adds nothing, and what the next attempt
// says takes the place of what the last one had. The sums stay when tasks are removed.
//
// # Waiting
//
// Whoever waits for a task is woken by the leader's stream of committed changes (Follow), and looks at the database: the
// stream says that there is something to see, never what. A change that the stream lost is found by the look that each
// waiter makes once a second; while no leader can be followed it looks sooner at first, then as rarely.
//
// # Watching
//
// Whoever watches tasks by a filter is a place in a log of changes, in which each task stands once, at its latest change. One goroutine
// fills it for all: with what the leader tells, and with what one look a second finds by comparing what there is with what there was,
// for dispatches, what a dispatcher cancels and words that were lost are told by nobody. What changed is read once, together with what
// the filters of all watchers say of it. A slow watcher costs nothing; one whose place has been forgotten, or is of another process, is
// told to begin anew. While nobody watches, nobody looks.
//
// # Logs
//
// A log is stored as a whole, the end of what a run wrote, together with how much that was in all: by it, who follows the log knows what
// is new. He looks when this process stores the log, when the task changes, and once a second, for there are other processes.
//
// # How tasks fared
//
// Waiting times, running times and ends are counted by the leading scheduler, in histograms for each minute, name and domain, which are
// added up here for the window that is asked for: from minutes up to three hours back, beyond that from hours. No task is looked at for
// it. What the leader has not stored yet, some seconds' worth, it is asked for; without a leader that is missing.
//
// # Failure
//
// Nothing here is needed for tasks to run. While the database is away, callers are told to try again.
package status
