package scheduler

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

// A leader that hangs on its database reads nothing, and dispatchers go on telling.
func TestAnInboxThatNobodyEmptiesKeepsOnlySoMuch(t *testing.T) {
	in := newInbox()
	word := make([]Row, 1000)
	kept := func(events []event) (rows int) {
		for _, e := range events {
			rows += len(e.(offerEvent).rows)
		}
		return rows
	}
	for range 2 * maxOffered / len(word) {
		if err := in.offer(offerEvent{rows: word}); err != nil {
			t.Fatal(err)
		}
	}
	events, _, _ := in.take()
	if rows := kept(events); rows != maxOffered || len(events) != 2*maxOffered/len(word) {
		t.Errorf("%d events with %d rows are kept, want all and %d", len(events), rows, maxOffered)
	}
	if err := in.offer(offerEvent{rows: word}); err != nil || kept(take(in)) != 0 {
		t.Error("rows are kept before those that were taken are applied")
	}
	in.applied(events)
	if err := in.offer(offerEvent{rows: word}); err != nil || kept(take(in)) != len(word) {
		t.Error("rows are left out when there is room")
	}
	for range maxPending {
		if err := in.offer(offerEvent{}); err != nil {
			t.Fatal(err)
		}
	}
	err := in.offer(offerEvent{})
	var refusal *errs.Error
	if !errors.As(errs.From(status.Convert(err).Err()), &refusal) || refusal.Reason != errs.Overloaded || refusal.Code != codes.ResourceExhausted || refusal.RetryAfter <= 0 {
		t.Errorf("when nothing more is taken: %v", err)
	}
	in.close(nil)
	if err := newClosed().offer(offerEvent{}); !errs.Is(err, errs.NotLeading) {
		t.Errorf("after its end: %v", err)
	}
}

func take(in *inbox) []event {
	events, _, _ := in.take()
	return events
}

func newClosed() *inbox {
	in := newInbox()
	in.close(nil)
	return in
}

// What was left out of the inbox is found by a look.
func TestAnOfferWithoutItsRowsIsAHint(t *testing.T) {
	s := newStage(t)
	var rows []*modelRow
	for n := range 3 {
		rows = append(rows, s.db.add(tRow(fmt.Sprint(n))))
	}
	if given := s.tick(offerEvent{}); len(given) != len(rows) {
		t.Errorf("given: %v", given)
	}
}
