package scheduler

import (
	"log/slog"
	"testing"
	"time"

	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
)

// An address where somebody else leads, or nobody is, must not have the lease asked for again and again without a pause.
func TestAVigilThatEndsAtOnceIsNotBelievedTwice(t *testing.T) {
	another := New(Defaults(), nil, slog.New(slog.DiscardHandler))
	conn, stop := rpctest.Serve(t, another.Register)
	another.standing.say(7, true)
	seat := Seat{Epoch: 7, Address: conn.Target(), Left: time.Minute}
	var v vigil
	defer v.end()

	watched := v.over(t.Context(), seat, "")
	if v.over(t.Context(), seat, "") != watched {
		t.Error("a vigil that goes on was begun anew")
	}
	another.standing.say(0, false)
	<-watched
	for range 3 {
		if v.over(t.Context(), seat, "") != nil {
			t.Error("what was wrong the first time is believed at once")
		}
		<-v.over(t.Context(), seat, "")
		stop() // from the second time on nobody is there
	}

	next := seat
	next.Epoch++
	if v.over(t.Context(), next, "") == nil {
		t.Error("the next leadership is not watched")
	}
}

func TestOnlyAnotherLeaderIsWatched(t *testing.T) {
	for what, seat := range map[string]Seat{
		"itself":                 {Epoch: 1, Address: "here", Left: time.Minute},
		"its own leadership":     {Taken: true, Epoch: 1, Address: "there", Left: time.Minute},
		"one that ran out":       {Epoch: 1, Address: "there"},
		"one without an address": {Epoch: 1, Left: time.Minute},
		"nobody, for the database did not answer": {},
	} {
		var v vigil
		if v.over(t.Context(), seat, "here") != nil {
			t.Errorf("it watches %s", what)
		}
		v.end()
	}
}

func TestAStandbyAsksAgainAsSoonAsTheLeaseMayBeHad(t *testing.T) {
	cfg := Defaults()
	cfg.Lease = 8 * time.Second
	s := New(cfg, nil, slog.New(slog.DiscardHandler))
	for range 100 {
		for seat, want := range map[Seat][2]time.Duration{
			{Epoch: 1, Left: 8 * time.Second}: {time.Second, 3 * time.Second},
			{Epoch: 1, Left: time.Second / 2}: {time.Second / 2, time.Second * 3 / 4},
			{Epoch: 1}:                        {time.Second / 4, time.Second * 3 / 4},
			{}:                                {time.Second, 3 * time.Second},
			{Taken: true, Epoch: 1}:           {time.Second, 3 * time.Second},
		} {
			if got := s.patience(seat); got < want[0] || got > want[1] {
				t.Errorf("after %+v it waits for %s, want %s to %s", seat, got, want[0], want[1])
			}
		}
	}
}
