package limits

import (
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
)

// schedule checks what counts in a schedule that is to be made.
func (c *checks) schedule(s *dispatcherv1.TaskSchedule) {
	if s == nil {
		c.fail(at("schedule"), "is required")
		return
	}
	c.label(at("schedule.name"), s.GetName(), MaxName)
	spec := s.GetTask()
	c.spec(at("schedule.task"), spec)
	for field, given := range map[string]bool{
		"schedule.task.immediate":  spec.GetImmediate(),
		"schedule.task.parent_id":  spec.GetParentId() != "",
		"schedule.task.group_id":   spec.GetGroupId() != "",
		"schedule.task.request_id": spec.GetRequestId() != "",
		"schedule.task.file_ids":   len(spec.GetFileIds()) > 0,
	} {
		if given {
			c.fail(at(field), "must not be set in a schedule")
		}
	}
	c.text(at("schedule.id"), s.GetId(), MaxName)
	c.text(at("schedule.last_task_id"), s.GetLastTaskId(), MaxName)
	c.span(at("schedule.dispatch_interval"), s.GetDispatchInterval(), MinInterval, MaxInterval)
	if next := s.GetNextDispatch(); next != nil && (next.CheckValid() != nil || next.AsTime().Year() < 1970) {
		c.fail(at("schedule.next_dispatch"), "must be a time between the years 1970 and 9999")
	}
}
