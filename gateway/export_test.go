package gateway

import (
	"maps"
	"slices"

	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
)

// TaskFilterNames are the parameters of a list of tasks that select: all but these.
func TaskFilterNames() []string {
	others := []string{"limit", "offset", "fields", "exclude_fields", "minimal", "ordering", "q"}
	var names []string
	fields := (&pulpv3.ListTasksRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !slices.Contains(others, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, slices.Sorted(maps.Keys(taskFilters(hrefs{}).by))) {
		panic("the proto and the gateway have different filters of tasks")
	}
	return names
}
