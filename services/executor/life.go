package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	lease       *lease
	// over ends with the life, its cause says why.
	over context.Context
	end  context.CancelCauseFunc
}

// witness hears of the lives of a station, for one who must act when this process no longer can.
type witness interface {
	// begins hears that a life began, and when everything of it must be dead unless it is extended: nanoseconds of
	// CLOCK_BOOTTIME.
	begins(incarnation string, until int64)
	// extended hears that a beat was confirmed.
	extended(until int64)
	// over hears that the life has ended and nothing of it runs any more.
	over()
}

// newLife makes a life that was registered, or may have been, at a moment of the clock: the first that counts as a beat.
func (s *station) newLife(incarnation string, asked time.Duration) *life {
	l := &life{incarnation: incarnation}
	l.over, l.end = context.WithCancelCause(context.WithoutCancel(s.begun))
	l.lease = newLease(s.clock, s.config.TTL, asked, func() { l.end(fmt.Errorf("%w: no beat was confirmed in time", errFenced)) })
	return l
}

// fence ends a life that somebody else has declared over.
func (l *life) fence(by error) {
	l.end(fmt.Errorf("%w: %w", errFenced, by))
	l.lease.lose()
}

// fenced reports whether the life was lost, and not just left.
func (l *life) fenced() bool { return errors.Is(context.Cause(l.over), errFenced) }

// soon is the first pause before a peer is tried again that is likely to be back.
const soon = 50 * time.Millisecond

// newDelays spaces out attempts to reach a peer: soon at first, then further and further apart, and never in step with the other
// executors that lost the same peer at the same moment. Each is half of what it is said to be to one and a half times that.
func newDelays(first, most time.Duration) *backoff.ExponentialBackOff {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = first
	delays.Multiplier = 2
	delays.MaxInterval = most
	delays.RandomizationFactor = 0.5
	return delays
}

// Ten thousand executors that lost heartbeat at the same moment must not come back to it at the same moment. With a time to live of
// 30 s, each tries again after half a second, and in the end every 3 s, to beat, or 6 s, to register, which is a transaction: some
// 3,300 and 1,700 attempts in a second.
func (s *station) beatDelays() *backoff.ExponentialBackOff {
	return newDelays(min(s.config.TTL/60, time.Second/2), min(s.config.TTL/10, 3*time.Second))
}

func (s *station) registerDelays() *backoff.ExponentialBackOff {
	return newDelays(min(s.config.TTL/60, time.Second/2), min(s.config.TTL/5, 6*time.Second))
}

// betweenBeats is how long to wait after a beat: a quarter of the time to live, so that two can be lost, or up to a fifth less.
// What began together does not stay in step.
func betweenBeats(ttl time.Duration) time.Duration { return ttl/5 + rand.N(ttl/20) }

// register begins a life, however long that takes; it reports false when ctx ended before. replaces is an earlier incarnation of
// which nothing runs any more, "" for none.
func (s *station) register(ctx context.Context, replaces string) (*life, bool) {
	delays := s.registerDelays()
	for {
		asked := s.clock()
		response, err := s.registerOnce(ctx, replaces)
		if err == nil {
			s.log.InfoContext(ctx, "registered", slog.String("incarnation", response.GetIncarnation()), slog.String("replaces", replaces))
			s.nowWaitsFor(errors.New("waiting for the scheduler"))
			l := s.newLife(response.GetIncarnation(), asked)
			s.mu.Lock()
			s.lease = l.lease
			s.mu.Unlock()
			return l, true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		if errs.Is(err, errs.NameTaken) {
			err = fmt.Errorf("another living executor is called %q; waiting until it ends, or is silent for its time to live: %w", s.name, err)
		} else {
			err = fmt.Errorf("register with the heartbeat service: %w", err)
		}
		s.nowWaitsFor(err)
		if !process.Pause(ctx, delays.NextBackOff()) {
			return nil, false
		}
	}
}

// registerOnce is not interrupted by ctx: a registration that we never heard of would keep the name taken.
func (s *station) registerOnce(ctx context.Context, replaces string) (*heartbeatv1.RegisterResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ReportTimeout)
	defer cancel()
	asked := s.clock()
	response, err := s.peers.Heartbeat.Register(ctx, &heartbeatv1.RegisterRequest{
		Name:     s.name,
		Kind:     heartbeatv1.Kind_KIND_WORKER,
		Versions: s.place.versions(),
		Ttl:      durationpb.New(s.config.TTL),
		Replaces: replaces,
	})
	if took := s.clock() - asked; err == nil && took > s.config.TTL/3 {
		// The lease counts from the question. After a network that stood still it would be over before a first beat is confirmed, and
		// what was given to this life in between would be lost.
		s.deregister(response.GetIncarnation(), false)
		return nil, fmt.Errorf("the answer took %s, which is too long for a time to live of %s", took.Round(time.Millisecond), s.config.TTL)
	}
	return response, err
}

// deregister says that a life is over, so that the name is free and nobody waits for the time to live. One that is dead did not
// keep what it promised: what it ran has failed.
func (s *station) deregister(incarnation string, dead bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.begun), s.config.ReportTimeout)
	defer cancel()
	if _, err := s.peers.Heartbeat.Deregister(ctx, &heartbeatv1.DeregisterRequest{Incarnation: incarnation, Dead: dead}); err != nil {
		s.log.WarnContext(ctx, "could not deregister", slog.Any("error", err))
	}
}

// beat keeps the life alive, and ends it when it is declared over or when no beat was confirmed in time.
func (s *station) beat(l *life) {
	ctx := l.over
	// The registration was the first beat. By the next there should be a line to the scheduler to tell of.
	if !process.Pause(ctx, s.config.TTL/20+rand.N(s.config.TTL/10)) {
		return
	}
	delays := s.beatDelays()
	for {
		err := s.beatOn(ctx, l, delays.Reset)
		if ctx.Err() != nil {
			return
		}
		if errs.Is(err, errs.Fenced) {
			l.fence(err)
			return
		}
		s.log.WarnContext(ctx, "the line to the heartbeat service broke", slog.Any("error", err))
		if !process.Pause(ctx, delays.NextBackOff()) {
			return
		}
	}
}

// errUnconfirmed ends a stream of beats when half of the lease is over: there may be another heartbeat service that answers.
var errUnconfirmed = errors.New("a beat was not confirmed for a third of the time to live")

// beatOn beats over one stream until it breaks.
func (s *station) beatOn(ctx context.Context, l *life, confirmed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := s.peers.Heartbeat.Beat(ctx)
	if err != nil {
		return fmt.Errorf("open the stream of beats: %w", err)
	}
	for {
		sent := s.clock()
		patience := time.AfterFunc(s.config.TTL/3, func() { cancel(errUnconfirmed) })
		// What a failed Send means is only known from Recv.
		_ = stream.Send(&heartbeatv1.BeatRequest{Incarnation: l.incarnation, Hearing: s.hearing()})
		_, err := stream.Recv()
		patience.Stop()
		if err != nil {
			return fmt.Errorf("receive the confirmation of a beat: %w", orCause(ctx, err))
		}
		if !l.lease.extend(sent) {
			return errFenced
		}
		confirmed()
		s.place.leased(l.lease)
		if s.witness != nil {
			s.witness.extended(l.lease.last())
		}
		if !process.Pause(ctx, betweenBeats(s.config.TTL)-(s.clock()-sent)) {
			return ctx.Err()
		}
	}
}

// orCause is what a context was ended for, if one of ours ended it, or else err.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// hearing is what was last heard of the scheduler, nil if there is no line to it.
func (s *station) hearing() *heartbeatv1.Hearing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil || s.line.epoch <= 0 {
		return nil
	}
	return &heartbeatv1.Hearing{Epoch: s.line.epoch, SilentFor: durationpb.New(s.line.silentFor())}
}
