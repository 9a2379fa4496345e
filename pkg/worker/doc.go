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
// From its context a handler learns about the task ([Current]), logs ([Logger]), dispatches further tasks ([Dispatch]) and
// makes task groups ([NewGroup]).
//
// # Owns
//
// The names a process can run and how arguments meet handlers ([Mux]); the making of an outcome from whatever a handler
// does; the worker's side of the line to the executor ([ServeChild], [ChildMain]). It knows nothing of databases,
// schedulers or other tasks.
//
// # States
//
//	child:   starting --> ready --> running --> ready ...
//	                                   |
//	                                   +--> stopping (the handler's context is canceled)
//
// A child has no end of its own: it is killed by its executor, or kills itself when the executor is gone.
//
// # Failure
//
// Whatever a handler does becomes an outcome: an error, a panic, a runtime.Goexit, a result that is not JSON or too large
// all fail the task with one clear line. A handler that ends its process fails it too, in the executor's words. A child
// whose executor is gone kills its whole process group, at once: nobody could stop it any more, and the task may soon run
// elsewhere.
package worker
