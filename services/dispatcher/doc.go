// Package dispatcher takes tasks in, takes the wish to cancel, deletes what has ended, one by one or by age, and keeps schedules and
// temporary files.
//
// # Owns
//
// New rows of task, task_live and task_group; the change of a waiting task to canceled and of a running one to canceling,
// with the note of it in task_cancel; the removal of finished tasks, and of groups that nobody is in any more. Nothing else about a task.
// Schedules, but not when they are due next once they are made. And temporary files with their parts, and which tasks have which.
//
// # States
//
// It makes a task waiting. A cancel of a task that never started is final at once: waiting -> canceled in the statement that
// also takes the task off the list of the living. A running one becomes canceling; the scheduler does the rest.
//
// A cancel of a group does that to all its members, the newest first, so that nobody begins because another one stopped: two thousand
// to a transaction. What is locked at that moment, by a tick mostly, is passed over and tried again in a transaction of its own:
// nothing is ever waited for while something is held.
//
// A call to dispatch, of one task or of a batch, is waiting, under way, or answered. What has arrived while a transaction was
// under way is stored in the next one, many calls to a commit; a call that comes while nothing is under way is stored at once.
// Nobody waits for company. One transaction at a time, so the numbers of one dispatcher become visible in their order.
//
// A task with a request id is new, or known: then nothing of it is stored, and its caller gets the first one as it is now, and
// waits for it if it is immediate. The id is known for as long as the task is kept.
//
// There is room for what waits to be stored, or not: then nothing is stored, and the caller is told when to come again. The
// bounds are tasks and bytes on their way to the database, and tasks that are not final, as the leader counted last; a count
// that is older than ten seconds is forgotten. A message is read when it is its turn, so what was not counted yet has a bound too.
//
// A file is uploading, complete, or removed. Its parts are stored one by one; it is there for others from the statement that
// finds all of them until the one that removes it, and its parts are deleted after that, by whichever dispatcher looks first.
// A file that a task has which is not final is not removed, and no task gets one that is: both lock the row of the file first.
//
// A task that is traced has a span for its dispatch, and its row the context of that span, from before it can be seen. What ends without
// having started, by a cancel or because it would not wait, has its last spans from here: no leader remembers its context.
//
// # Failure
//
// What a client was told is committed. Of a call all tasks are stored or none, and whatever is wrong with one call costs the
// others in its transaction nothing: they are tried again, each by itself. Who gives up while waiting has stored nothing. A
// dispatch whose answer was lost, or whose caller gave up when it was under way, may have been stored: once, and it is not
// repeated by itself; its caller can repeat it, under its request id. When the database is away, all who share a transaction learn
// so together. What PostgreSQL undid because two dispatchers stored the same request ids at the same moment is tried again.
//
// A purge never touches what is not final, nor a task whose children are not; what somebody else has locked it passes over, so
// any number may purge at the same time. It is a page to a transaction: one that breaks off has removed what it has removed.
//
// It works while no scheduler does, since the scheduler finds by itself what it was not told; the hint that follows every
// commit, with the rows that it stored, only saves that wait. An immediate task needs a scheduler: without one it waits, or,
// if it would not, is canceled.
package dispatcher
