package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// Spec says what to run and under which conditions. Only Name is required. The limits of each field stand in
// proto/sluice/task/v1/task.proto; the server enforces them.
type Spec struct {
	// Name of the task, for example "command.run".
	Name string
	// Args are the positional arguments: anything that marshals to a JSON array; nil means none. A json.RawMessage is sent
	// as it is.
	Args any
	// Kwargs are the named arguments: anything that marshals to a JSON object; nil means none.
	Kwargs any
	// Exclusive are the resources that the task changes: nobody else holds them while it runs.
	Exclusive []string
	// Shared are the resources that it reads. One that is also exclusive is exclusive.
	Shared []string
	// Immediate asks to run it before Dispatch returns, if nothing older conflicts.
	Immediate bool
	// NoDefer forbids it to wait: when it can't run at once, it is canceled. Needs Immediate.
	NoDefer bool
	// Versions maps a component to the lowest version that an executor must have.
	Versions map[string]string
	// ParentID is the task that dispatches this one, GroupID an existing group to join; both may be empty.
	ParentID, GroupID string
	// CorrelationID ties tasks and log lines of one request together. Empty: the server makes one.
	CorrelationID string
	// Timeout is how long one attempt may run, then it fails with the code TIMEOUT. 0 means what the handler declared, if anything.
	Timeout time.Duration
	// Retry says which failures are retried; nil means none. Not for immediate tasks.
	Retry *Retry
	// ProfileOptions are diagnostics to be made while it runs, as the handlers know them.
	ProfileOptions []string
	// Files are the ids of temporary files that it is to have.
	Files []string
	// RequestID makes it safe to dispatch again, by another process too: as long as the first task with this id is kept, a dispatch with
	// it stores nothing and returns that task. With another name, other arguments or resources: reason errs.RequestIDReused.
	// At most 128 bytes. Empty: Dispatch makes one for its own attempts.
	RequestID string
}

func (s Spec) wire() (*taskv1.TaskSpec, error) {
	args, err := marshal(s.Args)
	if err != nil {
		return nil, fmt.Errorf("marshal args of %s: %w", s.Name, err)
	}
	kwargs, err := marshal(s.Kwargs)
	if err != nil {
		return nil, fmt.Errorf("marshal kwargs of %s: %w", s.Name, err)
	}
	deferred := !s.NoDefer
	return &taskv1.TaskSpec{
		Name:               s.Name,
		ArgsJson:           args,
		KwargsJson:         kwargs,
		ExclusiveResources: s.Exclusive,
		SharedResources:    s.Shared,
		Immediate:          s.Immediate,
		Deferred:           &deferred,
		Versions:           s.Versions,
		ParentId:           s.ParentID,
		GroupId:            s.GroupID,
		CorrelationId:      s.CorrelationID,
		Timeout:            wire.Duration(s.Timeout),
		Retry:              s.Retry.wire(),
		ProfileOptions:     s.ProfileOptions,
		FileIds:            s.Files,
		RequestId:          s.RequestID,
	}, nil
}

// marshal leaves <, > and & alone: the text is stored and shown to people, not put into a web page.
func marshal(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	if raw, ok := v.(json.RawMessage); ok {
		return string(raw), nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "", err
	}
	return string(bytes.TrimRight(text.Bytes(), "\n")), nil
}
