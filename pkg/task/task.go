// Package task holds what a task is, independent of how it travels or where it is stored: its states, the steps between
// them, the names of resources, and the texts that clients of Pulp know.
//
// # Owns
//
// The words. Everything here is pure: values in, values out, standard library only.
//
// # States
//
//	            +--------------------------- canceled   (a cancel before the start is final at once)
//	            |
//	waiting ----+--> running --+--> completed
//	    ^              |       +--> failed
//	    |              |       |
//	    |              +--> canceling --> canceled      (however the run itself ended)
//	    +--------------+
//	     an assignment that no executor ever took over, or a failure that is retried
//
// skipped exists only because Pulp's clients know it. Each arrow is one guarded statement of the service that owns it.
//
// # Failure
//
// Nothing here can fail, it can only say that a value is not allowed.
package task

// State is where a task is in its life. Its text is what is stored and what REST clients see.
type State string

// The seven states. Pulp's command line stops at any other, so there will never be an eighth.
const (
	Waiting   State = "waiting"
	Skipped   State = "skipped"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Canceled  State = "canceled"
	Canceling State = "canceling"
)

// States lists all states, those of a task's beginning first.
func States() []State {
	return []State{Waiting, Running, Canceling, Completed, Failed, Canceled, Skipped}
}

// Final reports whether a task in this state never changes again.
func (s State) Final() bool {
	switch s {
	case Completed, Failed, Canceled, Skipped:
		return true
	case Waiting, Running, Canceling:
		return false
	default:
		return false
	}
}

// Valid reports whether s is one of the seven states.
func (s State) Valid() bool {
	switch s {
	case Waiting, Skipped, Running, Completed, Failed, Canceled, Canceling:
		return true
	default:
		return false
	}
}

// CanBecome reports whether one step leads from s to next.
func (s State) CanBecome(next State) bool {
	switch s {
	case Waiting:
		return next == Running || next == Canceled
	case Running:
		return next == Completed || next == Failed || next == Canceling || next == Waiting
	case Canceling:
		return next == Canceled
	case Completed, Failed, Canceled, Skipped:
		return false
	default:
		return false
	}
}

// Reasons for an end that was decided from outside the handler. The texts are Pulp's where Pulp has one: people and
// programs look for them.
const (
	ReasonWorkerMissing   = "Worker has gone missing."
	ReasonShutdown        = "Aborted during worker shutdown."
	ReasonUnavailable     = "Resources temporarily unavailable."
	ReasonCanceled        = "Canceled on request."
	ReasonKilledFormat    = "Killed by signal %d."
	ReasonExitedFormat    = "Task process died unexpectedly with exitcode %d."
	DescriptionImmediate  = "Immediate tasks must be async functions."
	DescriptionTimeFormat = "Immediate task %s (type: %s) timed out after %s seconds."

	// Pulp has no such thing.
	ReasonTimeoutFormat = "Timed out after %s."
)

// Codes of failures. A handler may have others.
const (
	CodeError        = "ERROR"          // a handler's error that has no code of its own
	CodePanic        = "PANIC"          // a handler panicked
	CodeTimeout      = "TIMEOUT"        // it took longer than it may
	CodeProcessDied  = "PROCESS_DIED"   // its process was killed, or exited
	CodeDisconnected = "DISCONNECTED"   // its worker's stream ended
	CodeShutdown     = "SHUTDOWN"       // its executor stopped
	CodeMissing      = "WORKER_MISSING" // its executor is gone
	CodePermanent    = "PERMANENT"      // a handler's error that another attempt would only repeat
)

// Error says why a task did not complete. A handler's own failure has a description, an end decided from outside a reason.
type Error struct {
	Description string `json:"description,omitempty"`
	Traceback   string `json:"traceback,omitempty"`
	Reason      string `json:"reason,omitempty"`
	// Code is what kind of failure it is, for retries; "" for a cancel.
	Code string `json:"code,omitempty"`
}

// String is the one line that a person wants to see.
func (e *Error) String() string {
	switch {
	case e == nil:
		return ""
	case e.Description != "":
		return e.Description
	default:
		return e.Reason
	}
}
