package worker_test

import (
	"context"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/worker"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// spanning is a handler that makes a span.
func spanning() *worker.Mux {
	mux := worker.NewMux()
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) {
		_, span := worker.Tracer(ctx).Start(ctx, "mine")
		span.End()
		return worker.None{}, nil
	})
	return mux
}

func TestSpansOfAHandlerAreBelowItsRun(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder))
	completes(t, spanning().Run(t.Context(), worker.Run{
		Assignment: &taskv1.Assignment{TaskId: "task", Name: "t", Traceparent: traceparent}, Tracing: provider,
	}))
	spans := recorder.Ended()
	if len(spans) != 1 || spans[0].Name() != "mine" || spans[0].Parent().SpanID().String() != "b7ad6b7169203331" || !spans[0].Parent().IsRemote() {
		t.Fatalf("there are %d spans", len(spans))
	}
	// In the executor's process the run's own span is there already.
	ctx, run := provider.Tracer("executor").Start(t.Context(), "run")
	completes(t, spanning().Run(ctx, worker.Run{
		Assignment: &taskv1.Assignment{TaskId: "task", Name: "t", Traceparent: traceparent}, Tracing: provider,
	}))
	if spans = recorder.Ended(); len(spans) != 2 || !spans[1].Parent().Equal(run.SpanContext()) {
		t.Errorf("the span is below %v", spans[len(spans)-1].Parent())
	}
}

func TestWithoutTracingAHandlerMakesNoSpansAndSeesTheContext(t *testing.T) {
	mux := worker.NewMux()
	var seen trace.SpanContext
	var recording bool
	worker.Handle(mux, "t", func(ctx context.Context, _ struct{}) (worker.None, error) {
		_, span := worker.Tracer(ctx).Start(ctx, "mine")
		defer span.End()
		seen, recording = trace.SpanContextFromContext(ctx), span.IsRecording()
		return worker.None{}, nil
	})
	for parent, valid := range map[string]bool{traceparent: true, "": false, "00-1-2-01": false} {
		completes(t, mux.Run(t.Context(), worker.Run{Assignment: &taskv1.Assignment{TaskId: "task", Name: "t", Traceparent: parent}}))
		if seen.IsValid() != valid || recording {
			t.Errorf("%q: the handler sees %v, recording %v", parent, seen, recording)
		}
	}
	if _, span := worker.Tracer(t.Context()).Start(t.Context(), "outside"); span.IsRecording() {
		t.Error("outside of a task there is a span")
	}
}
