package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
)

// An executor reads a message kind by kind, so of each kind everything must arrive once and in order; and what it is told is
// never one message that is too large.
func TestPackKeepsEverythingInMessagesOfBoundedSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var orders []order
		want, got := &schedulerv1.Orders{}, &schedulerv1.Orders{}
		welcomes := 0
		for i := range rapid.IntRange(0, 60).Draw(t, "orders") {
			claim := &schedulerv1.Claim{TaskId: fmt.Sprint(i), Claim: int64(i)}
			var o order
			switch rapid.SampledFrom([]string{"assign", "assign", "cancel", "finished", "refused", "welcome"}).Draw(t, "kind") {
			case "assign":
				size := rapid.SampledFrom([]int{0, 10, 100_000, messageBytes / 2, messageBytes}).Draw(t, "bytes")
				o.assign = &taskv1.Assignment{TaskId: fmt.Sprint(i), ArgsJson: strings.Repeat("x", size/2), KwargsJson: strings.Repeat("y", size-size/2)}
				want.Assign = append(want.Assign, o.assign)
			case "cancel":
				o.cancel = claim
				want.Cancel = append(want.Cancel, claim)
			case "finished":
				o.finished = claim
				want.Finished = append(want.Finished, claim)
			case "refused":
				o.refused = &schedulerv1.Refused{Claim: claim}
				want.Refused = append(want.Refused, o.refused)
			case "welcome":
				o.welcome = &schedulerv1.Welcome{Epoch: int64(i)}
			}
			orders = append(orders, o)
			if o.welcome != nil {
				welcomes++
			}
		}
		err := pack(orders, func(m *schedulerv1.AcquireResponse) error {
			if m.GetWelcome() != nil {
				welcomes--
				// Nothing of what came before it may come after it.
				if n, before := countOrders(got), orderBefore(orders, m.GetWelcome().GetEpoch()); n != before {
					t.Fatalf("%d orders before the welcome %d, want %d", n, m.GetWelcome().GetEpoch(), before)
				}
				return nil
			}
			// The last one may exceed the limit: it had to be somewhere.
			if size, last := proto.Size(m), messageBytes+messageBytes+1000; size > last {
				t.Fatalf("a message of %d bytes", size)
			}
			if countOrders(m.GetOrders()) == 0 {
				t.Fatal("an empty message")
			}
			proto.Merge(got, m.GetOrders())
			return nil
		})
		if err != nil || welcomes != 0 {
			t.Fatalf("%d welcomes are missing, %v", welcomes, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

func countOrders(o *schedulerv1.Orders) int {
	return len(o.GetAssign()) + len(o.GetCancel()) + len(o.GetFinished()) + len(o.GetRefused())
}

// orderBefore counts what is not a welcome before that with the given number, which is its index.
func orderBefore(orders []order, index int64) (n int) {
	for _, o := range orders[:index] {
		if o.welcome == nil {
			n++
		}
	}
	return n
}

func TestPackMakesOneMessageOfWhatFits(t *testing.T) {
	many := make([]order, 1000)
	for i := range many {
		many[i].finished = &schedulerv1.Claim{TaskId: fmt.Sprint(i)}
	}
	messages := 0
	count := func(*schedulerv1.AcquireResponse) error { messages++; return nil }
	if err := pack(many, count); err != nil || messages != 1 {
		t.Errorf("%d messages, %v", messages, err)
	}
	if err := pack(nil, count); err != nil || messages != 1 {
		t.Errorf("a message of nothing: %v", err)
	}
}

func TestPackStopsWhenNothingCanBeSent(t *testing.T) {
	broken := errors.New("broken")
	for name, orders := range map[string][]order{
		"orders":              {{finished: &schedulerv1.Claim{}}},
		"a welcome":           {{welcome: &schedulerv1.Welcome{}}, {finished: &schedulerv1.Claim{}}},
		"orders, a welcome":   {{finished: &schedulerv1.Claim{}}, {welcome: &schedulerv1.Welcome{}}},
		"more than a message": {{assign: &taskv1.Assignment{ArgsJson: strings.Repeat("x", messageBytes)}}, {finished: &schedulerv1.Claim{}}},
	} {
		sent := 0
		err := pack(orders, func(*schedulerv1.AcquireResponse) error { sent++; return broken })
		if !errors.Is(err, broken) || sent != 1 {
			t.Errorf("%s: sent %d, %v", name, sent, err)
		}
	}
}
