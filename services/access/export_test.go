package access

import (
	"context"
	"time"
)

// What the tests look at from inside.

const (
	Free         = free
	LongestPause = longestPause
	ForgiveEvery = forgiveEvery
	Patience     = patience
	MostWaiting  = mostWaiting
	MostDoors    = mostDoors
	MostTokens   = mostTokens
	TokenLife    = tokenLife
)

var Pause = pause

// Conceal and Matches are what happens to a password.
func Conceal(password string) string { return conceal(password) }

// ConcealCheaply makes a secret with parameters of before.
func ConcealCheaply(password string) string {
	s := secret{cost: cost{memory: 64, passes: 1, threads: 1}, salt: []byte("0123456789abcdef")}
	s.hash = s.of(password)
	return s.String()
}

func Matches(kept, password string) (bool, error) {
	s, err := parseSecret(kept)
	return err == nil && s.matches(password), err
}

// Gate is a gate with nothing behind it.
type Gate struct{ *gate }

func NewGate() Gate { return Gate{newGate()} }

// Guess makes one guess, which is right or wrong, and returns when it was let in.
func (g Gate) Guess(ctx context.Context, name, client string, isRight bool) (time.Time, error) {
	return g.GuessSlowly(ctx, name, client, isRight, 0)
}

// GuessSlowly takes a while to compare.
func (g Gate) GuessSlowly(ctx context.Context, name, client string, isRight bool, takes time.Duration) (time.Time, error) {
	leave, err := g.enter(ctx, g.guess(name, "", client))
	if err != nil {
		return time.Time{}, err
	}
	at := time.Now()
	Let(takes)
	if isRight {
		leave(right)
	} else {
		leave(wrong)
	}
	return at, nil
}

// Let lets the clock of the test's bubble go on.
func Let(pass time.Duration) { <-time.After(pass) }

// Undecided makes a guess that could not be compared.
func (g Gate) Undecided(ctx context.Context, name, client string) error {
	leave, err := g.enter(ctx, g.guess(name, "", client))
	if err == nil {
		leave(unknown)
	}
	return err
}

// Repeat gives the same wrong password again.
func (g Gate) Repeat(ctx context.Context, name, client string) error {
	return g.repeat(ctx, g.guess(name, "", client))
}

// Stop ends all waiting.
func (g Gate) Stop() { close(g.stopped) }

// Doors counts what is remembered, Waiting who stands in line.
func (g Gate) Doors() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.doors)
}

func (g Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// Failures of a name.
func (g Gate) Failures(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors["name "+name]
	if d == nil {
		return 0
	}
	d.forgive(time.Now())
	return d.failures
}

// Network is what an address is counted by.
var Network = network

// Computing holds a place for each password that is computed.
func (s *Service) Computing() chan struct{} { return s.computing }
