// Package errs is the one error type that crosses the wire: what a caller may know of a failure, with the rest kept for
// the log.
//
// # Owns
//
// Kinds and reasons of errors, their mapping to gRPC status (code, google.rpc.ErrorInfo, google.rpc.BadRequest,
// google.rpc.RetryInfo) and back, and the masking of everything that is not an *Error.
//
// # Failure
//
// An error that nobody classified is Internal: the client sees "internal error (ref ...)", the log line with the same ref
// has the whole chain. Drivers' texts and stack traces never leave.
package errs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the ErrorInfo domain of all reasons below.
const Domain = "sluice"

// Reason is a decision that a caller can make, stable across versions.
type Reason string

// The reasons there are. A client may branch on them; the message is for people.
const (
	InvalidInput    Reason = "INVALID_INPUT"     // InvalidArgument, with field violations
	TaskNotFound    Reason = "TASK_NOT_FOUND"    // NotFound
	FileNotFound    Reason = "FILE_NOT_FOUND"    // NotFound
	FileInUse       Reason = "FILE_IN_USE"       // FailedPrecondition: a task has it that is not final
	WorkerUnheard   Reason = "WORKER_UNHEARD"    // DeadlineExceeded: a worker did not confirm a task, or did not stop one, in time
	GroupNotFound   Reason = "GROUP_NOT_FOUND"   // NotFound
	ResourceUnknown Reason = "RESOURCE_UNKNOWN"  // NotFound: nobody holds it or waits for it
	TaskFinal       Reason = "TASK_FINAL"        // FailedPrecondition: it ended, so it can't be canceled
	TaskNotFinal    Reason = "TASK_NOT_FINAL"    // FailedPrecondition: it has not ended, so it can't be deleted
	NotLeading      Reason = "NOT_LEADING"       // Unavailable: another scheduler leads, or none
	NameTaken       Reason = "NAME_TAKEN"        // AlreadyExists: a living process has this name
	RequestIDReused Reason = "REQUEST_ID_REUSED" // AlreadyExists: the request id belongs to another task
	Fenced          Reason = "FENCED"            // FailedPrecondition: this incarnation is over
	BadProtocol     Reason = "BAD_PROTOCOL"      // FailedPrecondition: a stream's messages came in the wrong order
	DatabaseAway    Reason = "DATABASE_AWAY"     // Unavailable, with a retry hint
	Internal        Reason = "INTERNAL"          // Internal, masked
	Overloaded      Reason = "OVERLOADED"        // ResourceExhausted, with a retry hint
	NotReady        Reason = "NOT_READY"         // Unavailable: this process is still starting
	Stopping        Reason = "STOPPING"          // Unavailable: this process is shutting down

	ScheduleNotFound Reason = "SCHEDULE_NOT_FOUND" // NotFound
	ScheduleExists   Reason = "SCHEDULE_EXISTS"    // AlreadyExists: another schedule has this name
	TooManySchedules Reason = "TOO_MANY_SCHEDULES" // ResourceExhausted
	ArtifactNotFound Reason = "ARTIFACT_NOT_FOUND" // NotFound
	TooBroad         Reason = "TOO_BROAD"          // ResourceExhausted: a search of the history took too long
	BadCredentials   Reason = "BAD_CREDENTIALS"    // Unauthenticated
	UserNotFound     Reason = "USER_NOT_FOUND"     // NotFound
	UserExists       Reason = "USER_EXISTS"        // AlreadyExists: another user has this name
)

// Violation is one broken rule of one field.
type Violation struct {
	// Field is its path in the request, for example "task.exclusive_resources[2]".
	Field string
	// Rule says what is allowed and what was given instead.
	Rule string
}

// Error is a failure that its receiver may know about. Build one with the constructors.
type Error struct {
	Code       codes.Code
	Reason     Reason
	Message    string
	Violations []Violation
	// RetryAfter is a hint that the same call may succeed later. 0 means no hint.
	RetryAfter time.Duration
	// cause goes to the log, never to the wire.
	cause error
}

// Error gives the message with its cause: for logs.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.cause.Error()
}

// Unwrap returns the cause, which only exists on the side where the error arose.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus is what the wire sees.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, e.Message)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain}}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Rule})
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	with, err := st.WithDetails(details...)
	if err != nil {
		return st
	}
	return with
}

// Invalid says that input broke rules. It must be given at least one violation.
func Invalid(violations ...Violation) *Error {
	parts := make([]string, len(violations))
	for i, v := range violations {
		parts[i] = v.Field + ": " + v.Rule
	}
	return &Error{Code: codes.InvalidArgument, Reason: InvalidInput, Message: strings.Join(parts, "; "), Violations: violations}
}

// NotFound says that something does not exist.
func NotFound(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.NotFound, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Precondition says that something exists, but not in a state that allows the call.
func Precondition(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.FailedPrecondition, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Exists says that something is there already.
func Exists(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.AlreadyExists, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Late says that something did not happen in time.
func Late(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.DeadlineExceeded, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Denied says that nobody is known by these credentials.
func Denied(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.Unauthenticated, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Oversize says that a message was too large to be read.
func Oversize(reason Reason, format string, args ...any) *Error {
	return &Error{Code: codes.ResourceExhausted, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Away says that the call may succeed later. The cause is for the log.
func Away(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Code: codes.Unavailable, Reason: reason, Message: fmt.Sprintf(format, args...), RetryAfter: time.Second, cause: cause}
}

// Is reports whether err, from this side of the wire or the other, has the reason.
func Is(err error, reason Reason) bool {
	var e *Error
	return errors.As(From(err), &e) && e.Reason == reason
}

// From turns an error that came over the wire into an *Error, if it is one of ours. Other errors are returned as they are.
func From(err error) error {
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	st := carried(err)
	if st == nil {
		return err
	}
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = Reason(d.GetReason())
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Rule: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Reason == "" {
		return err
	}
	return e
}

// Wire makes of any error what may leave the process. ref is empty unless the error was masked; then the log line of the
// call must carry it, so that a person who was shown it finds the cause.
func Wire(err error) (wire error, ref string) { //nolint:staticcheck // ST1008: wire is what this makes, not its failure
	var e *Error
	switch {
	case err == nil:
		return nil, ""
	case errors.As(From(err), &e):
		return e.GRPCStatus().Err(), ""
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "canceled"), ""
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "deadline exceeded"), ""
	}
	if st := carried(err); st != nil && st.Code() != codes.Unknown && st.Code() != codes.Internal {
		return status.Error(st.Code(), st.Message()), ""
	}
	ref = reference()
	masked := &Error{Code: codes.Internal, Reason: Internal, Message: "internal error (ref " + ref + ")"}
	return masked.GRPCStatus().Err(), ref
}

// carried is the status that came over the wire, nil if err is no such error. status.FromError would put the text of
// everything that err was wrapped in into its message, and that text is for the log.
func carried(err error) *status.Status {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil
	}
	return carrier.GRPCStatus()
}

// reference makes a short random word to find one event in the logs by.
func reference() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error since Go 1.24
	return hex.EncodeToString(b[:])
}
