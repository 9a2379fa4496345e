package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// Retry puts a policy on the wire; nil stays nil.
func Retry(r *task.Retry) *taskv1.RetryPolicy {
	if r == nil {
		return nil
	}
	return &taskv1.RetryPolicy{
		MaxAttempts: r.Attempts, Backoff: durationpb.New(r.Backoff), MaxBackoff: durationpb.New(r.MaxBackoff), On: r.On,
	}
}

// FromRetry is the inverse of Retry, with the defaults for what is unset. One attempt is no policy.
func FromRetry(r *taskv1.RetryPolicy) *task.Retry {
	if r.GetMaxAttempts() <= 1 {
		return nil
	}
	policy := &task.Retry{Attempts: r.GetMaxAttempts(), Backoff: task.DefaultBackoff, MaxBackoff: task.DefaultMaxBackoff, On: r.GetOn()}
	if r.GetBackoff() != nil {
		policy.Backoff = r.GetBackoff().AsDuration()
	}
	switch {
	case r.GetMaxBackoff() != nil:
		policy.MaxBackoff = r.GetMaxBackoff().AsDuration()
	case policy.Backoff > policy.MaxBackoff:
		policy.MaxBackoff = policy.Backoff // who asks for long pauses and sets no limit means them
	}
	return policy
}

// Duration puts a time span on the wire; 0 stays unset.
func Duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
