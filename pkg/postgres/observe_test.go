package postgres_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/postgres/meter"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestStatementsHaveSpansBelowASampledSpanOnly(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	statements := &meter.Statements{}
	pool, err := postgres.Open(t.Context(), pgtest.URL(t), postgres.Options{Tracer: postgres.Tracers(nil, statements, postgres.Spans(provider))})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ask := func(traced bool) {
		ctx := t.Context()
		if traced {
			started, span := provider.Tracer("test").Start(ctx, "caller")
			defer span.End()
			ctx = started
		}
		var n int
		if err := pool.QueryRow(ctx, "select $1::int", 12345).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(ctx, "no sql"); err == nil {
			t.Fatal("nonsense is understood")
		}
		batch := &pgx.Batch{}
		batch.Queue("select 1")
		batch.Queue("select 2")
		if err := pool.SendBatch(ctx, batch).Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.CopyFrom(ctx, pgx.Identifier{"pg_catalog", "no_table"}, []string{"a"}, pgx.CopyFromRows(nil)); err == nil {
			t.Fatal("there is such a table")
		}
	}
	before := statements.Count()
	if ask(false); len(spans.Ended()) != 0 {
		t.Fatalf("there are %d spans without a caller's", len(spans.Ended()))
	}
	alone := statements.Count() - before
	if ask(true); statements.Count()-before != 2*alone || alone == 0 {
		t.Errorf("%d statements were counted, then %d", alone, statements.Count()-before)
	}
	var names []string
	caller := spans.Ended()[len(spans.Ended())-1]
	if caller.Name() != "caller" {
		t.Fatalf("the caller's span ended before %s", caller.Name())
	}
	for _, span := range spans.Ended() {
		names = append(names, span.Name())
		for _, a := range span.Attributes() {
			if text := a.Value.String(); text == "12345" || text == "[12345]" {
				t.Error("a parameter is shown")
			}
		}
		if span.SpanContext().TraceID() != caller.SpanContext().TraceID() {
			t.Errorf("%s is in another trace", span.Name())
		}
	}
	if !slices.Contains(names, "SELECT") || len(names) < 6 {
		t.Errorf("the spans are %q", names)
	}
}

func TestAPoolShowsWhoHasItsConnections(t *testing.T) {
	reader := sdk.NewManualReader()
	m := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("postgres")
	one, other := pgtest.New(t), pgtest.New(t)
	for name, pool := range map[string]*postgres.Pool{"one": one, "other": other} {
		if err := postgres.Observe(m, pool, name); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := one.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, metric := range all.ScopeMetrics[0].Metrics {
		data, is := metric.Data.(metricdata.Sum[int64])
		if !is {
			continue // seconds
		}
		for _, p := range data.DataPoints {
			pool, _ := p.Attributes.Value("pool")
			state, _ := p.Attributes.Value(attribute.Key("state"))
			got[metric.Name+" "+pool.AsString()+" "+state.AsString()] = p.Value
		}
	}
	for name, want := range map[string]int64{
		"sluice.postgres.connections one used": 1, "sluice.postgres.connections other used": 0,
		"sluice.postgres.connections.max one ": int64(one.Config().MaxConns),
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s is %d, want %d, of %v", name, value, want, got)
		}
	}
	if got["sluice.postgres.acquires one "] == 0 {
		t.Errorf("no acquire is counted: %v", got)
	}
}
