package scheduler

import (
	"context"
	"fmt"
	"time"
)

// Bid is what a scheduler offers to lead with.
type Bid struct {
	// Holder names it, for people. Address is where the other schedulers reach it; empty if they can't.
	Holder, Address string
	// Steal takes the lease from another without waiting for its end. It is safe, since the fence stops the one who was robbed,
	// and right only where no other can be alive.
	Steal bool
}

// Seat is the lease as an attempt to take it left it.
type Seat struct {
	// Taken says that this attempt took it.
	Taken bool
	// Epoch, Holder and Address are of who has it now, or had it last.
	Epoch           int64
	Holder, Address string
	// Left is the time until it runs out, by the database's clock; below zero if it has.
	Left time.Duration
}

// takeLease passes over a row that is locked: its transaction is past the fence, so whoever takes over must wait for what it
// writes. It also means that a leader who is late, but at work, is not deposed for it. (A row that was yielded expired at
// minus infinity, from which PostgreSQL before 17 subtracts nothing.)
const takeLease = `
	with free as (
		select name from lease where name = 'scheduler' and (expires_at < now() or $4) for update skip locked
	), taken as (
		update lease l set holder = $1, address = $2, epoch = l.epoch + 1, expires_at = now() + $3::interval
		from free where l.name = free.name
		returning l.*
	)
	select true, epoch, holder, address, $3::interval from taken
	union all
	select false, epoch, holder, address, greatest(expires_at, now() - interval '1 day') - now()
	from lease where name = 'scheduler' and not exists (select from taken)`

// Take tries to become the leader. It never waits for a lock.
func (s *Store) Take(ctx context.Context, bid Bid) (Seat, error) {
	var seat Seat
	err := s.pool.QueryRow(ctx, takeLease, bid.Holder, bid.Address, s.lease, bid.Steal).
		Scan(&seat.Taken, &seat.Epoch, &seat.Holder, &seat.Address, &seat.Left)
	if err != nil {
		return Seat{}, fmt.Errorf("take the scheduler's lease: %w", err)
	}
	return seat, nil
}

// Renew lets the lease run anew, outside of any tick. It returns ErrDeposed when another has taken it.
func (s *Store) Renew(ctx context.Context, epoch int64) error {
	done, err := s.pool.Exec(ctx, `update lease set expires_at = now() + $2::interval where name = 'scheduler' and epoch = $1`, epoch, s.lease)
	switch {
	case err != nil:
		return fmt.Errorf("renew the scheduler's lease: %w", err)
	case done.RowsAffected() == 0:
		return fmt.Errorf("renew the scheduler's lease: %w", ErrDeposed)
	default:
		return nil
	}
}

// Yield gives the leadership up, so that a standby need not wait for the lease to end. Losing it before is no error.
func (s *Store) Yield(ctx context.Context, epoch int64) error {
	_, err := s.pool.Exec(ctx, `
		update lease set expires_at = '-infinity', holder = '', address = '' where name = 'scheduler' and epoch = $1`, epoch)
	if err != nil {
		return fmt.Errorf("yield the scheduler's lease: %w", err)
	}
	return nil
}

// evictHolders recognizes a stuck leader by the lock on the table that comes with the fence's lock on the row: nobody but
// schedulers ever locks it so. Its session waits for the client; one that works or waits for the disk is left alone, since
// another's would fare no better.
const evictHolders = `
	select count(pg_terminate_backend(pid))
	from (
		select distinct l.pid
		from pg_locks l join pg_stat_activity a on a.pid = l.pid
		where l.locktype = 'relation' and l.relation = 'lease'::regclass and l.granted
		  and l.database = (select oid from pg_database where datname = current_database())
		  and l.mode in ('RowShareLock', 'RowExclusiveLock')
		  and a.wait_event_type = 'Client' and l.pid <> pg_backend_pid()
		  and exists (select from lease where name = 'scheduler' and expires_at < now() - $1::interval)
	) stuck`

// Evict ends the database sessions of a leader that froze, or was cut off, in the middle of a transaction: it would hold the
// lease until the network gives its connection up, which can take hours. It does so only when the lease ran out a whole lease
// ago, and returns how many sessions it ended. What they had not committed is rolled back.
func (s *Store) Evict(ctx context.Context) (ended int, err error) {
	if err := s.pool.QueryRow(ctx, evictHolders, s.lease).Scan(&ended); err != nil {
		return 0, fmt.Errorf("end the sessions of a stuck leader: %w", err)
	}
	return ended, nil
}
