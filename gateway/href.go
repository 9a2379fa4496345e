package gateway

import (
	"context"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// The collections that hrefs point into, and the model names in Pulp resource names.
const (
	collectionTasks     = "tasks"
	collectionGroups    = "task-groups"
	collectionWorkers   = "workers"
	collectionSchedules = "task-schedules"
	collectionUsers     = "users"

	modelTask     = "core.task"
	modelGroup    = "core.taskgroup"
	modelWorker   = "core.appstatus"
	modelSchedule = "core.taskschedule"
)

// hrefs makes and reads the paths by which clients name things.
type hrefs struct {
	// root is what the paths that are made begin with, a slash at both ends.
	root string
	// roots are what the paths that are read may begin with besides.
	roots []string
}

// at makes paths below the root by which the request came: a client that knows Pulp by an alias must get on with what it reads.
func (h hrefs) at(ctx context.Context) hrefs {
	root := requestFrom(ctx).root
	if root == "" {
		root = received(ctx, metaRoot)
	}
	if root != "" && root != h.root {
		h.root, h.roots = root, append([]string{h.root}, h.roots...)
	}
	return h
}

func (h hrefs) base() string { return h.root + "api/v3/" }

func (h hrefs) of(collection, id string) string { return h.base() + collection + "/" + id + "/" }

// optional is null for nothing.
func (h hrefs) optional(collection, id string) *string {
	if id == "" {
		return nil
	}
	href := h.of(collection, id)
	return &href
}

// user is the href of a user, null for nobody.
func (h hrefs) user(id int64) *string {
	if id == 0 {
		return nil
	}
	href := h.of(collectionUsers, strconv.FormatInt(id, 10))
	return &href
}

// below cuts what comes before the collection off a path. It reports false for a path that is below no root.
func (h hrefs) below(path string) (string, bool) {
	path = fold(path)
	for _, root := range append([]string{h.root}, h.roots...) {
		if rest, found := strings.CutPrefix(path, root+"api/v3/"); found {
			return rest, true
		}
	}
	return "", false
}

// path cuts the server off a URL. Anything else stays as it is.
func path(reference string) string {
	scheme, rest, found := strings.Cut(reference, "://")
	if !found || scheme != "http" && scheme != "https" {
		return reference
	}
	_, path, _ := strings.Cut(rest, "/")
	return "/" + path
}

// id reads a reference to a member of the collection: an href (also absolute, also with the doubled or escaped slashes that
// generated clients produce), a Pulp resource name of the model, or a bare UUID.
func (h hrefs) id(collection, model, reference string) (string, bool) {
	if id, found := strings.CutPrefix(reference, "prn:"+model+":"); found {
		return canonicalID(id)
	}
	reference = path(reference)
	if strings.Contains(reference, "/") {
		below, found := h.below(reference)
		if !found {
			return "", false
		}
		if reference, found = strings.CutPrefix(below, collection+"/"); !found {
			return "", false
		}
		reference = strings.TrimSuffix(reference, "/")
	}
	return canonicalID(reference)
}

// canonicalID returns the one spelling of a UUID that the services know. uuid.Parse alone lets braces and prefixes pass.
func canonicalID(text string) (string, bool) {
	id, err := uuid.Parse(text)
	if err != nil || !strings.EqualFold(id.String(), text) {
		return "", false
	}
	return id.String(), true
}

// resource is the name under which tasks reserve what a client names: a thing of ours by its Pulp resource name, so that one thing has
// one name, whichever the client used. Everything else is the application's, and stays as it is.
func (h hrefs) resource(reference string) string {
	below, found := h.below(path(reference))
	if !found {
		return reference
	}
	collection, id, _ := strings.Cut(strings.TrimSuffix(below, "/"), "/")
	model := models[collection]
	if id, ok := canonicalID(id); ok && model != "" {
		return prn(model, id)
	}
	return reference
}

// models by collection.
var models = map[string]string{
	collectionTasks: modelTask, collectionGroups: modelGroup, collectionWorkers: modelWorker, collectionSchedules: modelSchedule,
}

func prn(model, id string) string { return "prn:" + model + ":" + id }

// fold makes one slash of several. Generated clients put a slash before an href that begins with one, and some escape the
// whole href; Pulp's usual proxy hides both from it, so clients rely on it.
func fold(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	return b.String()
}
