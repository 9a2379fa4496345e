package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
)

const (
	// A gateway beats three times within its time to live, so that two lost beats don't make it missing, and tries thirty
	// times to get a broken line back.
	beatsPerTTL   = 3
	retriesPerTTL = 30
	// goodbyeWait bounds the last call of a gateway that stops.
	goodbyeWait = time.Second
)

// beat keeps the gateway registered until ctx is canceled. That only matters to status pages, so nothing of it can fail:
// the first error of an outage is logged as a warning, the others for debugging.
func (g *Gateway) beat(ctx context.Context) {
	incarnation, level := "", slog.LevelWarn
	for ctx.Err() == nil {
		err := g.live(ctx, &incarnation, func() { level = slog.LevelWarn })
		if ctx.Err() != nil {
			break
		}
		g.log.Log(ctx, level, "the gateway does not show as online, trying on", slog.Any("error", err))
		level = slog.LevelDebug
		pause(ctx, g.config.TTL/retriesPerTTL)
	}
	g.goodbye(ctx, incarnation)
}

// live registers, unless a life of before goes on, and beats until the line breaks. It calls alive after each beat.
func (g *Gateway) live(ctx context.Context, incarnation *string, alive func()) error {
	if *incarnation == "" {
		response, err := g.heartbeat.Register(ctx, &heartbeatv1.RegisterRequest{
			Name:     g.config.Name,
			Kind:     heartbeatv1.Kind_KIND_API,
			Versions: map[string]string{"core": CoreVersion, "sluice": g.config.Version},
			Ttl:      durationpb.New(g.config.TTL),
		})
		if err != nil {
			return fmt.Errorf("register %s: %w", g.config.Name, err)
		}
		*incarnation = response.GetIncarnation()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := g.heartbeat.Beat(ctx)
	if err != nil {
		return fmt.Errorf("open the line of beats: %w", err)
	}
	// A beat that is not confirmed in time is as good as none.
	overdue := time.AfterFunc(g.config.TTL, cancel)
	defer overdue.Stop()
	for {
		_ = stream.Send(&heartbeatv1.BeatRequest{Incarnation: *incarnation}) // Recv has the error
		if _, err := stream.Recv(); err != nil {
			if errs.Is(err, errs.Fenced) {
				*incarnation = ""
			}
			return fmt.Errorf("beat: %w", err)
		}
		overdue.Reset(g.config.TTL)
		alive()
		pause(ctx, g.config.TTL/beatsPerTTL)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (g *Gateway) goodbye(ctx context.Context, incarnation string) {
	if incarnation == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeWait)
	defer cancel()
	if _, err := g.heartbeat.Deregister(ctx, &heartbeatv1.DeregisterRequest{Incarnation: incarnation}); err != nil {
		g.log.DebugContext(ctx, "the gateway will show as missing: it could not say goodbye", slog.Any("error", err))
	}
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
