// Package e2e tests Sluice as its users meet it: the built program, as real processes, through its command line, its REST
// face and gRPC.
//
// Most stories run in both shapes that Sluice comes in: "dev", everything in one process with a PostgreSQL of its own, and
// "services", one process for each service on one database, the executor joined through the gateway; the latter once more with
// a PgBouncer in front of that database. TestStories starts one system of each shape and tells all of them to it, one after the
// other. Stories that kill something have a system to themselves, and so have those that break connections, which then lead through
// a proxy: one that knows where a statement ends (pkg/testkit/faults), or one that is the network (pkg/testkit/wire).
//
// Faults happen under a load, whose tasks write down when they start, that they live, and when they end. In the end all of it is
// checked (pkg/history): that nothing which was acknowledged is lost or ran twice, that nothing overlapped, that order was
// kept, and that a task failed only if something befell its executor. What a lost task still writes when its successor has
// started is an overlap, too.
//
// # Owns
//
// The harness (process, system, crew, stand, gate, history, flow, load) and the stories. What a service does by itself is tested beside it.
// The stories of other languages are skipped where Python or Node can't be had; SLUICE_E2E_LANGUAGES=required makes that a failure.
//
// `make faults` tells all stories of faults, those that take long or are much like another one, too (SLUICE_E2E_FAULTS=1), and prints
// them as sentences with what was measured on the way.
//
// With SLUICE_E2E_RACE=1 in the environment the program under test has the race detector in it, too, which takes a while; a
// race that it finds fails the story. With SLUICE_E2E_POOLED=1 all services of all stories reach their database through a
// PgBouncer. With -short, the example that indexes the standard library does only a part of it.
//
// # Failure
//
// A story that fails prints what all processes of its system have written since it began. Nothing here sleeps: what is not
// yet so is looked at again until its deadline.
package e2e
