// Package executor runs tasks: it takes them from the scheduler, gives each to a worker with an empty directory of its own,
// and reports how it ended.
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
//	run        waiting for a slot --> running --> reporting --> (forgotten)
//	                  |                 |   ^
//	                  +-----------------+   |
//	                  canceled, or refused  +-- SIGTERM, after a grace SIGKILL to the process group
//	                  by the scheduler
//
// A run waits for nobody to hear of it. What there is to say to the scheduler is collected, and what comes while a message is
// on its way goes with the next. The end of a run goes at once; that a claim is held, which only matters of a run that lasts,
// goes with whatever is said next, after a tenth of a second by itself, and not at all if the end overtakes it or if a hello
// has said it. Messages are split before they get too large for the scheduler.
//
// A task's directory is made for its process, or, in the executor's own process, when the handler first asks for it.
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
