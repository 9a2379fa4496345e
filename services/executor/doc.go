// Package executor runs tasks: it takes them from the scheduler, gives each to a worker with an empty directory of its own,
// and reports how it ended.
//
// Workers are child processes of the executor (a warm pool, one task at a time each), goroutines for handlers that are declared
// safe, or programs of any language that connect to the executor's Work stream. User code never sees the database; neither does
// the executor, which knows its peers by gRPC alone.
//
// # Owns
//
// The children, the tasks' working directories, and the only knowledge of whether a claimed task still runs. It writes
// nothing to the database: an outcome is the scheduler's as soon as the scheduler has confirmed it, and until then it is
// kept and reported again after every reconnect.
//
// # States
//
// A station is one name under which tasks are taken: the executor's own, and <executor>/<worker> for each connected worker. To
// everybody else each is an executor, with a registration, a lease, slots and a line to the scheduler of its own.
//
//	station    registering --> connected <--> looking for the scheduler
//	               ^              |
//	               |              +--> stopping: no new tasks; running ones end, have a grace, or are aborted
//	               +-- fenced ----+    (no beat was confirmed in time: all tasks are killed, nothing is reported)
//
//	run        waiting for a slot --> running --> (deleting what is incomplete) --> reporting --> (forgotten)
//	                  |                 |   ^
//	                  +-----------------+   |
//	                  canceled, refused,    +-- the handler's context ends; SIGTERM; after a grace SIGKILL to all its
//	                  or out of time            processes. A connected worker is told to stop; after the grace it loses its stream
//
// A run waits for nobody to hear of it. What there is to say to the scheduler is collected, and what comes while a message is
// on its way goes with the next. The end of a run goes at once; that a claim is held, which only matters of a run that lasts,
// goes with whatever is said next, after a tenth of a second by itself, and not at all if the end overtakes it or if a hello
// has said it. Messages are split before they get too large for the scheduler.
//
// What a run tells of itself (progress, created resources, log) is kept here and stored by and by, the last of it before its end
// is reported.
//
// A task's directory is made for its process, or, in the executor's own process, when the handler first asks for it.
//
// # Failure
//
// A worker that dies fails its task and nothing else. When the scheduler is away, tasks go on and their ends are kept. When
// beats are not confirmed for two thirds of the time to live, the executor kills what it runs before anybody else could be
// given it, and begins a new life. When the executor is killed, its children see the line to it close and kill all their
// processes; the heartbeat service declares its tasks lost.
//
// A connected worker that vanishes, or does not do in time what it has to, fails the tasks that it has, at once. It has promised to
// stop them when its stream ends or its lease does; nobody here can force it.
//
// A handler that runs as a goroutine can only be asked to stop. Until it returns, its task has not ended, whatever its
// client waits for: freeing its resources before would let two conflicting tasks overlap.
package executor
