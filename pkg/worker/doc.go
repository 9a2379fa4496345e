// Package worker is what one writes task handlers with.
//
//	mux := worker.NewMux()
//	worker.Handle(mux, "site.resize", func(ctx context.Context, in Resize) (Size, error) { ... })
//	if worker.IsChild() {
//		os.Exit(worker.ChildMain(mux))
//	}
//
// A handler takes its arguments as a struct and returns a value that becomes the task's result, as JSON. It runs in a
// process of its own unless it is declared safe to share one ([InProcess], [Immediate]); either way an executor owns it.
// The current directory (in a shared process: [WorkingDir]) is empty, belongs to the task and vanishes after it.
// What the handler writes to standard output and standard error is the task's log.
//
// A program of one's own, with handlers of one's own, is a complete executor: where above it hands its Mux to ChildMain, it
// hands it to os.Exit(cli.ExecutorMain(mux)) of package pkg/cli, which takes all parts: that of the executor, and those of the
// children and of the guard (package guard) that it starts the program as. That is all there is to a main function.
//
// From its context a handler learns about the task ([Current], [RawArguments]), logs ([Logger]), dispatches further tasks
// ([Dispatch]), makes task groups ([NewGroup]), says how far it is ([NewProgress], [NewGroupProgress]) and what it makes ([Creating], [Created]),
// exchanges files that outlive the task ([KeepFile], [FetchFile]), and makes spans of its own in the task's trace ([Tracer]). The
// context ends when the task is to stop, or its time
// is up, which [context.Context.Deadline] shows beforehand.
//
// What a handler is, it is declared to be with options: where it may run ([InProcess], [Immediate]), how long ([Timeout]),
// what it is part of ([Component]), how what it left incomplete is deleted ([Discards]).
//
// What it returns as an error fails the task. The error says more about itself if it is wrapped: its text may be shown to
// whoever sees the task ([Safe], [Safef]), it is of a kind that retries can name ([Coded]), or no retry can help ([Permanent]).
//
// # Owns
//
// The names a process can run and how arguments meet handlers ([Mux]); the making of an outcome from whatever a handler
// does; the worker's side of the line to the executor ([ServeChild], [ChildMain]); how often progress is sent. It knows
// nothing of databases, schedulers or other tasks. What an error's text is replaced by, if it is not safe, is the executor's
// to say.
//
// # States
//
//	child:   starting --> ready --> running, or discarding --> ready ...
//	                                   |
//	                                   +--> stopping (the handler's context is canceled)
//
// A child has no end of its own: it is killed by its executor, or kills itself when the executor is gone.
//
// # Failure
//
// Whatever a handler does becomes an outcome: an error, a panic, a runtime.Goexit, a result that is not JSON or too large
// all fail the task with one clear line. A handler that ends its process fails it too, in the executor's words. What was
// reported before, counts in all these cases. A child whose executor is gone kills all its descendants, its process group and
// itself, at once: nobody could stop them any more, and the task may soon run elsewhere. A child whose executor is stopped goes
// on; the guard ends it when the lease does.
package worker
