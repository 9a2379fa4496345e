package errs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failing answers every Cancel with its error.
type failing struct {
	dispatcherv1.UnimplementedDispatcherServiceServer

	err error
}

func (f failing) Cancel(context.Context, *dispatcherv1.CancelRequest) (*dispatcherv1.CancelResponse, error) {
	return nil, f.err
}

const someID = "01234567-89ab-7def-8123-456789abcdef"

// overTheWire returns what a client of another process sees of err: once as gRPC has it, once through From.
func overTheWire(t *testing.T, err error) (raw, own error) {
	t.Helper()
	listener, listenErr := rpc.Listen(t.Context(), "127.0.0.1:0")
	if listenErr != nil {
		t.Fatal(listenErr)
	}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	dispatcherv1.RegisterDispatcherServiceServer(server, failing{err: err})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	// A plain connection: no retries, nothing translated.
	conn, dialErr := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if dialErr != nil {
		t.Fatal(dialErr)
	}
	_, raw = dispatcherv1.NewDispatcherServiceClient(conn).Cancel(t.Context(), &dispatcherv1.CancelRequest{TaskId: someID})
	if closeErr := conn.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	server.Stop(time.Minute)
	if serveErr := <-served; serveErr != nil && !errors.Is(serveErr, net.ErrClosed) {
		t.Error(serveErr)
	}
	return raw, errs.From(raw)
}

func TestErrorsKeepEverythingButTheirCauseOverTheWire(t *testing.T) {
	cause := errors.New("secret detail")
	for name, sent := range map[string]*errs.Error{
		"violations": errs.Invalid(
			errs.Violation{Field: "task.name", Rule: "must not be empty or blank"},
			errs.Violation{Field: "task.exclusive_resources[2]", Rule: "größer als erlaubt, 100 % — \"zitiert\""},
		),
		"not found":        errs.NotFound(errs.TaskNotFound, "no task %s", someID),
		"precondition":     errs.Precondition(errs.TaskFinal, "it is over"),
		"exists":           errs.Exists(errs.NameTaken, "name %q is taken", "w1"),
		"away, with retry": errs.Away(errs.DatabaseAway, cause, "the database can't be reached"),
		"overloaded":       {Code: codes.ResourceExhausted, Reason: errs.Overloaded, Message: "too much", RetryAfter: 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			// Wrapping on the way must change nothing: services add what they were doing.
			_, got := overTheWire(t, fmt.Errorf("handle a call: %w", sent))
			if diff := cmp.Diff(error(sent), got, cmpopts.IgnoreUnexported(errs.Error{})); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(fmt.Sprintf("%+v", got), "secret") {
				t.Errorf("the cause crossed the wire: %v", got)
			}
			if !errs.Is(got, sent.Reason) || errs.Is(got, errs.BadProtocol) {
				t.Errorf("%v: reason is not recognised", got)
			}
			// And on through a second service.
			_, again := overTheWire(t, fmt.Errorf("call another service: %w", got))
			if diff := cmp.Diff(got, again, cmpopts.IgnoreUnexported(errs.Error{})); diff != "" {
				t.Errorf("after another hop: %s", diff)
			}
		})
	}
}

var masked = regexp.MustCompile(`^internal error \(ref ([0-9a-f]{8})\)$`)

func TestUnknownErrorsAreMaskedWithAReferenceOfTheirOwn(t *testing.T) {
	pg := &pgconn.PgError{
		Severity: "ERROR", Code: "42P01", Message: `relation "salaries" does not exist`,
		Detail: "detail", Hint: "hint", InternalQuery: "select secret", TableName: "salaries",
	}
	seen := map[string]bool{}
	for name, sent := range map[string]error{
		"plain":             errors.New("salaries: open /etc/secret: permission denied"),
		"driver":            pg,
		"driver, wrapped":   fmt.Errorf("read salaries: %w", pg),
		"driver, joined":    errors.Join(errors.New("first"), pg),
		"status Unknown":    status.Error(codes.Unknown, "salaries"),
		"status Internal":   status.Error(codes.Internal, "salaries"),
		"wrapped by status": fmt.Errorf("ask salaries: %w", status.Error(codes.Internal, "salaries")),
		"panic":             errors.New("panic: salaries\ngoroutine 7 [running]:"),
	} {
		t.Run(name, func(t *testing.T) {
			wire, ref := errs.Wire(sent)
			if ref == "" || seen[ref] {
				t.Errorf("reference %q is empty or was used before", ref)
			}
			seen[ref] = true
			if got := status.Convert(wire).Message(); !strings.Contains(got, ref) {
				t.Errorf("the message %q does not show the reference %s", got, ref)
			}

			raw, own := overTheWire(t, sent)
			st := status.Convert(raw)
			if st.Code() != codes.Internal || !masked.MatchString(st.Message()) {
				t.Errorf("over the wire: %v", raw)
			}
			if !errs.Is(own, errs.Internal) {
				t.Errorf("reason: %v", own)
			}
			for _, secret := range []string{"salaries", "secret", "42P01", "goroutine", "relation"} {
				if strings.Contains(st.Proto().String(), secret) {
					t.Errorf("%q crossed the wire: %v", secret, st.Proto())
				}
			}
		})
	}
}

// What a service masked stays as it is on its way through others: the one reference leads to the one log line.
func TestMaskedErrorsAreNotMaskedAgain(t *testing.T) {
	wire, ref := errs.Wire(errors.New("boom"))
	again, second := errs.Wire(fmt.Errorf("call another service: %w", errs.From(wire)))
	if second != "" {
		t.Errorf("a second reference %s", second)
	}
	if got := status.Convert(again).Message(); !strings.Contains(got, ref) {
		t.Errorf("%q lost the reference %s", got, ref)
	}
}

func TestContextErrorsAreSaidPlainly(t *testing.T) {
	for _, c := range []struct {
		sent error
		want codes.Code
		text string
	}{
		{context.Canceled, codes.Canceled, "canceled"},
		{fmt.Errorf("read salaries: %w", context.Canceled), codes.Canceled, "canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "deadline exceeded"},
		{fmt.Errorf("read salaries: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "deadline exceeded"},
	} {
		raw, own := overTheWire(t, c.sent)
		if st := status.Convert(raw); st.Code() != c.want || st.Message() != c.text {
			t.Errorf("%v became %v", c.sent, raw)
		}
		var e *errs.Error
		if errors.As(own, &e) {
			t.Errorf("%v became one of ours: %v", c.sent, own)
		}
	}
}

// A classified error wins over the context error that caused it: "the database is away" says more than "deadline exceeded".
func TestClassifiedErrorsWinOverTheirCause(t *testing.T) {
	raw, own := overTheWire(t, errs.Away(errs.DatabaseAway, context.DeadlineExceeded, "the database can't be reached"))
	if status.Code(raw) != codes.Unavailable || !errs.Is(own, errs.DatabaseAway) {
		t.Errorf("got %v", raw)
	}
}

func TestStatusOfOthersKeepsItsCodeWithoutDetails(t *testing.T) {
	raw, own := overTheWire(t, status.Error(codes.Unimplemented, "no such method"))
	if st := status.Convert(raw); st.Code() != codes.Unimplemented || st.Message() != "no such method" || len(st.Details()) != 0 {
		t.Errorf("got %v", raw)
	}
	if !errors.Is(own, raw) {
		t.Errorf("From changed it to %v", own)
	}
}

// What was added to an error on this side is for this side's log.
func TestTextAroundAStatusStaysHere(t *testing.T) {
	wire, _ := errs.Wire(fmt.Errorf("read /etc/secret: %w", status.Error(codes.NotFound, "gone")))
	if got := status.Convert(wire); got.Code() != codes.NotFound || strings.Contains(got.Message(), "secret") {
		t.Errorf("the wire sees %v", wire)
	}
}

func TestNothingStaysNothing(t *testing.T) {
	if wire, ref := errs.Wire(nil); wire != nil || ref != "" {
		t.Errorf("Wire(nil) = %v, %q", wire, ref)
	}
	if err := errs.From(nil); err != nil {
		t.Errorf("From(nil) = %v", err)
	}
	if errs.Is(nil, errs.Internal) || errs.Is(errors.New("x"), "") {
		t.Error("an error that is none of ours has a reason")
	}
}

func TestCauseIsForTheLog(t *testing.T) {
	cause := &pgconn.PgError{Message: "no route"}
	err := errs.Away(errs.DatabaseAway, cause, "the database can't be reached")
	if !strings.Contains(err.Error(), "no route") {
		t.Errorf("the log would not see the cause: %v", err)
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		t.Error("the cause can't be unwrapped")
	}
	if got := err.GRPCStatus().Message(); got != "the database can't be reached" {
		t.Errorf("the wire would see %q", got)
	}
}
