// Package bench measures a whole Sluice from outside: it dispatches tasks through the services, runs them on an executor of
// its own, and checks afterwards that every promise was kept.
//
// It knows the services as any client does, by gRPC. What it adds to a system is one handler, test.noop, which does nothing
// but note when it was called; so the moments that count are all by the clock of one process.
//
//	warm-up    a tenth of the tasks (Config.WarmUp) go first and are waited for; they are checked, but not counted
//	clock      starts with the first call of Dispatch after that, ends when the last completion was seen
//	start      from the call of Dispatch, or DispatchBatch, to the first moment of the handler
//	costs      those of the server and of this process between two readings, just before and just after the clock
//	backlog    tasks that wait all the while for a resource which a task holds that nobody can run
//
// The load is closed unless Config.Rate is set: every dispatcher dispatches again when its call returned, as long as no more
// than Config.InFlight tasks are dispatched and not completed. The more are, the longer each waits for its start: under a
// closed load the latency says how deep the queue was kept. At a rate it says how fast the system answers.
//
// Two more things are measured, each by itself. What executors cost that have nothing to do: a [Crowd] of simulated ones, which say
// all that real ones say, lives in a process of its own, and MeasureIdle compares a system with one of them with a system with all
// of them. And what happens when far more is handed in than can be run: [Overload] tells what was accepted from what was refused.
//
// # Owns
//
// The workloads, the load, the simulated executors, the record of what happened to every task, the figures. pkg/history judges the record.
//
// # Failure
//
// A dispatch that fails ends the run: the benchmark measures a healthy system. Completions come with the leader's stream of
// changes; when that breaks or seems to have left something out, the tasks in question are asked for one by one. When nothing
// at all happens for Config.Patience, the wait is given up, and what is missing is a violation.
package bench
