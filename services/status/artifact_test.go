package status_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func (w *world) putArtifact(t *testing.T, id, name string, claim int64, data string) {
	t.Helper()
	_, err := w.client.PutTaskArtifact(t.Context(), &statusv1.PutTaskArtifactRequest{TaskId: id, Name: name, Claim: claim, Data: []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) artifacts(t *testing.T, id string) []*statusv1.TaskArtifact {
	t.Helper()
	answer, err := w.client.ListTaskArtifacts(t.Context(), &statusv1.ListTaskArtifactsRequest{TaskId: id})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetArtifacts()
}

func (w *world) getArtifact(t *testing.T, id, name, key string) (*statusv1.GetTaskArtifactResponse, error) {
	t.Helper()
	return w.client.GetTaskArtifact(t.Context(), &statusv1.GetTaskArtifactRequest{TaskId: id, Name: name, Key: key})
}

func TestArtifactIsReadByWhoeverHasItsKey(t *testing.T) {
	w := newWorld(t)
	id, other := w.add(t, row{state: "running"}), w.add(t, row{state: "running"})
	if got := w.artifacts(t, id); len(got) != 0 {
		t.Errorf("before anything was stored: %v", got)
	}
	data := bytes.Repeat([]byte{0, 1, 2, 255}, 1<<18)
	if _, err := w.client.PutTaskArtifact(t.Context(), &statusv1.PutTaskArtifactRequest{
		TaskId: id, Claim: 1, Name: "profile", ContentType: "application/octet-stream", Data: data,
	}); err != nil {
		t.Fatal(err)
	}
	w.putArtifact(t, id, "logs", 1, "")
	w.putArtifact(t, other, "profile", 1, "another's")
	list := w.artifacts(t, id)
	if len(list) != 2 || list[0].GetName() != "logs" || list[1].GetName() != "profile" || list[0].GetSize() != 0 || list[1].GetSize() != 1<<20 {
		t.Fatalf("listed %v", list)
	}
	keys := []string{list[0].GetKey(), list[1].GetKey(), w.artifacts(t, other)[0].GetKey()}
	if keys[0] == keys[1] || keys[1] == keys[2] || min(len(keys[0]), len(keys[1]), len(keys[2])) < 22 {
		t.Errorf("the keys are %v", keys)
	}
	got, err := w.getArtifact(t, id, "profile", keys[1])
	if err != nil || got.GetContentType() != "application/octet-stream" || !bytes.Equal(got.GetData(), data) {
		t.Errorf("got %s, %d bytes, %v", got.GetContentType(), len(got.GetData()), err)
	}
	if got, err := w.getArtifact(t, id, "logs", keys[0]); err != nil || got.GetContentType() != "text/plain; charset=utf-8" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range [][3]string{
		{id, "profile", keys[0]},
		{id, "profile", keys[2]},
		{other, "profile", keys[1]},
		{id, "other", keys[1]},
		{unknownID, "profile", keys[1]},
		{id, "profile", keys[1][1:]},
		{id, "profile", "%"},
	} {
		if _, err := w.getArtifact(t, c[0], c[1], c[2]); !errs.Is(err, errs.ArtifactNotFound) || grpcstatus.Code(err) != codes.NotFound {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestLaterRunsReplaceArtifactsAndLinksStayGood(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "running"})
	w.putArtifact(t, id, "logs", 2, "second")
	key := w.artifacts(t, id)[0].GetKey()
	for _, step := range []struct {
		claim int64
		data  string
		want  string
	}{{2, "second, again", "second, again"}, {1, "first", "second, again"}, {3, "third", "third"}} {
		w.putArtifact(t, id, "logs", step.claim, step.data)
		got, err := w.getArtifact(t, id, "logs", key)
		if err != nil || string(got.GetData()) != step.want {
			t.Errorf("after claim %d: %q, %v", step.claim, got.GetData(), err)
		}
	}
}

func TestATaskHasNotMoreArtifactsThanItMay(t *testing.T) {
	w := newWorld(t)
	id, other := w.add(t, row{state: "running"}), w.add(t, row{state: "running"})
	for i := range limits.MaxArtifacts {
		w.putArtifact(t, id, fmt.Sprint("a", i), 1, "x")
	}
	_, err := w.client.PutTaskArtifact(t.Context(), &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: "one-more"})
	if !errs.Is(err, errs.InvalidInput) || !strings.Contains(err.Error(), "name") {
		t.Errorf("one more: %v", err)
	}
	w.putArtifact(t, id, "a3", 1, "replaced")
	w.putArtifact(t, other, "one-more", 1, "x")
	if got := w.artifacts(t, id); len(got) != limits.MaxArtifacts || got[8].GetName() != "a2" {
		t.Errorf("listed %v", got)
	}
}

func TestArtifactsGoWithTheirTask(t *testing.T) {
	w := newWorld(t)
	id := w.add(t, row{state: "completed"})
	w.putArtifact(t, id, "logs", 1, "x")
	pgtest.Must(t, w, 1, `delete from task where id = $1::text::uuid`, id)
	if n := pgtest.One[int](t, w, `select count(*) from task_artifact`); n != 0 {
		t.Errorf("%d are left", n)
	}
	_, listed := w.client.ListTaskArtifacts(t.Context(), &statusv1.ListTaskArtifactsRequest{TaskId: id})
	_, put := w.client.PutTaskArtifact(t.Context(), &statusv1.PutTaskArtifactRequest{TaskId: id, Claim: 1, Name: "logs"})
	if diff := cmp.Diff([]bool{true, true}, []bool{errs.Is(listed, errs.TaskNotFound), errs.Is(put, errs.TaskNotFound)}); diff != "" {
		t.Errorf("listed %v, put %v", listed, put)
	}
}
