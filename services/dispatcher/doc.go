// Package dispatcher takes tasks in, takes the wish to cancel, and deletes what has ended.
//
// # Owns
//
// New rows of task, task_live and task_group; the change of a waiting task to canceled and of a running one to canceling,
// with the note of it in task_cancel; the removal of finished tasks. Nothing else about a task.
//
// # States
//
// It makes a task waiting. A cancel of a task that never started is final at once: waiting -> canceled in the statement that
// also takes the task off the list of the living. A running one becomes canceling; the scheduler does the rest.
//
// # Failure
//
// What a client was told is committed. A dispatch whose answer was lost may have been stored: it is not repeated by itself.
// It works while no scheduler does, since the scheduler finds by itself what it was not told; the hint that follows every
// commit only saves that wait. An immediate task needs a scheduler: without one it waits, or, if it would not, is canceled.
package dispatcher
