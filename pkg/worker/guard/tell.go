package guard

import (
	"context"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

const (
	// callFor limits one attempt.
	callFor = 5 * time.Second
	// pauseAtMost is the longest pause between two attempts.
	pauseAtMost = time.Second
	// tellAtMost is for how long it is attempted, however long the lease is: no guard shall stay for hours where all else was stopped.
	tellAtMost = 10 * time.Minute
)

// tell says to the heartbeat service that the executor is dead and that none of its processes is left, until that has heard it, has
// something against it, or knows by itself. SIGTERM makes it give up when nobody answers: there is nothing left to be guarded, and
// who stops all that belongs to the executor (a service manager that wants to start it anew) would wait for us.
func tell(ctx context.Context, orders Orders, terminated <-chan os.Signal) {
	conn, err := rpc.Dial(orders.Heartbeat)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	client := heartbeatv1.NewHeartbeatServiceClient(conn)
	deadline := min(orders.Until+int64(orders.TellFor), Now()+int64(tellAtMost))
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, pauseAtMost) {
		attempt, cancel := context.WithTimeout(ctx, callFor)
		_, err := client.Deregister(attempt, &heartbeatv1.DeregisterRequest{Incarnation: orders.Incarnation, Dead: true})
		cancel()
		if err == nil || !worthwhile(err) || Now() >= deadline {
			return
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)): // not in step with the guards of others
		case <-terminated:
			return
		}
	}
}

// worthwhile reports whether another attempt can have another result.
func worthwhile(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}
