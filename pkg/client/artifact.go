package client

import (
	"context"

	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// Artifact is a diagnostic of a task, kept because its dispatch asked for it (Spec.ProfileOptions) and its executor is set to it.
type Artifact struct {
	// Name is what it is: "memory_profile" or "task_logs".
	Name string
	// Key is what it takes to read it.
	Key string
	// Size is its length in bytes.
	Size int64
}

// Artifacts lists the diagnostics of a task, by name.
func (c *Client) Artifacts(ctx context.Context, id string) ([]Artifact, error) {
	answer, err := c.status.ListTaskArtifacts(ctx, &statusv1.ListTaskArtifactsRequest{TaskId: id})
	if err != nil {
		return nil, err
	}
	made := make([]Artifact, len(answer.GetArtifacts()))
	for i, a := range answer.GetArtifacts() {
		made[i] = Artifact{Name: a.GetName(), Key: a.GetKey(), Size: a.GetSize()}
	}
	return made, nil
}

// ReadArtifact returns the content of a diagnostic of a task, and its media type.
func (c *Client) ReadArtifact(ctx context.Context, id string, a Artifact) (data []byte, contentType string, err error) {
	answer, err := c.status.GetTaskArtifact(ctx, &statusv1.GetTaskArtifactRequest{TaskId: id, Name: a.Name, Key: a.Key})
	if err != nil {
		return nil, "", err
	}
	return answer.GetData(), answer.GetContentType(), nil
}
