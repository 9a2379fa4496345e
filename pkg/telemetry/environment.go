package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// What a signal can be exported by.
const (
	byOTLP    = "otlp"
	byConsole = "console"
	byNone    = "none"
)

const (
	// queueSize is how many spans wait for a collector. The usual 2048 are those of a few hundred tasks, which begin and end in a tenth
	// of a second here. A span that has ended takes about a kilobyte.
	queueSize = 16384
	batchSize = 2048
)

// setting reads a variable; an empty one is as good as none, as OpenTelemetry wants it.
func setting(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// exporterOf says what the environment wants a signal (TRACES, METRICS) to be exported by.
func exporterOf(ctx context.Context, c Config, signal string, known ...string) string {
	if strings.EqualFold(setting("OTEL_SDK_DISABLED"), "true") {
		return byNone
	}
	name := "OTEL_" + signal + "_EXPORTER"
	asked := strings.ToLower(setting(name))
	if asked == "" {
		if cmp.Or(setting("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT"), setting("OTEL_EXPORTER_OTLP_ENDPOINT")) != "" {
			return byOTLP
		}
		return byNone
	}
	for _, k := range known {
		if asked == k {
			return asked
		}
	}
	warn(ctx, c.Log, name+" must be one of "+strings.Join(known, ", ")+"; nothing is exported", fmt.Errorf("it is %q", asked))
	return byNone
}

// overGRPC says how OTLP is to be spoken.
func overGRPC(ctx context.Context, c Config, signal string) bool {
	switch asked := cmp.Or(setting("OTEL_EXPORTER_OTLP_"+signal+"_PROTOCOL"), setting("OTEL_EXPORTER_OTLP_PROTOCOL")); asked {
	case "grpc":
		return true
	case "", "http/protobuf":
	default:
		warn(ctx, c.Log, "OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, which is taken", fmt.Errorf("it is %q", asked))
	}
	return false
}

// spanProcessor takes spans where the environment wants them; nil for nowhere.
func spanProcessor(ctx context.Context, c Config) (sdktrace.SpanProcessor, error) {
	switch exporterOf(ctx, c, "TRACES", byOTLP, byConsole, byNone) {
	case byOTLP:
		var (
			exporter sdktrace.SpanExporter
			err      error
		)
		if overGRPC(ctx, c, "TRACES") {
			exporter, err = otlptracegrpc.New(ctx)
		} else {
			exporter, err = otlptracehttp.New(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("make the exporter of traces: %w", err)
		}
		var options []sdktrace.BatchSpanProcessorOption
		if setting("OTEL_BSP_MAX_QUEUE_SIZE") == "" {
			options = append(options, sdktrace.WithMaxQueueSize(queueSize))
		}
		if setting("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") == "" {
			options = append(options, sdktrace.WithMaxExportBatchSize(batchSize))
		}
		if setting("OTEL_BSP_SCHEDULE_DELAY") == "" {
			options = append(options, sdktrace.WithBatchTimeout(time.Second))
		}
		return sdktrace.NewBatchSpanProcessor(exporter, options...), nil
	case byConsole:
		if c.Console != nil {
			return newWaterfall(c.Console, c.Whole), nil
		}
	}
	return nil, nil
}

// metricReader pushes metrics where the environment wants them; nil for nowhere.
func metricReader(ctx context.Context, c Config) (sdk.Reader, error) {
	// Prometheus is answered whatever the environment says.
	if exporterOf(ctx, c, "METRICS", byOTLP, "prometheus", byNone) != byOTLP {
		return nil, nil
	}
	var (
		exporter sdk.Exporter
		err      error
	)
	if overGRPC(ctx, c, "METRICS") {
		exporter, err = otlpmetricgrpc.New(ctx)
	} else {
		exporter, err = otlpmetrichttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("make the exporter of metrics: %w", err)
	}
	return sdk.NewPeriodicReader(exporter), nil
}

func warn(ctx context.Context, log *slog.Logger, what string, err error) {
	if log != nil {
		log.WarnContext(ctx, what, slog.Any("error", err)) //nolint:sloglint // the callers' are constants, but for the names of variables
	}
}

// listen brings what OpenTelemetry's libraries have to say into the log. There is but one place for all of a process to say it: who
// listens last hears everything.
func listen(log *slog.Logger) {
	if log != nil {
		otel.SetErrorHandler(&complaints{log: log})
	}
}

// complaints are errors of exporters. A collector that is away is one in every batch.
type complaints struct {
	log *slog.Logger

	mu   sync.Mutex
	said time.Time
	more int // since then
}

const complainEvery = time.Minute

// Handle takes an error.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	now := time.Now()
	if !c.said.IsZero() && now.Sub(c.said) < complainEvery {
		c.more++
		c.mu.Unlock()
		return
	}
	more := c.more
	c.said, c.more = now, 0
	c.mu.Unlock()
	c.log.Warn("telemetry is lost", slog.Any("error", err), slog.Int("more", more))
}
