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
//	run        held --> waiting for a slot --> running --> (deleting what is incomplete) --> reporting --> (forgotten)
//	             |            |                 |   ^
//	             +------------+-----------------+   |
//	             |            canceled, refused,    +-- the handler's context ends; SIGTERM; after a grace SIGKILL to all its
//	             |            or out of time            processes. A connected worker is told to stop; after the grace it loses its stream
//	             +-- given back, when the station stops: others run it
//
// A task that is assigned is acknowledged at once and held. Nothing of it begins, and no slot is taken, before the scheduler has said
// that it knows. So what was not acknowledged when a line ended was never begun by anybody, and what is given back is unharmed:
// that is said by a hello that does not name it, or by the goodbye.
//
// A run waits for nobody to hear of it. What there is to say to the scheduler is collected, and what comes while a message is
// on its way goes with the next. Messages are split before they get too large for the scheduler.
//
// A line proves that it lives by its pulses: each is answered, and a line on which nothing comes for three of them is left, whatever
// the network says of it. What was last heard goes with each beat, so that others can see who is deaf.
//
// # Names and lives
//
// A name belongs to the one life that is registered under it. Who finds it taken waits until that says goodbye, is silent for its
// time to live, or is replaced, and says so once in its log.
//
//   - The same executor, started anew, waits for nothing if it can prove that nothing of its predecessor is left (see the home
//     directory); otherwise for the end of its lease.
//   - Two executors of one name: the second waits as long as the first lives.
//   - One that was only cut off, and whose name is another's by now, has killed its tasks before that could happen, finds out at its
//     next beat, and waits.
//   - A life that was fenced is replaced at once by the next one of the same process, once everything of it is dead. If something
//     is not (a handler that ignores its context, a process that hangs in the kernel), nobody is replaced, and the rest of the time to
//     live is waited for.
//   - A connected worker that comes back under its name is let in when the scheduler has accepted what became of its tasks; two at
//     once are refused, and so is one that comes back to another executor process before the lease of its former life has ended.
//
// # Leases
//
// The lease of a life is two thirds of the time to live, by CLOCK_BOOTTIME, counted from when the last beat was sent that was
// confirmed. When it ends, all tasks are killed and nothing is reported. A process that was stopped goes on anywhere, so
// everything that leaves it asks the lease first: the beginning of a task, a report, a log, what a handler asks for, an end, a message
// to a worker. Others are told of each life and each extension: a guard, which acts at three quarters if the executor can't.
//
// # Guard and directory
//
// Each process that is started for a task has two marks in its environment: that of its child, by which what outlives the child is
// found, and that of the executor, by which what outlives that is. Descendants of those that are marked are found whatever they did
// to their environment. Who uses the second mark:
//
//   - The guard (package pkg/worker/guard), a process of the same program, started before the name is asked for. When the lease is
//     over, or the executor's process is gone, it ends all that is marked; in the second case it says so to the heartbeat service,
//     so that the tasks fail now and not when the lease ends. It goes with an executor that stops; one that dies is replaced.
//   - Whoever finds the directory of a dead executor. The lock on it is let go of by the kernel, and by nobody else. It holds a
//     record of the life, and where that was (boot, pid namespace). Who comes from there too ends what is left, and has a proof that nothing
//     is: under the same name the next registration carries it, under another it is told to the heartbeat service.
//
// A directory is taken before the name is asked for and cleared after: an executor of that name on another machine may use it.
//
// What this does not find: processes that have cleared their environment and lost all marked ancestors, which takes a SIGKILL of the
// child as well; those of another user, unless their parents are there. A machine that is paused as a whole, and a control group that is
// frozen, goes on anywhere, perhaps in a task before its guard; there the claim's number is all that fences.
//
// What a run tells of itself (progress, also what it adds to that of its group, created resources, log) is kept here and stored by and by, the last of it before its end
// is reported.
//
// A dispatch can ask for diagnostics. What the executor is set to keep is kept while the task runs (how much memory its processes have, its
// log) and stored beside its last report, for as long as a report may take; what can't be had is named in the task's log.
//
// A task's directory is made for its process, or, in the executor's own process, when the handler first asks for it.
//
// # Traces
//
// A run of a task that is traced is a span, whose id follows from the task and the attempt: so its handler, be it in another process or in
// another language, goes on below it before it is exported, and the scheduler can make it for an executor that is lost. It is exported
// when its end is reported, and never for a run that was dropped.
//
// # Failure
//
// A worker that dies fails its task and nothing else. When the scheduler is away, tasks go on and their ends are kept. When
// beats are not confirmed for two thirds of the time to live, the executor kills what it runs before anybody else could be
// given it, and begins a new life. When the executor is killed, its children see the line to it close and kill all their
// processes; the heartbeat service declares its tasks lost. An executor that stops and could not report all ends says that it is
// dead, if nothing of it goes on, so that nobody waits for the end of its lease.
//
// Many executors that lose the same peer at the same moment come back to it one after the other: their pauses grow, are random, and
// so are those between beats. Who waited for a new leader says hello after up to a quarter of that time more, at most a second.
//
// A connected worker that vanishes, or does not do in time what it has to, fails the tasks that it has, at once. It has promised to
// stop them when its stream ends or its lease does; nobody here can force it.
//
// A handler that runs as a goroutine can only be asked to stop. Until it returns, its task has not ended, whatever its
// client waits for: freeing its resources before would let two conflicting tasks overlap.
package executor
