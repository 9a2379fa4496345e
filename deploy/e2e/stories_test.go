package e2e

import "testing"

// stories are told to a running Sluice of either shape. They leave no task behind that is not final, and no other story
// runs on the same system meanwhile.
var stories = []struct {
	says string
	tell func(*system)
}{
	{"what was dispatched through one face is seen through all three", faces},
	{"the five timestamps are set, in order, when each thing happens", timestamps},
	{"what a handler returns is stored, and why it failed", outcomes},
	{"a task runs in an empty working directory that is gone afterwards", workingDirectory},
	{"what a task writes is its log", logs},
	{"a child that is killed fails its task", killedChild},

	{"exclusive tasks on a resource run one after the other in the order of dispatch", exclusive},
	{"shared tasks overlap", overlap},
	{"a waiting exclusive task is not overtaken by later shared ones", noStarvation},
	{"several resources are locked as Pulp does", multiResourceLocking},
	{"a finalizer runs after all its siblings", finalizer},
	{"explain names the blocker and resource list its queue", explainBlocker},
	{"what many hand in at the same moment all runs, each one's tasks in order", concurrently},
	{"tasks run on different resources at the same time", independence},
	{"a resource in both lists is exclusive", bothLists},

	{"a waiting task can be canceled but not deleted, and is canceled at once", cancelWaiting},
	{"a running task can be canceled but not deleted, and leaves no process", cancelRunning},
	{"a finished task can be deleted but not canceled", deleteFinished},
	{"a task that is not there can neither be canceled nor deleted", cancelNonexistent},
	{"a task that ignores every request to stop is killed", cancelGooey},

	{"a canceled group stops all its members, and nobody else", cancelGroup},
	{"what members add to the progress of their group is its sum, and stays when they are gone", groupProgress},
	{"diagnostics that were asked for are kept, and others are named in the log", diagnostics},

	{"whoever hands a task in over REST is who made it, and what it hands in itself", createdBy},
	{"REST asks for a login, and a changed password ends tokens", logins},

	{"an immediate task has run when its dispatch returns", immediate},
	{"an immediate task whose handler is not fit for it fails", immediateUnfit},
	{"an immediate task that takes too long fails", immediateTimesOut},
	{"a blocked immediate task waits if it may and is canceled if not", immediateBlocked},

	{"bad input is refused by the command line, and nothing is written", badTyping},
	{"bad input is refused by the REST face, and nothing is written", badJSON},
	{"bad input is refused through gRPC with the fields, and nothing is written", badMessages},

	{"wait --all returns when nothing is left to wait for", waitAll},
	{"the exit code says how it went", exitCodes},
	{"status, stats and worker list tell how the whole is doing", wholeSystem},
}

func TestStories(t *testing.T) {
	for shape, start := range shapes {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			for _, story := range stories {
				t.Run(story.says, func(t *testing.T) { story.tell(s.under(t)) })
			}
		})
	}
}
