package dev_test

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-tasks/sluice/pkg/testkit/dev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAWholeSluiceAnswers(t *testing.T) {
	d := dev.Start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.REST+"/pulp/api/v3/livez/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("it answers %s", response.Status)
	}
}
