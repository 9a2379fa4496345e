package heartbeat_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/services/heartbeat"
)

// The property, under random delays, clocks that are set, services that come and go, and a database that does: nobody is declared
// missing who may still run tasks, which is for two thirds of his time to live from when he sent the last beat that was
// confirmed; and whoever is gone is declared missing in the end.

// models says how many random histories are tried, and how long each is.
const (
	models   = 24
	modelled = 10 * time.Minute
)

func TestNobodyWhoLivesIsDeclaredMissingAndWhoeverIsGoneIs(t *testing.T) {
	for seed := range uint64(models) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
		})
	}
}

// model is a system with executors, services, and somebody who breaks things.
type model struct {
	*testing.T
	*ledger

	ctx     context.Context
	present sync.WaitGroup // everybody in it

	random struct {
		sync.Mutex
		*rand.Rand
	}

	mu       sync.Mutex
	services []*heartbeat.Service
	// running are the lives whose tasks may run.
	running map[uuid.UUID]bool
	// told are how many were declared missing, and how many lives there were.
	told, all int
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{T: t, ledger: newLedger(), running: map[uuid.UUID]bool{}}
	m.random.Rand = rand.New(rand.NewPCG(seed, 7))
	m.slow = func() (there, run, back time.Duration) {
		if m.one(50) { // a statement that takes its time, where there is most to go wrong
			return m.upTo(2 * time.Second), m.upTo(2 * time.Second), m.upTo(2 * time.Second)
		}
		return m.upTo(5 * time.Millisecond), m.upTo(5 * time.Millisecond), m.upTo(5 * time.Millisecond)
	}
	m.missing = func(id uuid.UUID, e *entry) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.told++
		if m.running[id] {
			m.Errorf("%s %s is declared missing, and its tasks may still run; its last beat was %s ago, its ttl is %s", e.name, id, time.Since(e.heard), e.ttl)
		}
	}
	return m
}

// upTo is a random time.
func (m *model) upTo(d time.Duration) time.Duration {
	m.random.Lock()
	defer m.random.Unlock()
	return time.Duration(m.random.Int64N(int64(d)))
}

// one is true once in n times.
func (m *model) one(n int) bool { return m.pick(n) == 0 }

func (m *model) pick(n int) int {
	m.random.Lock()
	defer m.random.Unlock()
	return m.random.IntN(n)
}

func (m *model) run() {
	ctx, end := context.WithCancel(m.Context())
	m.ctx = ctx
	for range 2 {
		m.services = append(m.services, nil)
	}
	stops := make([]func(), 2)
	for i := range stops {
		stops[i] = m.serve(i)
	}
	ttls := []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second}
	for i := range 12 {
		m.present.Go(func() { m.executor(fmt.Sprint("executor-", i), ttls[i%len(ttls)]) })
	}
	for begin := time.Now(); time.Since(begin) < modelled; {
		pass(m.upTo(20 * time.Second))
		switch m.pick(4) {
		case 0:
			// Each service has seen one step before the next: what is set back and forth between two statements of one, while the
			// other writes, can't be told from silence.
			m.setBy(m.upTo(20*time.Minute) - 10*time.Minute)
			pass(25 * time.Second)
		case 1:
			m.isDown(true)
			pass(m.upTo(40 * time.Second))
			m.isDown(false)
			pass(10 * time.Second)
		case 2:
			i := m.pick(2)
			stops[i]()
			pass(m.upTo(15 * time.Second))
			stops[i] = m.serve(i)
		default: // nothing for once
		}
	}
	end()
	m.present.Wait()
	// All are gone now, or have said goodbye.
	pass(2*30*time.Second + 15*time.Second)
	for id, e := range m.open() {
		m.Errorf("%s %s is gone for %s, and not declared missing; its ttl is %s", e.name, id, time.Since(e.heard), e.ttl)
	}
	for _, stop := range stops {
		stop()
	}
	if m.told < 20 || m.all < 50 {
		m.Errorf("%d lives of which %d were declared missing: too little happened", m.all, m.told)
	}
}

// serve starts a service in a place.
func (m *model) serve(i int) (stop func()) {
	s, end := started(m.T, m.ledger)
	m.mu.Lock()
	m.services[i] = s
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		m.services[i] = nil
		m.mu.Unlock()
		end()
	}
}

// service is one of those that are there; nil if it is none.
func (m *model) service() *heartbeat.Service {
	i := m.pick(2)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.services[i]
}

// network delays a message, and loses some.
func (m *model) network(ctx context.Context) error {
	if m.one(100) {
		<-ctx.Done()
		return ctx.Err()
	}
	if m.one(30) {
		return during(ctx, m.upTo(3*time.Second))
	}
	return during(ctx, m.upTo(20*time.Millisecond))
}

// executor is one life after the other under a name, until the end.
func (m *model) executor(name string, ttl time.Duration) {
	replaces := ""
	for m.ctx.Err() == nil {
		pass(m.upTo(time.Second))
		s := m.service()
		if s == nil {
			continue
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		incarnation, err := m.register(ctx, s, heartbeat.App{Name: name, Kind: "worker", TTL: ttl}, replaces)
		cancel()
		if err != nil {
			continue
		}
		id := uuid.MustParse(incarnation)
		m.live(id, ttl, began)
		replaces = ""
		if m.one(2) {
			replaces = incarnation // it knows that the one of before has stopped
		}
		if m.one(3) {
			pass(m.upTo(2 * ttl)) // nobody starts it again for a while
		}
	}
}

func (m *model) register(ctx context.Context, s *heartbeat.Service, a heartbeat.App, replaces string) (string, error) {
	if err := m.network(ctx); err != nil {
		return "", err
	}
	incarnation, err := s.Begin(ctx, a, replaces)
	if err != nil {
		return "", err
	}
	return incarnation, m.network(ctx)
}

// live beats until it is fenced, killed, stopped, or all is over. Then none of its tasks run any more.
func (m *model) live(id uuid.UUID, ttl time.Duration, began time.Time) {
	m.mu.Lock()
	m.all++
	m.running[id] = time.Since(began) < ttl*2/3
	m.mu.Unlock()
	life, killed := context.WithTimeout(m.ctx, ttl+m.upTo(10*ttl))
	defer killed()
	stopped := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.running, id)
	}
	defer stopped()
	fence := time.AfterFunc(ttl*2/3-time.Since(began), func() { stopped(); killed() })
	defer fence.Stop()
	var s *heartbeat.Service
	var beater heartbeat.Beater
	for life.Err() == nil {
		if s == nil {
			pass(min(m.upTo(time.Second), ttl/20))
			if s = m.service(); s == nil {
				continue
			}
			beater = s.NewBeater()
		}
		sent := time.Now()
		err := m.network(life)
		if err == nil {
			err = beater.Beat(life, id)
		}
		if err == nil {
			err = m.network(life)
		}
		switch {
		case err == nil:
			if !fence.Reset(ttl*2/3 - time.Since(sent)) {
				return // fenced, at this moment
			}
			_ = during(life, ttl/4-time.Since(sent))
		case errs.Is(err, errs.Fenced):
			m.mu.Lock()
			if m.running[id] {
				m.Errorf("%s is told that it is over, and its tasks may still run", id)
			}
			m.mu.Unlock()
			return
		default:
			s = nil
		}
	}
	stopped()
	if m.one(3) && m.ctx.Err() == nil {
		if s := m.service(); s != nil {
			ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
			defer cancel()
			_ = s.End(ctx, id.String(), m.one(2)) // a goodbye may get lost
		}
	}
}
