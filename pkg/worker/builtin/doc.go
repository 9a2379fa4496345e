// Package builtin holds the tasks that every Sluice has: command.run, sluice.purge_tasks, and, for development and tests, test.*.
//
//	task                                   arguments (* optional)                result
//	command.run                            argv, env*, stdin*, timeout* (s)      {"exit_code", "stdout", "stderr"}
//	sluice.purge_tasks                     finished_before*, states*             {"deleted": {state: number}, "deleted_groups"}
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
//	test.flaky                             fail_times, code*                     {"attempt"}; its first fail_times attempts fail with the code
//	test.panic                             message*                              none: panics with the message
//	test.secret                            -                                     fails with a text that is not declared safe
//	test.exit                              code (0 to 255)                       none: its process exits
//	test.signal                            number (1 to 64)                      none, mostly: its process sends itself the signal
//	test.memory                            bytes                                 {"bytes"}, when it has taken and touched that much memory
//	test.progress                          steps, total*, interval* (s)          {"done"}; reports each step in the part test.progress
//	test.create                            resources*, incomplete*, message*,    null; fails with the message if there is one
//	                                       seconds*
//	test.keep_file                         text                                  {"file"}: UUID of a temporary file with the text
//	test.read_files                        -                                     [text, ...]: the first 4 KiB of each file that it was given
//
// Those marked immediate run inside the executor, and so does sluice.purge_tasks; all others in a process of their own.
//
// sluice.purge_tasks deletes the tasks that ended before finished_before, a time by RFC 3339 (30 days before it runs), and are in one of the
// states, final ones (["completed"]); then the groups that were made before that and have no members left. It does so page by page,
// tells how many it has deleted, and can be canceled between two pages; what is deleted stays so. How many there will be is known
// when all is done.
//
// test.dummy_group adds to the progress of its group, in the part test.dummy_group, if it is in one when it begins.
//
// test.progress has as many steps to do as it takes, unless total says otherwise; a negative total stands for one that is not
// known. test.create makes a file with the task's id for each of its resources, absolute paths that must not exist, in a
// folder that must; it reports those in incomplete without ever completing them, waits for the seconds, and ends. What deletes
// them if it does not complete removes the file, unless something else stands in it by then.
//
// # Owns
//
// The behaviour of these tasks, and the allow list of command.run. What a purge may delete the dispatcher decides.
//
// # Failure
//
// command.run fails its task when the command may not be run, can't be started, exits with a code other than 0, is killed
// or runs out of time; the description says which, and ends with the end of what the command wrote to standard error.
// Whatever the command left running is killed with the task. These texts are declared safe to show, and an argument that no
// command can be run with has the code PERMANENT. A purge outlives a dispatcher that is away for half a minute.
package builtin
