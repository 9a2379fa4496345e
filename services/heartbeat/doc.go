// Package heartbeat knows who is alive.
//
// # Owns
//
// The app table: one row for each life (incarnation) of a named process. Register begins one, beats keep it, Deregister
// ends it, and silence for longer than its time to live makes it missing. For each life of an executor that is over it leaves a
// note (app_over) in the same transaction, and tells the scheduler that there is one; what happens to the tasks of who is gone is
// the scheduler's business.
//
// An executor that beats but does not hear the scheduler is deaf. That is stored and shown, and has no consequence here: who can't
// reach the scheduler may still run tasks.
//
// # States
//
//	registered --(beats)--> registered --(deregister)-----------------> ended
//	                              |
//	                              +-----(silence)---------------------> missing
//	                              +-----(said to be dead, replaced)---> missing
//
// Ended and missing are for good: the same process comes back as another incarnation. Dead and replaced are said by who knows that
// nothing of that life is left: then nobody waits for the end of its time.
//
// # Beats
//
// They arrive on streams, one per process, and are written together: the first after a quiet time at once, then after a tenth of
// the shortest time to live among them, at most three seconds. Ten thousand executors are a statement every three seconds. A beat
// is confirmed only after it was written, and its sender counts his time from when he sent it. So he stops his tasks, by himself
// and after two thirds of his time, before he can be declared missing.
//
// # Silence
//
// The silent are looked for when the next life can be over, which each look answers, at the latest after ten seconds; pending
// beats are written first. What counts is the database's clock, and nobody may be harmed by a clock that is set:
//
//   - A service compares it with its own monotonic clock at each answer. It tells the database what the clock shows at least, unless
//     it was set, and the database judges by the earlier of both: a step forward makes nobody silent, even before it is noticed.
//   - Once it is noticed, silence counts from there, for those who are looked for and for those whose name is wanted. A step back
//     makes beats from the future of it; their silence counts from the next look.
//   - A service that has just begun knows nothing of before. It gives everybody his whole time.
//   - A clock that is corrected smoothly, by no more than a tenth, is not a step. Executors have a third.
//
// Not covered: a clock that is set back and forth again between two statements of one service, while another one writes beats.
//
// # Replicas
//
// All services are active. A beat through any of them counts, and each looks for everybody. A life with a time to live below ten
// seconds that began with another service, never beat through this one, and is lost together with that other is missed for at most
// these ten seconds.
//
// # Failure
//
// When this service or the database is away, nobody's beat is confirmed, executors stop their tasks in time by themselves, and who
// is then declared missing has really stopped. A registration whose caller does not wait any more is taken back, so that he does
// not find his own name taken when he tries again. However many register or ask who is there, beats find a connection.
package heartbeat
