package status_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/latency"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

// ListLatencies says what the test has not stored.
func (l *leader) ListLatencies(context.Context, *schedulerv1.ListLatenciesRequest) (*schedulerv1.ListLatenciesResponse, error) {
	if rows := l.latencies.Load(); rows != nil {
		return &schedulerv1.ListLatenciesResponse{Rows: *rows}, nil
	}
	return &schedulerv1.ListLatenciesResponse{}, nil
}

// times is an encoded histogram.
func times(t *testing.T, all ...time.Duration) []byte {
	t.Helper()
	h := &latency.Histogram{}
	for _, d := range all {
		h.Add(d)
	}
	b, err := h.AppendBinary([]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fared stores a row of completed tasks that each ran for a second, in a table, for the minute or hour that began so long before the
// present one did.
func (w *world) fared(t *testing.T, table string, ago time.Duration, name, domain string, n int) {
	t.Helper()
	runs := make([]time.Duration, n)
	for i := range runs {
		runs[i] = time.Second
	}
	unit := 60
	if table == "task_latency_hour" {
		unit = 3600
	}
	pgtest.Must(t, w, 1, fmt.Sprintf(`insert into %s values (to_timestamp(floor(extract(epoch from now()) / %d) * %[2]d) - $1::interval, $2, $3, $4, 0, 0, '', '', $5)`, table, unit),
		ago, name, domain, n, times(t, runs...))
}

func (w *world) stats(t *testing.T, name, domain string, since time.Duration) *statusv1.GetStatsResponse {
	t.Helper()
	request := &statusv1.GetStatsRequest{Name: name, Domain: domain}
	if since > 0 {
		request.Since = durationpb.New(since)
	}
	answer, err := w.client.GetStats(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// counts are how many finished, by name, all together under "".
func counts(answer *statusv1.GetStatsResponse) map[string]int64 {
	found := map[string]int64{"": answer.GetTotal().GetFinished()}
	for _, n := range answer.GetNames() {
		found[n.GetName()+" in "+n.GetDomain()] += n.GetFinished()
	}
	return found
}

func TestStatisticsAreAddedUpFromWhatIsKept(t *testing.T) {
	w := newWorld(t)
	minute := pgtest.One[time.Time](t, w, `select to_timestamp(floor(extract(epoch from now()) / 60) * 60)`)
	for i := range 2 {
		pgtest.Must(t, w, 1, `insert into task_latency_minute values ($1::timestamptz, 'a', 'default', 6, 3, 1, $2, $3, $4)`,
			minute.Add(-time.Duration(i)*time.Minute), times(t, 0, 0), times(t, time.Millisecond), times(t, time.Second, 100*time.Second))
	}
	pgtest.Must(t, w, 1, `insert into task_latency_minute values ($1::timestamptz, 'b', 'default', 0, 0, 2, '', '', '')`, minute)
	// A row that something has damaged must not keep the others from being read.
	pgtest.Must(t, w, 1, `insert into task_latency_minute values ($1::timestamptz, 'c', 'default', 1, 0, 0, '\x09', '', '')`, minute)
	got := w.stats(t, "", "", 0)
	total := &statusv1.NameStats{
		Finished: 22, Completed: 12, Failed: 6, Canceled: 4, FailureRate: 6. / 22,
		Unblock: &statusv1.Percentiles{Count: 4}, Start: &statusv1.Percentiles{Count: 2, P50: 0.001, P95: 0.001, P99: 0.001, Max: 0.001},
		Run: &statusv1.Percentiles{Count: 4, P50: 1, P95: 100, P99: 100, Max: 100},
	}
	a := &statusv1.NameStats{
		Name: "a", Domain: "default", Finished: 20, Completed: 12, Failed: 6, Canceled: 2, FailureRate: 0.3,
		Unblock: total.GetUnblock(), Start: total.GetStart(), Run: total.GetRun(),
	}
	want := &statusv1.GetStatsResponse{
		Names: []*statusv1.NameStats{a, {Name: "b", Domain: "default", Finished: 2, Canceled: 2}}, Total: total, From: got.GetFrom(),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateApprox(0.05, 0)); diff != "" {
		t.Error(diff)
	}
}

func TestOneNameOrDomainCanBeAskedFor(t *testing.T) {
	w := newWorld(t)
	w.fared(t, "task_latency_minute", 0, "a", "default", 1)
	w.fared(t, "task_latency_minute", 0, "a", "other", 2)
	w.fared(t, "task_latency_minute", 0, "b", "default", 4)
	w.leader.tells(&schedulerv1.LatencyRow{Minute: timestamppb.New(time.Unix(1<<32, 0)), Name: "c", Domain: "third", Failed: 8})
	for _, c := range []struct {
		name, domain string
		want         map[string]int64
	}{
		{"", "", map[string]int64{"": 15, "a in default": 1, "a in other": 2, "b in default": 4, "c in third": 8}},
		{"a", "", map[string]int64{"": 3, "a in default": 1, "a in other": 2}},
		{"", "default", map[string]int64{"": 5, "a in default": 1, "b in default": 4}},
		{"a", "other", map[string]int64{"": 2, "a in other": 2}},
		{"c", "", map[string]int64{"": 8, "c in third": 8}},
		{"unknown", "", map[string]int64{"": 0}},
	} {
		if diff := cmp.Diff(c.want, counts(w.stats(t, c.name, c.domain, 0))); diff != "" {
			t.Errorf("%s in %s: %s", c.name, c.domain, diff)
		}
	}
}

func TestAWindowIsRoundedUpToWholeMinutesOrHours(t *testing.T) {
	w := newWorld(t)
	for i, ago := range []time.Duration{0, time.Minute, 2 * time.Minute, 59 * time.Minute, time.Hour, 61 * time.Minute, 3 * time.Hour, 181 * time.Minute} {
		w.fared(t, "task_latency_minute", ago, "t", "default", 1<<i)
	}
	begin := func(unit time.Duration) int64 {
		return pgtest.One[int64](t, w, fmt.Sprintf(`select (floor(extract(epoch from now()) / %[1]d) * %[1]d)::bigint`, int(unit.Seconds())))
	}
	for since, want := range map[time.Duration]int64{
		time.Minute: 1 + 2, 2 * time.Minute: 1 + 2 + 4, time.Hour: 1 + 2 + 4 + 8 + 16, 3 * time.Hour: 1 + 2 + 4 + 8 + 16 + 32 + 64,
	} {
		// The present minute can end between two statements.
		before := begin(time.Minute)
		answer := w.stats(t, "", "", since)
		if begin(time.Minute) != before {
			continue
		}
		if got := answer.GetTotal().GetFinished(); got != want || answer.GetFrom().AsTime().Unix() != before-int64(since.Seconds()) {
			t.Errorf("%s: %d, want %d, from %s", since, got, want, answer.GetFrom().AsTime())
		}
	}
	// Minutes of hours that have been added up count no more, and those that are in none do.
	w.fared(t, "task_latency_hour", 4*time.Hour, "t", "default", 1000)
	w.fared(t, "task_latency_hour", 100*time.Hour, "t", "default", 10_000)
	before := begin(time.Hour)
	for since, want := range map[time.Duration]int64{4 * time.Hour: 1255, 100 * time.Hour: 11_255, 99 * time.Hour: 1255} {
		answer := w.stats(t, "", "", since)
		if begin(time.Hour) != before {
			return
		}
		if got := answer.GetTotal().GetFinished(); got != want || answer.GetFrom().AsTime().Unix() != before-int64(since.Seconds()) {
			t.Errorf("%s: %d, want %d, from %s", since, got, want, answer.GetFrom().AsTime())
		}
	}
	w.fared(t, "task_latency_hour", 0, "t", "default", 300) // by whatever clock: all minutes are in it
	if got := w.stats(t, "", "", 99*time.Hour).GetTotal().GetFinished(); got != 1300 && begin(time.Hour) == before {
		t.Errorf("%d, want only hours", got)
	}
}

// tells says what the leader has not stored.
func (l *leader) tells(rows ...*schedulerv1.LatencyRow) { l.latencies.Store(&rows) }

func TestWhatTheLeaderHasNotStoredCountsOnce(t *testing.T) {
	w := newWorld(t)
	w.fared(t, "task_latency_minute", 0, "newer in memory", "default", 3)
	w.fared(t, "task_latency_minute", 0, "stored meanwhile", "default", 3)
	w.fared(t, "task_latency_minute", 0, "only stored", "default", 3)
	begins := pgtest.One[time.Time](t, w, `select max(begins) from task_latency_minute`)
	row := func(name string, at time.Time, n int64) *schedulerv1.LatencyRow {
		return &schedulerv1.LatencyRow{Minute: timestamppb.New(at), Name: name, Domain: "default", Completed: n, Run: times(t, time.Second)}
	}
	w.leader.tells(
		row("newer in memory", begins, 5), row("stored meanwhile", begins, 2), row("only in memory", begins, 4),
		row("long ago", begins.Add(-2*time.Hour), 7),
		&schedulerv1.LatencyRow{Minute: timestamppb.New(begins), Name: "damaged", Domain: "default", Completed: 1, Run: []byte{9}},
	)
	want := map[string]int64{
		"": 15, "newer in memory in default": 5, "stored meanwhile in default": 3, "only stored in default": 3, "only in memory in default": 4,
	}
	if diff := cmp.Diff(want, counts(w.stats(t, "", "", 0))); diff != "" {
		t.Error(diff)
	}
	// An hour that was added up has all its minutes.
	w.fared(t, "task_latency_hour", 3*time.Hour, "long ago", "default", 50)
	want["long ago in default"], want[""] = 57, 72
	if diff := cmp.Diff(want, counts(w.stats(t, "", "", 5*time.Hour))); diff != "" {
		t.Error(diff)
	}
	pgtest.Must(t, w, 1, `update task_latency_hour set begins = begins + interval '3 hours'`)
	if got := w.stats(t, "", "", 5*time.Hour).GetTotal().GetFinished(); got != 50 {
		t.Errorf("%d, want what the hour says", got)
	}
}

func TestManyNamesAreCutToThoseWithTheMostTasks(t *testing.T) {
	w := newWorld(t)
	pgtest.Must(t, w, 1003, `insert into task_latency_minute select now(), 'name-' || lpad(n::text, 4, '0'), 'default', n, 0, 0, '', '', '' from generate_series(1, 1003) n`)
	answer := w.stats(t, "", "", 0)
	if n := len(answer.GetNames()); n != 1000 || answer.GetNames()[0].GetName() != "name-0004" || answer.GetTotal().GetFinished() != 1003*1004/2 {
		t.Errorf("%d names, the first is %s, %d in all", n, answer.GetNames()[0].GetName(), answer.GetTotal().GetFinished())
	}
}
