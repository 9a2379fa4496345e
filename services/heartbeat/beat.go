package heartbeat

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// Hearing is what a beat says of its sender's line to the scheduler.
type Hearing int8

const (
	// Deaf is who has not heard the scheduler for a while. What is not an executor need not hear, and is never stored as deaf.
	Deaf Hearing = iota - 1
	// Undecided changes nothing.
	Undecided
	// Hears is who hears it.
	Hears
)

// deafAfter is how long an executor may hear nothing: three pulses of a scheduler that sends them every ten seconds.
const deafAfter = 30 * time.Second

// unknownWait is how long a beat waits for others whose sender's time to live is not known yet.
const unknownWait = 250 * time.Millisecond

// perTTL is which part of a time to live a beat may wait for others.
const perTTL = 10

// pending is the beat of one life that is to be written, with those who wait for that.
type pending struct {
	hearing Hearing
	waiting []chan<- answer
}

// answer is what became of a beat: how long its sender may be silent now, or why it was not written.
type answer struct {
	ttl time.Duration
	err error
}

func (p *pending) answer(a answer) {
	for _, w := range p.waiting {
		w <- a
	}
}

// beater is one process that beats, one beat after the other.
type beater struct {
	service *Service
	// written answers. It serves for all beats: there may be ten thousand beaters.
	written chan answer
	// of is whose beat was last, and ttl how long that one may be silent, 0 if nobody said so yet.
	of  uuid.UUID
	ttl time.Duration
	// unheard: its last beat did not say that it hears the scheduler.
	unheard bool
}

func (s *Service) newBeater() *beater { return &beater{service: s, written: make(chan answer, 1)} }

// beat returns when the beat is written, or with the reason why it is not. After an error the beater is over. line says whether
// the sender has a line to the scheduler, and silent how long that said nothing.
func (b *beater) beat(ctx context.Context, incarnation uuid.UUID, line bool, silent time.Duration) error {
	if incarnation != b.of {
		b.of, b.ttl, b.unheard = incarnation, 0, false
	}
	hearing := Deaf
	switch {
	case line && silent <= deafAfter:
		hearing = Hears
	case !line && !b.unheard:
		// One that just began, or whose scheduler is being replaced. If it is still so with the next beat, it is deaf.
		hearing = Undecided
	}
	b.unheard = !line
	if err := b.service.enqueue(incarnation, hearing, b.ttl, b.written); err != nil {
		return err
	}
	select {
	case a := <-b.written:
		b.ttl = a.ttl
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enqueue leaves a beat to be written: at once if nobody's was for a while, else together with others, but so soon that its
// sender, who counts his time from when he sent it, loses little of it.
func (s *Service) enqueue(incarnation uuid.UUID, hearing Hearing, ttl time.Duration, written chan<- answer) error {
	wait := min(s.cfg.FlushEvery, unknownWait)
	if ttl > 0 {
		wait = min(s.cfg.FlushEvery, ttl/perTTL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopping()
	}
	p, more := s.pending[incarnation]
	if !more {
		p = &pending{}
		s.pending[incarnation] = p
	}
	p.hearing = hearing
	p.waiting = append(p.waiting, written)
	if at := s.flushed.Add(wait); len(s.pending) == 1 && !more || at.Before(s.flushAt) {
		s.flushAt = at
		s.wake()
	}
	return nil
}

// flush writes the beats that are pending.
func (s *Service) flush(ctx context.Context) {
	s.mu.Lock()
	all := s.pending
	s.pending = make(map[uuid.UUID]*pending, len(all))
	sent := time.Now()
	s.flushed = sent
	s.mu.Unlock()
	beats := make([]Beat, 0, len(all))
	for incarnation, p := range all {
		beats = append(beats, Beat{incarnation, p.hearing})
	}
	slices.SortFunc(beats, func(a, b Beat) int { return bytes.Compare(a.Incarnation[:], b.Incarnation[:]) })
	limited, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	beaten, err := s.db.Beat(limited, beats)
	s.metrics.wrote(ctx, beats, err)
	if err != nil {
		if ctx.Err() != nil {
			err = errStopping()
		} else {
			s.log.WarnContext(ctx, "beats are not written", slog.Int("beats", len(beats)), slog.Any("error", err))
		}
		for _, p := range all {
			p.answer(answer{err: err})
		}
		return
	}
	s.saw(ctx, sent, beaten.At)
	shortest := s.cfg.SweepEvery
	for i, ttl := range beaten.TTLs {
		a := answer{ttl: ttl}
		if ttl == 0 {
			a.err = errs.Precondition(errs.Fenced, "this incarnation is over: stop its tasks and register anew")
		} else {
			shortest = min(shortest, ttl)
		}
		all[beats[i].Incarnation].answer(a)
	}
	// It may be the first that we hear of a life that another service registered.
	s.sweepBy(sent.Add(shortest))
}

func errStopping() error {
	return errs.Away(errs.Stopping, nil, "this heartbeat service is stopping")
}
