package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

// checkEnvironment refuses variables of the environment that would be ignored.
func checkEnvironment() error {
	for _, name := range [...]string{"OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"} {
		if os.Getenv(name) != "" {
			return errors.New(name + " is set, and such a file is not read: unset it, and say what it says in the section telemetry or by OTEL_* variables")
		}
	}
	return nil
}

// sendsByGRPC says how OTLP is to be sent, by the environment: TRACES or METRICS has a
// variable of its own. If the protocol is unknown, the default is used, and a warning names
// the variable.
func sendsByGRPC(signal string, log *slog.Logger) bool {
	for _, name := range [...]string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch protocol := os.Getenv(name); protocol {
		case "":
			continue
		case "grpc":
			return true
		case "http/protobuf":
		default:
			if protocol == "http/json" && signal == "TRACES" {
				break // the exporter reads it itself
			}
			log.Warn(name+": not a protocol that can be sent: http/protobuf is used; want grpc or http/protobuf", "value", brief(protocol))
		}
		return false
	}
	return false
}

// spanSink is the sink that the configuration names, else the one that OTEL_* names, else
// nil. No connection is made here.
func spanSink(ctx context.Context, c TracesConfig, about *resource.Resource, logs io.Writer, log *slog.Logger) (sink, error) {
	if disabled() {
		return nil, nil
	}
	switch c.Exporter {
	case "otlp":
		return otlpSpans(ctx, c.Endpoint, about, log)
	case "console":
		exporter, err := stdouttrace.New(stdouttrace.WithWriter(logs))
		if err != nil {
			return nil, err
		}
		return &exporterSink{exporter: exporter, about: about}, nil
	case "none":
		return nil, nil
	}
	if !asked("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
		return nil, nil
	}
	switch name := cmp.Or(os.Getenv("OTEL_TRACES_EXPORTER"), "otlp"); name {
	case "none":
		return nil, nil
	case "otlp":
		return otlpSpans(ctx, "", about, log)
	default:
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("OTEL_TRACES_EXPORTER %q: %w", name, err)
		}
		return &exporterSink{exporter: exporter, about: about}, nil
	}
}

// otlpSpans sends to an address as the configuration has it; empty: as OTEL_* says.
func otlpSpans(ctx context.Context, endpoint string, about *resource.Resource, log *slog.Logger) (sink, error) {
	scheme, _, _ := strings.Cut(endpoint, ":")
	var byHTTP []otlptracehttp.Option
	switch {
	case endpoint == "" && sendsByGRPC("TRACES", log):
		return startOTLP(ctx, otlptracegrpc.NewClient(), about)
	case endpoint == "":
	case strings.HasPrefix(scheme, "grpc"):
		return startOTLP(ctx, otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL("http"+strings.TrimPrefix(endpoint, "grpc"))), about)
	default:
		if strings.Count(strings.TrimSuffix(endpoint, "/"), "/") == 2 {
			endpoint = strings.TrimSuffix(endpoint, "/") + "/v1/traces" // only host and port are given
		}
		byHTTP = append(byHTTP, otlptracehttp.WithEndpointURL(endpoint))
	}
	if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")) == "http/json" {
		exporter, err := otlptracehttp.New(ctx, byHTTP...)
		if err != nil {
			return nil, err
		}
		return &exporterSink{exporter: exporter, about: about}, nil
	}
	return startOTLP(ctx, otlptracehttp.NewClient(byHTTP...), about)
}

// metricReader sends metrics where OTEL_METRICS_EXPORTER asks for it; nil: it does not.
func metricReader(ctx context.Context, log *slog.Logger) (sdkmetric.Reader, error) {
	name := os.Getenv("OTEL_METRICS_EXPORTER")
	if disabled() || name == "" || name == "none" {
		return nil, nil
	}
	if name != "otlp" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("OTEL_METRICS_EXPORTER %q: %w", name, err)
		}
		return reader, nil
	}
	var exporter sdkmetric.Exporter
	var err error
	if sendsByGRPC("METRICS", log) {
		exporter, err = otlpmetricgrpc.New(ctx)
	} else {
		exporter, err = otlpmetrichttp.New(ctx)
	}
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewPeriodicReader(exporter), nil
}
