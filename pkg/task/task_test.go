package task_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-tasks/sluice/pkg/task"
)

// steps are the arrows of the package comment; every pair that is not here must be refused.
var steps = map[task.State][]task.State{
	task.Waiting:   {task.Running, task.Canceled},
	task.Running:   {task.Completed, task.Failed, task.Canceling, task.Waiting},
	task.Canceling: {task.Canceled},
}

func TestCanBecomeAllowsExactlyTheArrowsAmongAll49Pairs(t *testing.T) {
	pairs := 0
	for _, from := range task.States() {
		for _, to := range task.States() {
			pairs++
			if got, want := from.CanBecome(to), slices.Contains(steps[from], to); got != want {
				t.Errorf("%s can become %s: %v, want %v", from, to, got, want)
			}
		}
	}
	if pairs != 49 {
		t.Errorf("looked at %d pairs, want 49", pairs)
	}
}

func TestFinalStatesAreThoseWithoutAWayOut(t *testing.T) {
	for _, from := range task.States() {
		leads := slices.ContainsFunc(task.States(), from.CanBecome)
		if from.Final() == leads {
			t.Errorf("%s: final is %v, but a step leads on is %v", from, from.Final(), leads)
		}
	}
}

func TestThereAreSevenStatesAndNoOtherIsValid(t *testing.T) {
	want := []task.State{"waiting", "skipped", "running", "completed", "failed", "canceled", "canceling"}
	got := task.States()
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, s := range got {
		if !s.Valid() {
			t.Errorf("%s is not valid", s)
		}
	}
	for _, s := range []task.State{"", "Waiting", "finished", "cancelled"} {
		if s.Valid() || s.Final() {
			t.Errorf("%q: valid %v, final %v", s, s.Valid(), s.Final())
		}
		for _, to := range got {
			if s.CanBecome(to) || to.CanBecome(s) {
				t.Errorf("a step between %q and %s", s, to)
			}
		}
	}
}

func TestErrorSaysTheHandlersWordBeforeTheReason(t *testing.T) {
	for want, e := range map[string]*task.Error{
		"":                         nil,
		"boom":                     {Description: "boom", Reason: "killed"},
		"Worker has gone missing.": {Reason: task.ReasonWorkerMissing},
	} {
		if got := e.String(); got != want {
			t.Errorf("%+v says %q, want %q", e, got, want)
		}
	}
}

func TestReserve(t *testing.T) {
	const id = "d1"
	domain := task.DomainResource(id)
	for name, c := range map[string]struct {
		exclusive, shared []string
		want              task.Reservation
	}{
		"nothing asked for shares the domain": {
			want: task.Reservation{Exclusive: []string{}, Shared: []string{domain}},
		},
		"duplicates count once": {
			exclusive: []string{"a", "a", "b", "a"}, shared: []string{"c", "c", "c"},
			want: task.Reservation{Exclusive: []string{"a", "b"}, Shared: []string{"c", domain}},
		},
		"in both lists is exclusive": {
			exclusive: []string{"a"}, shared: []string{"b", "a"},
			want: task.Reservation{Exclusive: []string{"a"}, Shared: []string{"b", domain}},
		},
		"order of first mention is kept": {
			exclusive: []string{"z", "m", "a", "m"}, shared: []string{"y", "b", "y", "x"},
			want: task.Reservation{Exclusive: []string{"z", "m", "a"}, Shared: []string{"y", "b", "x", domain}},
		},
		"domain asked for as shared is not listed twice": {
			shared: []string{domain, "a"},
			want:   task.Reservation{Exclusive: []string{}, Shared: []string{domain, "a"}},
		},
		"domain asked for exclusively is not shared too": {
			exclusive: []string{domain}, shared: []string{"a"},
			want: task.Reservation{Exclusive: []string{domain}, Shared: []string{"a"}},
		},
		"another domain is a resource like any other": {
			exclusive: []string{task.DomainResource("d2")},
			want:      task.Reservation{Exclusive: []string{task.DomainResource("d2")}, Shared: []string{domain}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			exclusive, shared := slices.Clone(c.exclusive), slices.Clone(c.shared)
			got := task.Reserve(exclusive, shared, id)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if !slices.Equal(exclusive, c.exclusive) || !slices.Equal(shared, c.shared) {
				t.Errorf("the caller's lists became %q and %q", exclusive, shared)
			}
			if again := task.Reserve(got.Exclusive, got.Shared, id); !cmp.Equal(got, again) {
				t.Errorf("reserving the reservation changes it: %s", cmp.Diff(got, again))
			}
		})
	}
}

// A caller's slice with room at its end must not be written to.
func TestReserveDoesNotWriteBehindTheCallersSlice(t *testing.T) {
	backing := []string{"a", "b", "untouched"}
	task.Reserve(nil, backing[:2], "d1")
	if backing[2] != "untouched" {
		t.Errorf("behind the slice stands %q", backing[2])
	}
}

func TestRecordIsPulpsForm(t *testing.T) {
	got := task.Reservation{Exclusive: []string{"a", "b"}, Shared: []string{"c"}}.Record()
	if diff := cmp.Diff([]string{"a", "b", "shared:c"}, got); diff != "" {
		t.Error(diff)
	}
	if got := (task.Reservation{}).Record(); got == nil || len(got) != 0 {
		t.Errorf("an empty reservation is %#v, want an empty list", got)
	}
}

// ordered goes from the lowest version to the highest; versions on one line are equal.
var ordered = [][]string{
	{"0", "0.0", "00"},
	{"0.9", "0.09"},
	{"1", "1.0", "1.0.0", "01"},
	{"1.0.1"},
	{"1.9"},
	{"1.10", "1.10.0"},
	{"1.10.rc1"}, // text comes after every number
	{"1."},
	{"1.10rc1"},
	{"2"},
	{"10"},
	{"18446744073709551615"},
	{""},
	{"18446744073709551616"}, // more than 64 bits: compared as text
	{"beta"},
}

func TestCompareVersionsOrdersEveryPair(t *testing.T) {
	for i, as := range ordered {
		for j, bs := range ordered {
			want := min(1, max(-1, i-j))
			for _, a := range as {
				for _, b := range bs {
					if got := task.CompareVersions(a, b); got != want {
						t.Errorf("%q against %q: %d, want %d", a, b, got, want)
					}
				}
			}
		}
	}
}

func TestSatisfies(t *testing.T) {
	type versions = map[string]string
	for i, c := range []struct {
		has, need versions
		want      bool
	}{
		{nil, nil, true},
		{nil, versions{}, true},
		{versions{"core": "3.2"}, nil, true},
		{versions{"core": "3.10"}, versions{"core": "3.9"}, true},
		{versions{"core": "3.9"}, versions{"core": "3.9"}, true},
		{versions{"core": "3.9.0"}, versions{"core": "3.9"}, true},
		{versions{"core": "3.9"}, versions{"core": "3.10"}, false},
		{versions{"core": "3.9"}, versions{"rpm": "0"}, false},
		{nil, versions{"core": "0"}, false},
		{versions{"core": "4", "rpm": "1"}, versions{"core": "3", "rpm": "2"}, false},
		{versions{"core": "4", "rpm": "2", "deb": "1"}, versions{"core": "3", "rpm": "2"}, true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			if got := task.Satisfies(c.has, c.need); got != c.want {
				t.Errorf("has %v, needs %v: %v, want %v", c.has, c.need, got, c.want)
			}
		})
	}
}

func FuzzCompareVersionsIsAnOrder(f *testing.F) {
	f.Add("1.2", "1.10", "1.x")
	f.Add("", ".", "0")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, bc, ac := task.CompareVersions(a, b), task.CompareVersions(b, c), task.CompareVersions(a, c)
		if ab != -task.CompareVersions(b, a) {
			t.Errorf("%q and %q each before the other", a, b)
		}
		if ab <= 0 && bc <= 0 && ac > 0 {
			t.Errorf("%q <= %q <= %q, but the first is after the last", a, b, c)
		}
		if ab == 0 && bc != ac {
			t.Errorf("%q equals %q, but they compare with %q as %d and %d", a, b, c, ac, bc)
		}
	})
}
