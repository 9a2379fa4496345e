package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

const (
	// free is how many wrong guesses have no consequence.
	free = 3
	// firstPause comes after the last free one; each further one doubles it, up to longestPause.
	firstPause, longestPause = 250 * time.Millisecond, 8 * time.Second
	// mostFailures are counted: some more than it takes to reach the longest pause, so that it is not over in a minute.
	mostFailures = 10
	// forgiveEvery is how long somebody must be quiet to have one failure less.
	forgiveEvery = time.Minute
	// patience is how long a guess waits at most: less than what callers wait for an answer, which is 30 s.
	patience = 20 * time.Second
	// mostWaiting guesses, and as many repetitions, may wait at a time, altogether.
	mostWaiting = 64
	// mostDoors, mostFriends and mostWrong bound what is remembered. Who would fill it with names of no importance has to make that
	// many guesses.
	mostDoors, mostFriends, mostWrong = 10_000, 1_000, 1_000
)

// pause is how long nobody may guess after so many failures.
func pause(failures int) time.Duration {
	if failures < free {
		return 0
	}
	return min(longestPause, firstPause<<(failures-free))
}

// gate decides when guesses may be made.
type gate struct {
	// secret keeps what was given unreadable in memory.
	secret []byte
	// stopped is closed when the service ends: nobody waits any longer.
	stopped chan struct{}

	mu    sync.Mutex
	doors map[string]*door
	// friends are names together with addresses from which they came in.
	friends map[string]bool
	// wrong are guesses that were wrong, each with the secret, as it is kept, that it was compared with.
	wrong map[[sha256.Size]byte]string
	// waiting counts who stands in line, repeating who repeats a guess.
	waiting, repeating int
}

// door is one name, or one address, through which guesses pass.
type door struct {
	failures int
	// counted is when that number was right.
	counted time.Time
	// next is when the next guess may begin.
	next time.Time
	// inside are guesses whose outcome is not known yet.
	inside int
	// line is who waits, first come first served. Each is told on its channel that things have changed.
	line []chan struct{}
}

func newGate() *gate {
	g := &gate{
		secret: make([]byte, sha256.Size), stopped: make(chan struct{}),
		doors: map[string]*door{}, friends: map[string]bool{}, wrong: map[[sha256.Size]byte]string{},
	}
	_, _ = rand.Read(g.secret) // crypto/rand.Read never returns an error since Go 1.24
	return g
}

// guess is one password for one name.
type guess struct {
	name, password string
	// from is where it comes from; empty if that is not known.
	from string
	// digest stands for name and password.
	digest [sha256.Size]byte
}

func (g *gate) guess(name, password, client string) guess {
	made := guess{name: name, password: password, from: network(client)}
	mac := hmac.New(sha256.New, g.secret)
	mac.Write([]byte(name + "\x00" + password)) // no name that is asked for has a zero in it
	mac.Sum(made.digest[:0])
	return made
}

// network is what an address has in common with others of the same owner.
func network(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return client
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return client
	}
	return prefix.String()
}

// keys name the doors that a guess has to pass, in that order: first the address, so that one address has one guess at a time in the
// line before a name.
func (g *gate) keys(q guess) []string {
	pair := q.name + " " + q.from
	if g.friends[pair] {
		return []string{"from " + q.from, "both " + pair}
	}
	return []string{"from " + q.from, "name " + q.name}
}

// enter waits until the guess may be made. leave must be called with what came of it.
func (g *gate) enter(ctx context.Context, q guess) (leave func(outcome), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var passed []*door
	end := func(o outcome) {
		for _, d := range passed {
			d.leave(o, time.Now())
		}
	}
	until := time.Now().Add(patience)
	for _, key := range g.keys(q) {
		d := g.door(key)
		if err := g.pass(ctx, d, until); err != nil {
			end(unknown)
			return nil, err
		}
		passed = append(passed, d)
	}
	return func(o outcome) {
		g.mu.Lock()
		defer g.mu.Unlock()
		end(o)
		if o == right {
			remember(g.friends, q.name+" "+q.from, true, mostFriends)
		}
	}, nil
}

// outcome is what came of a guess.
type outcome int

const (
	// unknown: it could not be compared.
	unknown outcome = iota
	right
	wrong
)

// pass waits at one door. The lock is held when it is called and when it returns.
func (g *gate) pass(ctx context.Context, d *door, until time.Time) error {
	now := time.Now()
	// Who need not wait takes nobody's place: a crowd at other doors must not keep out who has nothing to do with it.
	if ahead := d.ahead(now); ahead > patience || g.waiting >= mostWaiting && !d.open(now) {
		return crowded(ahead - patience)
	}
	told := make(chan struct{}, 1)
	d.line = append(d.line, told)
	g.waiting++
	defer func() {
		g.waiting--
		d.line = slices.DeleteFunc(d.line, func(other chan struct{}) bool { return other == told })
		d.tell()
	}()
	for {
		wait, may := d.may(told, now)
		if may {
			d.inside++
			return nil
		}
		if !now.Before(until) {
			return crowded(d.ahead(now))
		}
		if err := g.sleep(ctx, min(wait, until.Sub(now)), told); err != nil {
			return err
		}
		now = time.Now()
	}
}

// sleep waits for d, or to be told, without the lock.
func (g *gate) sleep(ctx context.Context, d time.Duration, told <-chan struct{}) error {
	g.mu.Unlock()
	defer g.mu.Lock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-told:
	case <-ctx.Done():
		return ctx.Err()
	case <-g.stopped:
		return errs.Away(errs.Stopping, nil, "this process is shutting down")
	}
	return nil
}

func crowded(after time.Duration) error {
	return &errs.Error{
		Code: codes.ResourceExhausted, Reason: errs.Overloaded,
		Message: "too many wrong passwords: others are waiting to try theirs", RetryAfter: min(longestPause, max(time.Second, after)),
	}
}

// ahead is how long who comes now will have to wait, if all guesses are wrong.
func (d *door) ahead(now time.Time) time.Duration {
	d.forgive(now)
	return max(0, d.next.Sub(now)) + time.Duration(len(d.line))*pause(d.failures)
}

// may reports whether the one in line may go now; if not, after how long he should look again.
func (d *door) may(told chan struct{}, now time.Time) (wait time.Duration, may bool) {
	d.forgive(now)
	// As many at a time as could fail without a consequence: what is not known yet counts as a failure.
	if d.line[0] != told || d.inside >= max(1, free-d.failures) {
		return patience, false // he is told
	}
	return d.next.Sub(now), !now.Before(d.next)
}

// open reports whether who comes now passes at once.
func (d *door) open(now time.Time) bool {
	return len(d.line) == 0 && d.inside < max(1, free-d.failures) && !now.Before(d.next)
}

// leave notes what came of a guess.
func (d *door) leave(o outcome, now time.Time) {
	d.inside--
	if o == wrong {
		d.fail(now)
		d.next = now.Add(pause(d.failures))
	}
	d.tell()
}

func (d *door) fail(now time.Time) {
	d.forgive(now)
	d.failures, d.counted = min(mostFailures, d.failures+1), now
}

func (d *door) forgive(now time.Time) {
	forgiven := min(int(now.Sub(d.counted)/forgiveEvery), d.failures)
	d.failures -= forgiven
	d.counted = d.counted.Add(time.Duration(forgiven) * forgiveEvery)
}

// tell has the first in line look again.
func (d *door) tell() {
	if len(d.line) == 0 {
		return
	}
	select {
	case d.line[0] <- struct{}{}:
	default: // he has not yet looked at what he was told before
	}
}

// door returns a door, which it makes if there is none.
func (g *gate) door(key string) *door {
	d, known := g.doors[key]
	if known {
		return d
	}
	if len(g.doors) >= mostDoors {
		g.forget()
	}
	d = &door{}
	g.doors[key] = d
	return d
}

// forget removes, of some doors that chance brings, the one that matters least: with few failures.
func (g *gate) forget() {
	least, chosen, looks, now := 0, "", 0, time.Now()
	for key, d := range g.doors {
		if d.inside > 0 || len(d.line) > 0 {
			continue
		}
		d.forgive(now)
		if chosen == "" || d.failures < least {
			least, chosen = d.failures, key
		}
		if looks++; least == 0 || looks == 50 {
			break
		}
	}
	delete(g.doors, chosen)
}

// knowsWrong returns the secret that the guess was wrong for, as it is kept.
func (g *gate) knowsWrong(q guess) (kept string, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, known = g.wrong[q.digest]
	return kept, known
}

// wasWrong remembers a guess.
func (g *gate) wasWrong(q guess, kept string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	remember(g.wrong, q.digest, kept, mostWrong)
}

// repeat lets the pause pass for who repeats a wrong guess. He is in nobody's way, but the next pause is longer.
func (g *gate) repeat(ctx context.Context, q guess) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.repeating >= mostWaiting {
		return crowded(longestPause)
	}
	g.repeating++
	defer func() { g.repeating-- }()
	now, wait := time.Now(), time.Duration(0)
	for _, key := range g.keys(q) {
		d := g.door(key)
		d.forgive(now)
		wait = max(wait, pause(d.failures))
		d.fail(now)
	}
	return g.sleep(ctx, wait, nil)
}

// remember puts something into a map that must not grow beyond most. What it loses for that is left to chance.
func remember[K comparable, V any](in map[K]V, key K, value V, most int) {
	if _, known := in[key]; !known && len(in) >= most {
		for other := range in {
			delete(in, other)
			break
		}
	}
	in[key] = value
}
