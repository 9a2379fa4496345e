package gateway

import (
	"strings"

	"github.com/google/uuid"
)

// The collections that hrefs point into, and the model names in Pulp resource names.
const (
	collectionTasks   = "tasks"
	collectionGroups  = "task-groups"
	collectionWorkers = "workers"

	modelTask   = "core.task"
	modelGroup  = "core.taskgroup"
	modelWorker = "core.appstatus"
)

// hrefs makes and reads the paths by which clients name things.
type hrefs struct{ root string }

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

// id reads a reference to a member of the collection: an href (also absolute, also with the doubled or escaped slashes that
// generated clients produce), a Pulp resource name of the model, or a bare UUID.
func (h hrefs) id(collection, model, reference string) (string, bool) {
	if id, found := strings.CutPrefix(reference, "prn:"+model+":"); found {
		return canonicalID(id)
	}
	if scheme, rest, found := strings.Cut(reference, "://"); found && (scheme == "http" || scheme == "https") {
		_, path, _ := strings.Cut(rest, "/")
		reference = "/" + path
	}
	if strings.Contains(reference, "/") {
		path, found := strings.CutPrefix(fold(reference), h.base()+collection+"/")
		if !found {
			return "", false
		}
		reference = strings.TrimSuffix(path, "/")
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
