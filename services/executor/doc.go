// Package executor runs tasks: it takes them from the scheduler, gives each to a worker in an empty directory, and reports
// how it ended.
//
// Workers are child processes of the executor (a warm pool, one task at a time each), or goroutines for handlers that are
// declared safe. User code never sees the database; neither does the executor, which knows its peers by gRPC alone.
//
// # Owns
//
// The children, the tasks' working directories, and the only knowledge of whether a claimed task still runs. It writes
// nothing to the database: an outcome is the scheduler's as soon as the scheduler has confirmed it, and until then it is
// kept and reported again after every reconnect.
//
// # States
//
//	executor   registering --> connected <--> looking for the scheduler
//	               ^              |
//	               |              +--> stopping: no new tasks; running ones get a grace
//	               +-- fenced ----+    (no beat was confirmed in time: all tasks are killed, nothing is reported)
//
//	run        acknowledging --> waiting for a slot --> running --> reporting --> (forgotten)
//	                  |                 |                 |   ^
//	                  +-----------------+-----------------+   |
//	                  canceled, or refused by the scheduler   +-- SIGTERM, after a grace SIGKILL to the process group
//
// # Failure
//
// A worker that dies fails its task and nothing else. When the scheduler is away, tasks go on and their ends are kept. When
// beats are not confirmed for two thirds of the time to live, the executor kills what it runs before anybody else could be
// given it, and begins a new life. When the executor is killed, its children see the line to it close and kill their process
// groups; the heartbeat service declares its tasks lost.
//
// A handler that runs as a goroutine can only be asked to stop. Until it returns, its task has not ended, whatever its
// client waits for: freeing its resources before would let two conflicting tasks overlap.
package executor
