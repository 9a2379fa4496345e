// Package scheduler decides which task may run, and gives it to an executor that can run it.
//
// # Owns
//
// Of a task: unblocked_at, the claim (executor, incarnation, claim number, attempt, started_at) and every end that follows a
// start. Of a schedule: when it is due next, and its last task, from the first dispatch on; the rows of the tasks that it dispatches
// for schedules. Of the database: the lease row. It answers Offer, Acquire, Follow, WatchLeadership, Explain and the questions about
// resources.
//
// # The leader
//
// Any number of schedulers may run, one leads. The leader keeps every task that is not final in memory, in a lock table
// (pkg/lock), and decides alone; the others stand by. One goroutine owns that memory. What happens outside (an executor
// says hello, a run ends, somebody offers a task) is put into its inbox. It works in ticks:
//
//  1. take everything from the inbox and change the memory accordingly;
//  2. give what is ready to free slots;
//  3. write all of it in one transaction of one round trip, headed by a fence that fails unless this leader's epoch still
//     holds; the same round trip looks for new tasks, cancels and lives that are over if somebody hinted at them or a second
//     has passed;
//  4. only now let effects out: assignments, cancels, confirmations.
//
// Under load ticks run back to back and each carries what arrived during the one before. When idle, one runs at once. When there
// is nothing to do, a glance takes the place of the tick: one statement a second, which keeps the lease and says whether there is
// anything to look for, however many executors are connected.
//
// # Ticks that overlap
//
// While the database works on a tick that writes nothing but ends of runs and claims, the next such one may be made and sent. Each is
// a transaction of its own, and may be committed though the one before it is not, so none rests on what another one under way writes:
// what waited for a task whose end is under way is given away with that end, or after it, never beside it. What they bring is applied
// in the order in which they were sent, whichever returns first; if one fails, nothing leaves any more. Anything else that is to be
// done (a look, a cancel, an executor that comes or hangs up, a question) waits until none is under way, and meanwhile none is sent.
// A tick joins another if it is at least half as large: a chain has its ticks at once, a crowd has few.
//
// # Schedules
//
// The leader dispatches what is due by a schedule: the task comes and the schedule's next time moves in one transaction of its own,
// behind the fence, so each time is dispatched once, whoever leads. The glance, and under load a look each second, says when the
// next one is due. A time at which the task of the time before has not ended is put off until it has; times that passed meanwhile
// are left out. That transaction changes nothing that the leader remembers, so its failure costs a second and not the memory; a
// schedule that can't be dispatched is undone alone.
//
// # A start
//
// An assignment begins in two steps: the executor acknowledges it, and begins when it hears that this is known. Acknowledgements
// don't wait for a tick. The line to the executor notes them and answers, both under the lock under which it ends. So when a line
// has ended, for whatever reason, it is certain what may have begun, all that was acknowledged, and what never will, all the rest:
// that goes to others at once, and is not counted as an attempt, be the executor dead, deaf or only cut off. What a leader before
// this one was told is not known, so after a takeover everything counts as acknowledged until the executor's hello says otherwise.
//
// So that the first step costs no time, what is about to be assigned is announced while the tick is written. An announcement is no
// effect: the executor keeps nothing of it, and if the tick fails, it was nothing. What was acknowledged before the assignment
// goes into the line counts as acknowledged from then on, and begins as it comes.
//
// Who does not acknowledge in time, or answers no pulse, loses its line.
//
// # States
//
// A scheduler:
//
//	standby --(lease taken)--> loading --> leading --(any error, any doubt)--> standby
//
// A leader that is told to stop lets its tick end, then its streams, then yields the lease, and then says so to those who
// watch it. A standby asks for the lease at that word, when the lease runs out, and every quarter of it in any case.
//
// A task in the leader's memory:
//
//	blocked --(has all it named)--> ready --(slot)--> claimed --(end)--> gone
//	                                  ^                  |
//	                                  +--(not taken)-----+
//	                                  |                  |
//	                                  +---- resting <----+
//	                                 (pause)    (failed, and its policy says: again)
//
// From ready on it holds its resources, and it gives them back when it goes, so nothing that conflicts starts between two of its
// attempts. In the database a task that rests is waiting, with the time of the next attempt in its row and the failed ones in
// task_attempt; the leader wakes it by its own clock. A cancel ends a rest at once. Immediate tasks are not tried again.
//
// # Figures
//
// How long tasks wait and run, and how they end, the leader counts as it happens, by the minute, name and domain, in memory. Another
// goroutine stores a minute whole every five seconds, behind the fence but beside the ticks, adds minutes up to hours when they are
// over, and forgets both when no window of the status service reaches them. The next leadership goes on with the minute that it finds;
// what a leader had not stored when it died, and what was canceled before it was seen, is not counted.
//
// # Traces
//
// Of a task whose row says that its trace is wanted, the leader makes spans after the commit of what they tell of: what it waited for, and
// whose hold of which resource kept it for longest, with its claim; its end; the runs of executors that are lost; and the dispatches of
// schedules. Between claim and end it keeps the context in memory, and a new leader reads it with what runs.
//
// # Failure
//
// After any error the leader drops its memory and takes the lease anew, under a new epoch, and loads what the database
// holds: it is the truth, whether or not the failed transaction was committed. A deposed leader's transactions fail at the
// fence; one that is stuck in a transaction is evicted when its lease ran out a whole lease ago. Executors keep their tasks
// meanwhile, say hello again, and the two lists are compared: what the executor holds goes on, what it never received goes back to
// waiting, what is not its own is refused. A lost hint costs one periodic look. Rows become visible in the order of commit, not of
// seq: the leader remembers the numbers that it has not seen and asks for them.
//
// The end of an executor's life is noted in app_over by the heartbeat service, and the note is removed by the transaction that
// settles what the life left: what it had acknowledged has failed, if it went missing. For lives whose end nobody noted the leader
// asks every ten seconds. A leader that hangs on its database keeps only so much of what it is told: rows that dispatchers tell of
// are left out above a bound, and found by looks, and callers are turned away (RESOURCE_EXHAUSTED).
package scheduler
