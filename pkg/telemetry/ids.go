package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

// ids gives spans random ids, but for those whose ids others know already.
type ids struct{}

// NewIDs are those of a span that begins a trace.
func (i ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	var id trace.TraceID
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, i.NewSpanID(ctx, id)
}

// NewSpanID is that of a span in a trace.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	id := tasktrace.SpanID(ctx)
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
