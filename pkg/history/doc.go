// Package history checks what was seen of tasks against what is promised of them.
//
// Whoever dispatches and runs tasks notes when each call of Dispatch began and returned, when each run began and ended, and
// which final state was seen, all by one monotonic clock. [Check] returns where that breaks a promise: conflicting tasks that
// ran at the same time, a task that overtook a conflicting one, one that ran twice or never, one that nobody dispatched.
//
//	tasks := history.Gather(slices.Values(events))
//	for _, v := range history.Check(tasks) {
//		fmt.Println(v)
//	}
//
// Who has millions of tasks fills in []Task directly; who reads a file uses [Read] and [Gather].
//
// The check must not cost more than the run that it checks. Comparing all pairs of tasks is out of the question with one
// resource that all of them share. Instead all runs are looked at in the order of their starts, and each resource remembers
// one moment: the latest end of what was granted so far. What starts before that moment overlaps. The order is proved the same
// way, in the order of the calls, with the latest end of what had been dispatched by then.
//
// # Owns
//
// What a violation is. Pure: values in, values out, standard library only.
//
// # Failure
//
// It errs on the side of silence where nothing can be proved: times that touch are no overlap, two dispatches that were under
// way together have no order, a dispatch without an answer has promised nothing. Of one task each kind of violation is
// returned once, with one other task that it concerns, however many there are.
package history
