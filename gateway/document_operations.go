package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluice-tasks/sluice/pkg/limits"
	"github.com/sluice-tasks/sluice/pkg/task"
)

// documented is what can't be read off the protos and http.yaml about an operation. Pulp's clients look operations up by their
// ids, and bindings are generated from ids and tags, so both are Pulp's wherever Pulp has the operation.
type documented struct {
	id, tag string
	// of is what the path names one of: it gives the path parameter its name (task: task_href), and the operation a 404.
	of string
	// selector is the method in http.yaml. Empty: the operation is made by hand, and the rest of these say how it looks.
	selector protoreflect.FullName
	// absent describes the 404 of an operation whose path names nothing, if there is one.
	absent string
	// status is that of success. Zero means 200.
	status int
	// conflict describes the 409, if there is one. Its body is what success has, none after a 204.
	conflict string
	// anonymous: it asks for no credentials.
	anonymous bool
	// headers are sent with success; asks are headers that it reads. Both by name, with a description.
	headers, asks map[string]string
	// ordering are the fields by which a list can be ordered.
	ordering []string

	method, template string // of what is made by hand; the template is below the API root
	summary, more    string // its comment: the first sentence, and what follows
	// input is where its query parameters are described; without says which of them it does not take.
	input   protoreflect.FullName
	without []string
	// needs are the query parameters that it can't do without.
	needs  []string
	also   []*apiParameter
	output protoreflect.FullName // message of its answer
	media  string                // of an answer that is no message
	ends   bool                  // it is a stream that can have ended: 204
	// hrefOnly: it is for clients that put an href into the path, and shows nothing to those that put an id there; idOnly is the
	// opposite.
	hrefOnly, idOnly bool
	// galaxy: its template is below the root of a Galaxy server, and it is only there.
	galaxy bool
	schema *apiSchema // of an answer that has no message
}

const (
	tagTasks     = "Tasks"
	tagGroups    = "Task-Groups"
	tagSchedules = "Task-Schedules"
	tagWorkers   = "Workers"
	tagStatus    = "Status"
	tagLivez     = "Livez"
	tagArtifacts = "Artifacts"
	tagResources = "Resources"
	tagGalaxy    = "Galaxy"
)

// apiTags are the chapters of the document.
var apiTags = []apiTag{
	{tagTasks, "Work that is dispatched, waits for its resources, runs and ends."},
	{tagGroups, "Tasks that belong together, counted by state, with progress of their own."},
	{tagSchedules, "Tasks that are dispatched at a time, once or again and again."},
	{tagWorkers, "The executors, which run tasks."},
	{tagResources, "What tasks reserve: who holds it, who waits for it, and since when."},
	{tagStatus, "How the whole is doing."},
	{tagLivez, "Whether this process answers."},
	{tagArtifacts, "Anything that has an href, for clients that know nothing else about it."},
	{tagGalaxy, "What clients of Ansible Galaxy ask for."},
}

var (
	located  = map[string]string{"Location": "Href of the task."}
	counted  = map[string]string{"Sluice-Count": "Whether count is exact or estimated."}
	keyed    = map[string]string{headerIdempotency: "A text of the client's choice. Sent again with the same text, the request makes no second task."}
	resuming = map[string]string{"Last-Event-ID": "The id of the last event that was seen: the stream goes on after it."}
)

// lastEventID is for clients that can't send headers, as browsers can't when they open a stream.
var lastEventID = &apiParameter{Name: "last_event_id", In: "query", Description: "As the header Last-Event-ID.", Schema: anyText()}

var documentedOperations = []documented{
	{id: "tasks_list", tag: tagTasks, selector: "pulp.v3.TasksService.ListTasks", headers: counted, ordering: taskOrderings},
	{
		id: "tasks_create", tag: tagTasks, selector: "pulp.v3.TasksService.CreateTask", status: http.StatusAccepted, headers: located,
		asks: with(keyed, "X-Task-Diagnostics", "Diagnostics to be made, separated by commas, when the body names none."),
	},
	{id: "tasks_batch", tag: tagTasks, selector: "pulp.v3.TasksService.CreateTasks", status: http.StatusAccepted, asks: keyed},
	{id: "tasks_purge", tag: tagTasks, selector: "pulp.v3.TasksService.PurgeTasks", status: http.StatusAccepted, headers: located},
	{
		id: "tasks_wait", tag: tagTasks, method: http.MethodGet, template: "/api/v3/tasks/wait",
		summary: "Waits until all tasks that match are final.",
		more: "Tasks that come to match later are not waited for. After the timeout it answers with those that are not final yet. " +
			"Without a filter it waits for all tasks.",
		input: "pulp.v3.ListTasksRequest", without: []string{"limit", "offset", "ordering", "fields", "exclude_fields", "minimal"},
		also:   []*apiParameter{{Name: "timeout", In: "query", Description: waitText(), Schema: &apiSchema{Type: typeNames{"number"}}}},
		output: "pulp.v3.WaitTasksResponse",
	},
	{
		id: "tasks_watch_list", tag: tagTasks, method: http.MethodGet, template: "/api/v3/tasks/watch",
		summary: "Streams the tasks that match, as server-sent events.",
		more: "An event named task has one as its data, and comes whenever it changes. One named reset says that changes may have been " +
			"missed: read the list again.",
		input: "pulp.v3.ListTasksRequest", without: []string{"limit", "offset", "ordering"},
		also: []*apiParameter{
			{
				Name: "include_current", In: "query", Description: "Begin with the tasks that match now.",
				Schema: &apiSchema{Type: typeNames{"boolean"}},
			},
			lastEventID,
		},
		asks: resuming, media: "text/event-stream",
	},
	{id: "tasks_read", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.ReadTask"},
	{
		id: "tasks_cancel", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.CancelTask",
		conflict: "The task had ended otherwise before.",
	},
	{
		id: "tasks_delete", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.DeleteTask", status: http.StatusNoContent,
		conflict: "The task is not finished.",
	},
	{
		id: "tasks_watch", tag: tagTasks, of: "task", method: http.MethodGet, template: "/api/v3/tasks/{pulp_id}/watch",
		summary: "Streams one task, as server-sent events.",
		more: "An event named task has it as its data, and comes whenever it changes; one named end is the last: the task is final. " +
			"Who comes back after that gets 204.",
		input: "pulp.v3.ReadTaskRequest", also: []*apiParameter{lastEventID}, asks: resuming, ends: true, media: "text/event-stream",
	},
	{id: "tasks_stats", tag: tagTasks, selector: "pulp.v3.TasksService.ReadTaskStats"},
	{id: "tasks_explain", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.ExplainTask"},
	{
		id: "tasks_profile_artifacts", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.ReadProfileArtifacts",
		also: []*apiParameter{ignored("fields"), ignored("exclude_fields")},
	},
	{
		id: "tasks_read_profile_artifact", tag: tagTasks, of: "task", anonymous: true, idOnly: true, method: http.MethodGet,
		template: "/api/v3/tasks/{pulp_id}/profile_artifacts/{name}",
		summary:  "Returns a diagnostic of a task, as a file.",
		more:     "Its URL is among those of tasks_profile_artifacts, with the key that opens it.",
		also: []*apiParameter{
			{Name: "name", In: "path", Required: true, Description: "Name of the diagnostic.", Schema: anyText()},
			{Name: "key", In: "query", Required: true, Description: "What opens it.", Schema: anyText()},
		},
		media: "*/*",
	},
	{id: "tasks_list_roles", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.ListTaskRoles"},
	{id: "tasks_my_permissions", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.ReadTaskPermissions"},
	{id: "tasks_add_role", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.AddTaskRole", status: http.StatusCreated},
	{id: "tasks_remove_role", tag: tagTasks, of: "task", selector: "pulp.v3.TasksService.RemoveTaskRole", status: http.StatusCreated},

	{id: "task_groups_list", tag: tagGroups, selector: "pulp.v3.TaskGroupsService.ListTaskGroups"},
	{id: "task_groups_create", tag: tagGroups, selector: "pulp.v3.TaskGroupsService.CreateTaskGroup", status: http.StatusCreated},
	{id: "task_groups_read", tag: tagGroups, of: "task_group", selector: "pulp.v3.TaskGroupsService.ReadTaskGroup"},
	{
		id: "task_groups_cancel", tag: tagGroups, of: "task_group", selector: "pulp.v3.TaskGroupsService.CancelTaskGroup",
		conflict: "Some members still wait or run.",
	},

	{id: "task_schedules_list", tag: tagSchedules, selector: "pulp.v3.TaskSchedulesService.ListTaskSchedules", ordering: scheduleOrderings},
	{
		id: "task_schedules_create", tag: tagSchedules, selector: "pulp.v3.TaskSchedulesService.CreateTaskSchedule",
		status: http.StatusCreated,
	},
	{id: "task_schedules_read", tag: tagSchedules, of: "task_schedule", selector: "pulp.v3.TaskSchedulesService.ReadTaskSchedule"},
	{
		id: "task_schedules_delete", tag: tagSchedules, of: "task_schedule", selector: "pulp.v3.TaskSchedulesService.DeleteTaskSchedule",
		status: http.StatusNoContent,
	},
	{
		id: "task_schedules_list_roles", tag: tagSchedules, of: "task_schedule",
		selector: "pulp.v3.TaskSchedulesService.ListTaskScheduleRoles",
	},
	{
		id: "task_schedules_my_permissions", tag: tagSchedules, of: "task_schedule",
		selector: "pulp.v3.TaskSchedulesService.ReadTaskSchedulePermissions",
	},
	{
		id: "task_schedules_add_role", tag: tagSchedules, of: "task_schedule",
		selector: "pulp.v3.TaskSchedulesService.AddTaskScheduleRole", status: http.StatusCreated,
	},
	{
		id: "task_schedules_remove_role", tag: tagSchedules, of: "task_schedule",
		selector: "pulp.v3.TaskSchedulesService.RemoveTaskScheduleRole", status: http.StatusCreated,
	},

	{id: "resources_list", tag: tagResources, selector: "pulp.v3.TasksService.ListResources"},
	{
		id: "resources_read", tag: tagResources, selector: "pulp.v3.TasksService.ReadResource",
		needs: []string{"name"}, absent: "Nobody holds the resource or waits for it.",
	},

	{id: "workers_list", tag: tagWorkers, selector: "pulp.v3.SystemService.ListWorkers", ordering: workerOrderings},
	{id: "workers_read", tag: tagWorkers, of: "worker", selector: "pulp.v3.SystemService.ReadWorker"},

	{id: "status_read", tag: tagStatus, selector: "pulp.v3.SystemService.ReadStatus", anonymous: true},
	{
		id: "livez_read", tag: tagLivez, method: http.MethodGet, template: "/api/v3/livez", anonymous: true,
		summary: "Says that this process answers.", more: "The body is empty.",
	},
	{
		id: "artifacts_read", tag: tagArtifacts, of: "artifact", method: http.MethodGet, template: "/api/v3/artifacts/{pulp_id}",
		summary: "Reads whatever has this href.", hrefOnly: true, schema: &apiSchema{Type: typeNames{"object"}},
	},

	{
		id: "galaxy_token_create", tag: tagGalaxy, galaxy: true, method: http.MethodPost, template: "v3/auth/token",
		summary: "Makes a token for the user whose password came with the request.", schema: tokenSchema(),
	},
	{
		id: "galaxy_token_delete", tag: tagGalaxy, galaxy: true, method: http.MethodDelete, template: "v3/auth/token",
		summary: "Ends the token that came with the request.", status: http.StatusNoContent,
	},
	{
		id: "galaxy_tasks_read", tag: tagGalaxy, galaxy: true, of: "task", method: http.MethodGet, template: "v3/tasks/{pulp_id}",
		summary: "Returns one task in Galaxy's shape.", more: "It has ids where Pulp's has hrefs.",
		schema: &apiSchema{Type: typeNames{"object"}},
	},
}

func waitText() string {
	return fmt.Sprintf("How long to wait, in seconds. Default %g, at most %g.", limits.DefaultWait.Seconds(), limits.MaxWait.Seconds())
}

func anyText() *apiSchema { return &apiSchema{Type: typeNames{"string"}} }

func tokenSchema() *apiSchema {
	made := &apiSchema{Type: typeNames{"object"}, Required: []string{"token"}}
	made.Properties.set("token", anyText())
	return made
}

// ignored is a list that Pulp's clients may send, where it has nothing to choose from.
func ignored(name string) *apiParameter {
	return &apiParameter{
		Name: name, In: "query", Description: "Has no effect here.", Style: "form", Explode: new(true),
		Schema: &apiSchema{Type: typeNames{"array"}, Items: &apiSchema{Type: typeNames{"string"}}},
	}
}

// with adds to a copy.
func with(headers map[string]string, name, text string) map[string]string {
	more := map[string]string{name: text}
	for name, text := range headers {
		more[name] = text
	}
	return more
}

// What Pulp can order by; a client checks the names before it asks. Those that no task of Sluice has order nothing.
var (
	taskOrderings     = slices.Sorted(maps.Keys(taskOrders))
	scheduleOrderings = []string{
		"dispatch_interval", "name", "next_dispatch", "pk", "pulp_created", "pulp_id", "pulp_last_updated", "task_name",
	}
	workerOrderings = []string{
		"last_heartbeat", "name", "pk", "pulp_created", "pulp_id", "pulp_last_updated", "versions",
	}
)

// schemaNames are the names of schemas, which generated clients make types of: Pulp's where Pulp has one. Other messages are
// called as in the protos, with Response after what is answered.
var schemaNames = map[protoreflect.Name]string{
	"ListTasksResponse":                   "PaginatedTaskResponseList",
	"ListTaskGroupsResponse":              "PaginatedTaskGroupResponseList",
	"ListTaskSchedulesResponse":           "PaginatedTaskScheduleResponseList",
	"ListWorkersResponse":                 "PaginatedWorkerResponseList",
	"ReadStatusResponse":                  "StatusResponse",
	"OnlineApp":                           "AppStatusResponse",
	"CreateTaskRequest":                   "TaskCreate",
	"CreateTaskResponse":                  "AsyncOperationResponse",
	"PurgeTasksResponse":                  "AsyncOperationResponse",
	"CreateTasksRequest":                  "TaskBatch",
	"CreateTasksResponse":                 "AsyncOperationsResponse",
	"CreateTaskGroupRequest":              "TaskGroup",
	"CreateTaskScheduleRequest":           "TaskSchedule",
	"PurgeTasksRequest":                   "Purge",
	"CancelTaskRequest":                   "PatchedTaskCancel",
	"CancelTaskGroupRequest":              "PatchedTaskCancel",
	"ReadProfileArtifactsResponse":        "ProfileArtifactResponse",
	"ExplainTaskResponse":                 "TaskExplanationResponse",
	"ReadTaskStatsResponse":               "TaskStatisticsResponse",
	"ListResourcesResponse":               "ResourceListResponse",
	"ReadResourceResponse":                "ResourceQueueResponse",
	"WaitTasksResponse":                   "TasksWaitResponse",
	"ListTaskRolesResponse":               "ObjectRolesResponse",
	"ListTaskScheduleRolesResponse":       "ObjectRolesResponse",
	"ReadTaskPermissionsResponse":         "MyPermissionsResponse",
	"ReadTaskSchedulePermissionsResponse": "MyPermissionsResponse",
	"AddTaskRoleRequest":                  "NestedRole",
	"RemoveTaskRoleRequest":               "NestedRole",
	"AddTaskScheduleRoleRequest":          "NestedRole",
	"RemoveTaskScheduleRoleRequest":       "NestedRole",
	"AddTaskRoleResponse":                 "NestedRoleResponse",
	"RemoveTaskRoleResponse":              "NestedRoleResponse",
	"AddTaskScheduleRoleResponse":         "NestedRoleResponse",
	"RemoveTaskScheduleRoleResponse":      "NestedRoleResponse",
}

// partly are the messages of which a client can leave fields out with fields and exclude_fields, and the fields that they
// nevertheless promise, as in Pulp: bindings refuse an answer without them. All others are always whole.
var partly = map[protoreflect.Name][]string{
	"Task":                                {"name", "logging_cid"},
	"TaskGroup":                           {"description", "all_tasks_dispatched"},
	"TaskSchedule":                        {"name", "task_name"},
	"Worker":                              nil,
	"ListTaskRolesResponse":               nil,
	"ListTaskScheduleRolesResponse":       nil,
	"ReadTaskPermissionsResponse":         nil,
	"ReadTaskSchedulePermissionsResponse": nil,
}

// always are the fields of messages that are never null.
var always = map[protoreflect.FullName]bool{
	"pulp.v3.Task.pulp_created":                      true,
	"pulp.v3.Task.pulp_last_updated":                 true,
	"pulp.v3.MinimalTask.pulp_created":               true,
	"pulp.v3.MinimalTask.pulp_last_updated":          true,
	"pulp.v3.TaskSchedule.pulp_created":              true,
	"pulp.v3.TaskSchedule.pulp_last_updated":         true,
	"pulp.v3.Worker.pulp_created":                    true,
	"pulp.v3.Worker.pulp_last_updated":               true,
	"pulp.v3.Worker.last_heartbeat":                  true,
	"pulp.v3.OnlineApp.last_heartbeat":               true,
	"pulp.v3.ExplainTaskResponse.pulp_created":       true,
	"pulp.v3.ReadStatusResponse.redis_connection":    true,
	"pulp.v3.ReadStatusResponse.content_settings":    true,
	"pulp.v3.ReadStatusResponse.database_connection": true,
}

var allStates = []string{
	string(task.Canceled), string(task.Canceling), string(task.Completed), string(task.Failed), string(task.Running),
	string(task.Skipped), string(task.Waiting),
}

var finalStates = []string{string(task.Canceled), string(task.Completed), string(task.Failed), string(task.Skipped)}

// choices are the fields whose values are few.
var choices = map[protoreflect.FullName][]string{
	"pulp.v3.Task.state":                   allStates,
	"pulp.v3.MinimalTask.state":            allStates,
	"pulp.v3.ProgressReport.state":         allStates,
	"pulp.v3.ExplainTaskResponse.state":    allStates,
	"pulp.v3.ResourceUse.state":            allStates,
	"pulp.v3.PurgeTasksRequest.states":     finalStates,
	"pulp.v3.CancelTaskRequest.state":      {string(task.Canceled)},
	"pulp.v3.CancelTaskGroupRequest.state": {string(task.Canceled)},
}

// times are the text fields that hold a time.
var times = map[protoreflect.FullName]bool{
	"pulp.v3.PurgeTasksRequest.finished_before":       true,
	"pulp.v3.CreateTaskScheduleRequest.next_dispatch": true,
}

// forPeople is said instead of comments that are for those who call gRPC.
var forPeople = map[protoreflect.Name]string{
	"CreateTasksResponse": "The tasks that were dispatched.",
	"WaitTasksResponse":   "What has become of the tasks that were waited for.",
	"fields":              "Only these fields. Separated by commas, or given several times.",
	"exclude_fields":      "All but these fields. Separated by commas, or given several times.",
	"minimal":             "Only the fields of a minimal task.",
}

// comment is the comment of a proto for people who see JSON.
func comment(of protoreflect.Descriptor) string {
	if text, known := forPeople[of.Name()]; known {
		return text
	}
	text, cut := pulpComment(string(of.FullName())), false
	// "Attempt is one that failed" is "One that failed", "ListTasks lists tasks" is "Lists tasks".
	if rest, named := strings.CutPrefix(text, string(of.Name())+" "); named {
		verb, what, _ := strings.Cut(rest, " ")
		switch verb {
		case "is", "are":
			text, cut = what, true
		case "in", "of", "to":
		default:
			text, cut = rest, true
		}
	}
	var kept []string
	for sentence := range strings.SplitSeq(text, ". ") {
		if !forProgrammers(sentence) {
			kept = append(kept, strings.TrimSuffix(sentence, "."))
		}
	}
	text = strings.Join(kept, ". ")
	for _, status := range []string{": 201", ": 202", ": 204"} {
		text = strings.Replace(text, status+".", ".", 1)
		text = strings.TrimSuffix(text, status)
	}
	switch {
	case text == "":
		return ""
	case cut:
		return strings.ToUpper(text[:1]) + text[1:] + "."
	default:
		return text + "."
	}
}

// forProgrammers finds the sentences that only mean something to those who read the protos, or that the document says elsewhere.
func forProgrammers(sentence string) bool {
	if sentence == "Required" || sentence == "Required." {
		return true // the schema says it
	}
	for _, sign := range []string{"TaskSpec", "TasksService", "and those below", "the answer's message"} {
		if strings.Contains(sentence, sign) {
			return true
		}
	}
	return false
}

// firstSentence cuts the first sentence off.
func firstSentence(text string) (first, rest string) {
	first, rest, more := strings.Cut(text, ". ")
	if more {
		first += "."
	}
	return first, rest
}

// messageOf finds a message by its name.
func messageOf(name protoreflect.FullName) protoreflect.MessageDescriptor {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil
	}
	message, _ := found.(protoreflect.MessageDescriptor)
	return message
}
