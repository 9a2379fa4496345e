package status

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// plainText is what an artifact is whose media type was not said.
const plainText = "text/plain; charset=utf-8"

// ArtifactDatabase is the SQL for diagnostics of runs.
type ArtifactDatabase interface {
	// PutArtifact stores one, unless a later run has stored one under its name; under a name that is stored already the key stays as it
	// is. ErrManyArtifacts: the task has as many as it may. There is no such task: NotFound.
	PutArtifact(ctx context.Context, a *Artifact) error
	// Artifacts lists those of a task, by name, without their content. There is no such task: NotFound.
	Artifacts(ctx context.Context, id string) ([]*Artifact, error)
	// Artifact reads one; found is false if there is none, or it has another key.
	Artifact(ctx context.Context, id, name, key string) (a *Artifact, found bool, err error)
}

// ErrManyArtifacts says that a task has as many diagnostics as it may have.
var ErrManyArtifacts = errors.New("the task has too many diagnostics")

// Artifact is a diagnostic of a run.
type Artifact struct {
	TaskID string
	Claim  int64
	Name   string
	// Key is what a link must hold to be answered: 26 characters of randomness.
	Key         string
	ContentType string
	Data        []byte
	Size        int64
}

// PutTaskArtifact stores a diagnostic.
func (s server) PutTaskArtifact(ctx context.Context, req *statusv1.PutTaskArtifactRequest) (*statusv1.PutTaskArtifactResponse, error) {
	a := &Artifact{
		TaskID: req.GetTaskId(), Claim: req.GetClaim(), Name: req.GetName(), Key: rand.Text(), ContentType: req.GetContentType(), Data: req.GetData(),
	}
	if a.ContentType == "" {
		a.ContentType = plainText
	}
	err := s.service.db.PutArtifact(ctx, a)
	if errors.Is(err, ErrManyArtifacts) {
		return nil, errs.Invalid(errs.Violation{
			Field: "name", Rule: fmt.Sprintf("must be one of the %d under which the task has diagnostics already, which is all that are kept", limits.MaxArtifacts),
		})
	}
	if err != nil {
		return nil, err
	}
	return &statusv1.PutTaskArtifactResponse{}, nil
}

// ListTaskArtifacts names the diagnostics of a task.
func (s server) ListTaskArtifacts(ctx context.Context, req *statusv1.ListTaskArtifactsRequest) (*statusv1.ListTaskArtifactsResponse, error) {
	found, err := s.service.db.Artifacts(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	answer := &statusv1.ListTaskArtifactsResponse{}
	for _, a := range found {
		answer.Artifacts = append(answer.Artifacts, &statusv1.TaskArtifact{Name: a.Name, Key: a.Key, Size: a.Size})
	}
	return answer, nil
}

// GetTaskArtifact returns a diagnostic. Who has another key is told the same as who asks for one that does not exist.
func (s server) GetTaskArtifact(ctx context.Context, req *statusv1.GetTaskArtifactRequest) (*statusv1.GetTaskArtifactResponse, error) {
	a, found, err := s.service.db.Artifact(ctx, req.GetTaskId(), req.GetName(), req.GetKey())
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errs.NotFound(errs.ArtifactNotFound, "task %s has no diagnostic %q with this key", req.GetTaskId(), req.GetName())
	}
	return &statusv1.GetTaskArtifactResponse{ContentType: a.ContentType, Data: a.Data}, nil
}
