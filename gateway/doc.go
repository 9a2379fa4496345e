// Package gateway answers REST in the shapes of Pulp 3's tasking API, by calling Sluice's own services over gRPC.
//
// # Owns
//
// The routes (http.yaml), the JSON that clients see, Pulp's field names and error shapes, paging links, correlation ids, and
// one registration with the heartbeat service, so that status pages show the gateway. It stores nothing.
//
// A request passes: handler.go (paths, methods, correlation id, access log), grpc-gateway with the codec of encode.go and
// decode.go, an in-process gRPC connection with the same interceptors as between machines, then tasks.go or system.go,
// which call the dispatcher, status and heartbeat services.
//
// # Failure
//
// A service that is away makes 503 with Retry-After for the requests that need it; livez and status go on answering. A new task
// is handed to the dispatcher some times before that, under one request id, so it is stored once. A dispatcher that has no
// room makes 429 with Retry-After at once, and so do the bodies of requests in flight when they are too much together.
// What nobody classified is 500 with a reference that the log line of the cause carries too.
package gateway
