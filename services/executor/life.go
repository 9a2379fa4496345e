package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	process "github.com/sluice-tasks/sluice/pkg/run" // run is a task's here
)

// life is one registration under the executor's name. A restart, and what follows after a fencing, is another.
type life struct {
	incarnation string
	// began is when the registration was asked for: the first moment that counts as a confirmed beat.
	began time.Time
}

// newDelays spaces out attempts to reach a peer: soon at first, then about once a second, never in step with the other
// executors that lost the same peer at the same moment.
func newDelays() *backoff.ExponentialBackOff {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = 50 * time.Millisecond
	delays.Multiplier = 2
	delays.MaxInterval = time.Second
	delays.RandomizationFactor = 0.5
	return delays
}

// register begins a life, however long that takes; it reports false when ctx ended before.
func (s *station) register(ctx context.Context) (life, bool) {
	delays := newDelays()
	for {
		began := time.Now()
		response, err := s.registerOnce(ctx)
		if err == nil {
			s.log.InfoContext(ctx, "registered", slog.String("incarnation", response.GetIncarnation()))
			s.nowWaitsFor(errors.New("waiting for the scheduler"))
			return life{incarnation: response.GetIncarnation(), began: began}, true
		}
		if ctx.Err() != nil {
			return life{}, false
		}
		if errs.Is(err, errs.NameTaken) {
			err = fmt.Errorf("another living executor is called %q; waiting until it ends, or is silent for its time to live: %w", s.name, err)
		} else {
			err = fmt.Errorf("register with the heartbeat service: %w", err)
		}
		s.nowWaitsFor(err)
		if !process.Pause(ctx, delays.NextBackOff()) {
			return life{}, false
		}
	}
}

// registerOnce is not interrupted by ctx: a registration that we never heard of would keep the name taken.
func (s *station) registerOnce(ctx context.Context) (*heartbeatv1.RegisterResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ReportTimeout)
	defer cancel()
	return s.peers.Heartbeat.Register(ctx, &heartbeatv1.RegisterRequest{
		Name:     s.name,
		Kind:     heartbeatv1.Kind_KIND_WORKER,
		Versions: s.place.versions(),
		Ttl:      durationpb.New(s.config.TTL),
	})
}

// deregister says goodbye, so that the name is free and nobody waits for the time to live.
func (s *station) deregister(ctx context.Context, l life) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ReportTimeout)
	defer cancel()
	if _, err := s.peers.Heartbeat.Deregister(ctx, &heartbeatv1.DeregisterRequest{Incarnation: l.incarnation}); err != nil {
		s.log.WarnContext(ctx, "could not deregister", slog.Any("error", err))
	}
}

// beat keeps the life alive, and ends it when it is declared over or when no beat was confirmed for two thirds of the time
// to live. The tasks are killed then, and the last third is for the killing: nobody else is given them before it is over.
func (s *station) beat(ctx context.Context, l life, end context.CancelCauseFunc) {
	lease := s.config.TTL * 2 / 3
	// Time since a confirmed beat was *sent*, by the monotonic clock: when it was stored, we can't know.
	fence := time.AfterFunc(lease-time.Since(l.began), func() {
		s.log.ErrorContext(ctx, "no beat was confirmed in time, giving up all tasks", slog.Duration("lease", lease))
		end(errFenced)
	})
	defer fence.Stop()

	delays := newDelays()
	for {
		err := s.beatOn(ctx, l, func(sent time.Time) {
			fence.Reset(lease - time.Since(sent))
			s.place.leased(lease - time.Since(sent))
			delays.Reset()
		})
		if ctx.Err() != nil {
			return
		}
		if errs.Is(err, errs.Fenced) {
			s.log.ErrorContext(ctx, "declared missing, giving up all tasks", slog.Any("error", err))
			end(errFenced)
			return
		}
		s.log.WarnContext(ctx, "the line to the heartbeat service broke", slog.Any("error", err))
		if !process.Pause(ctx, delays.NextBackOff()) {
			return
		}
	}
}

// beatOn beats over one stream until it breaks: at once, then four times in a time to live, so that two can be lost.
func (s *station) beatOn(ctx context.Context, l life, confirmed func(sent time.Time)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.peers.Heartbeat.Beat(ctx)
	if err != nil {
		return fmt.Errorf("open the stream of beats: %w", err)
	}
	ticks := time.NewTicker(s.config.TTL / 4)
	defer ticks.Stop()
	for {
		sent := time.Now()
		// What a failed Send means is only known from Recv.
		_ = stream.Send(&heartbeatv1.BeatRequest{Incarnation: l.incarnation})
		if _, err := stream.Recv(); err != nil {
			return fmt.Errorf("receive the confirmation of a beat: %w", err)
		}
		confirmed(sent)
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
