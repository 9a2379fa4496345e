package e2e

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/promtool"
)

// What operators are given to look at metrics, from here.
const observability = "../observability"

// metricName finds metrics in queries. Pulp's two have names of their own.
var metricName = regexp.MustCompile(`\b(sluice_[a-z0-9_]+|tasks_unblocked_queue|tasks_longest_unblocked_time|rpc_[a-z0-9_]+)\b`)

func TestPrometheusFindsAllThatTheDashboardTheAlertsAndTheRunbookAskFor(t *testing.T) {
	t.Parallel()
	s := newDev(t, pgtest.Dir(t), nil).start(t)
	// One of each kind of task, so that everything has been measured at least once.
	s.run(client.Spec{Name: "test.noop"})
	s.run(client.Spec{Name: "test.fail", Kwargs: map[string]any{"message": "no"}, Retry: &client.Retry{MaxAttempts: 2, Backoff: -1}})
	for range 3 {
		if _, err := s.Dispatch(t.Context(), client.Spec{Name: "test.sleep", Args: []any{60}, Exclusive: []string{"metrics/one"}}); err != nil {
			t.Fatal(err)
		}
	}
	var text []byte
	eventually(t, "the queue shows", func() error {
		var err error
		if text, err = scrape(t, s.rest+"/metrics"); err != nil {
			return err
		}
		if !bytes.Contains(text, []byte(`sluice_resource_waiting{resource="metrics/one"} 2`)) {
			return errors.New("not yet")
		}
		return nil
	})
	promtool.Check(t, bytes.NewReader(text), "check", "metrics")
	promtool.Check(t, nil, "check", "config", filepath.Join(observability, "prometheus.yml"))
	promtool.Check(t, nil, "check", "rules", filepath.Join(observability, "alerts.yml"))

	there := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "{")
		there[name] = true
		// A histogram is talked about by its own name, too.
		there[strings.TrimSuffix(name, "_count")] = true
	}
	asked := map[string][]string{}
	for _, file := range []string{"dashboard.json", "alerts.yml", "README.md"} {
		queries, err := os.ReadFile(filepath.Join(observability, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(queries), -1) {
			asked[name] = append(asked[name], file)
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %d metrics are asked for: are they found?", len(asked))
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !there[name] {
			t.Errorf("%s of %s is not there", name, slices.Compact(asked[name]))
		}
	}
}

func scrape(t *testing.T, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
