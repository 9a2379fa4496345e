package executor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
)

// pool keeps children warm: one that ended a task in good order is given the next.
type pool struct {
	config Config
	log    *slog.Logger
	// env is the environment of all children.
	env []string
	// dir is where children are when they have no task.
	dir string

	forks  chan func()
	forker sync.WaitGroup
	// ending counts the children that are being ended, and the readers of all.
	ending sync.WaitGroup

	mu   sync.Mutex
	idle []*child // the last one used is the first one used again
	// trimming ends children that nobody needed for a while; nil while none is idle.
	trimming *time.Timer
	closed   bool
}

// startError says why a child did not come up, with what it wrote.
type startError struct {
	err  error
	text output
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

func (e *startError) output() output {
	if e == nil {
		return output{}
	}
	return e.text
}

// newPool makes a pool of children with an environment.
func newPool(config Config, env []string, log *slog.Logger) *pool {
	return &pool{config: config, log: log, env: env}
}

// open starts the thread that forks all children. A child is told of its parent's death when the *thread* that forked it
// ends; Go ends threads as it likes, unless a goroutine holds on to one.
func (p *pool) open() {
	p.forks = make(chan func())
	p.forker.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, when no child is left
		for f := range p.forks {
			f()
		}
	})
}

// close ends the idle children. All others must have been put back before.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	if p.trimming != nil {
		p.trimming.Stop()
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.retire()
	}
	p.ending.Wait()
	close(p.forks)
	p.forker.Wait()
}

func (p *pool) fork(start func() error) error {
	result := make(chan error, 1)
	p.forks <- func() { result <- start() }
	return <-result
}

// get returns a child that is ready for a task: a warm one if there is, otherwise a new one. It gives up when ctx ends.
func (p *pool) get(ctx context.Context) (*child, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if c := p.warm(); c != nil {
		return c, nil
	}
	p.ending.Add(1) // for the reader, ended by lost
	c, err := startChild(p.config, p.dir, p.env, p.fork, p.lost)
	if err != nil {
		p.ending.Done()
		return nil, err
	}
	p.config.metrics.count(countFork)
	p.log.DebugContext(ctx, "started a child", slog.Int("pid", c.pid))
	patience, cancel := context.WithTimeout(ctx, p.config.StartTimeout)
	defer cancel()
	if err := c.awaitReady(patience); err != nil {
		how := c.end()
		if reason := firstOf(how.GetError().GetReason(), how.GetError().GetDescription()); patience.Err() == nil {
			err = fmt.Errorf("%w (%s)", err, reason)
		}
		return nil, &startError{err: err, text: c.output.take()}
	}
	return c, nil
}

// warm takes an idle child that lives, the one used last. One that has died, of which lost has not heard yet, stays for lost: the
// task that it was given would have failed for its death.
func (p *pool) warm() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := len(p.idle) - 1; at >= 0; at-- {
		if c := p.idle[at]; !c.hungUp() {
			p.idle = slices.Delete(p.idle, at, at+1)
			return c
		}
	}
	return nil
}

// put takes a child back after a task. One that is not to be used again, or has done its share, is ended.
func (p *pool) put(c *child, reuse bool) {
	c.tasks++
	p.mu.Lock()
	keep := reuse && c.tasks < p.config.MaxTasksPerChild && !p.closed && !c.lost
	if keep {
		c.since = time.Now()
		p.idle = append(p.idle, c)
		if p.trimming == nil {
			p.trimming = time.AfterFunc(p.config.ChildIdle, p.trim)
		}
	}
	p.mu.Unlock()
	if !keep {
		c.retire()
	}
}

// trim ends the children that had no task for as long as one is kept. They stand in the order in which they had their last.
func (p *pool) trim() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	keep := 0
	for keep < len(p.idle) && time.Since(p.idle[keep].since) >= p.config.ChildIdle {
		keep++
	}
	over := slices.Clone(p.idle[:keep])
	p.idle = slices.Delete(p.idle, 0, keep)
	if p.trimming = nil; len(p.idle) > 0 {
		p.trimming = time.AfterFunc(p.config.ChildIdle-time.Since(p.idle[0].since), p.trim)
	}
	p.ending.Add(1)
	defer p.ending.Done()
	p.mu.Unlock()
	for _, c := range over {
		p.log.Debug("ending a child that nobody needs", slog.Int("pid", c.pid))
		c.retire()
	}
}

// lost hears that the line to a child has closed. If a task had it, the run sees to it; an idle one is ended here.
func (p *pool) lost(c *child) {
	defer p.ending.Done()
	p.mu.Lock()
	c.lost = true
	at := slices.Index(p.idle, c)
	if at >= 0 {
		p.idle = slices.Delete(p.idle, at, at+1)
	}
	p.mu.Unlock()
	if at >= 0 {
		how := c.end()
		p.log.Warn("an idle child ended", slog.Int("pid", c.pid), slog.String("how", how.GetError().GetReason()))
	}
}
