// Package gateway answers REST in the shapes of Pulp 3's tasking API, by calling Sluice's own services over gRPC.
//
// # Owns
//
// The routes (http.yaml), the JSON that clients see, Pulp's field names and error shapes, paging links, correlation ids, and
// one registration with the heartbeat service, so that status pages show the gateway. It stores nothing.
//
// A request passes: handler.go (roots, versions, methods, correlation id, access log), caller.go (who it is), grpc-gateway with the
// codec of encode.go and decode.go, an in-process gRPC connection with the same interceptors as between machines, then tasks.go,
// dispatch.go, groups.go, schedules.go or system.go, which call the other services. What grpc-gateway can't answer (streams, long
// polls, downloads, the OpenAPI document) is answered by hand, after the same checks.
//
// filters.go translates the filters of lists, expression.go reads those in q, ordering.go the order; lookups.go has the filters of
// collections that are small enough to be searched here. href.go knows the roots: the API answers below each alias as below its own
// root, and makes hrefs below the one by which the request came.
//
// # Failure
//
// A service that is away makes 503 with Retry-After for the requests that need it; livez and status go on answering. A new task
// is handed to the dispatcher some times before that, under one request id, so it is stored once. A dispatcher that has no
// room makes 429 with Retry-After at once, and so do the bodies of requests in flight when they are too much together.
// What nobody classified is 500 with a reference that the log line of the cause carries too.
package gateway
