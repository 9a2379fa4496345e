// Package builtin holds the tasks that every Sluice has: command.run, and, for development and tests, test.*.
//
//	task                                   arguments (* optional)                result
//	command.run                            argv, env*, stdin*, timeout* (s)      {"exit_code", "stdout", "stderr"}
//	test.noop                   immediate                                        null
//	test.echo                   immediate  any                                   {"args": [...], "kwargs": {...}}
//	test.sleep                             seconds                               null
//	test.asleep                 immediate  seconds                               null
//	test.fail                              message*                              fails with the message
//	test.afail                  immediate  message*                              fails with the message
//	test.gooey                             seconds                               null; ignores every request to stop
//	test.kill_worker                                                             none: SIGKILLs its executor
//	test.dummy_group                       inbetween* (s), intervals* (s each)   {"group", "tasks"}
//	test.group_with_finalizer              resource                              {"group", "members", "finalizer"}
//
// Those marked immediate run inside the executor; all others in a process of their own.
//
// # Owns
//
// The behaviour of these tasks, and the allow list of command.run.
//
// # Failure
//
// command.run fails its task when the command may not be run, can't be started, exits with a code other than 0, is killed
// or runs out of time; the description says which, and ends with the end of what the command wrote to standard error.
// Whatever the command left running is killed with the task.
package builtin
