package telemetry

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// samplerOf is the sampler that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name, as
// the SDK reads them. If they name none, it keeps the share of the configuration, for
// traces whose caller has not decided.
func samplerOf(share float64) sdktrace.Sampler {
	name := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER")))
	bare, parentBased := strings.CutPrefix(name, "parentbased_")
	var s sdktrace.Sampler
	switch bare {
	case "":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(share))
	case "always_on":
		s = sdktrace.AlwaysSample()
	case "always_off":
		s = sdktrace.NeverSample()
	case "traceidratio":
		s = sdktrace.TraceIDRatioBased(samplerShare())
	default:
		otel.Handle(fmt.Errorf("OTEL_TRACES_SAMPLER: %q is not known: every trace is kept where its caller has not decided", name))
		return sdktrace.ParentBased(sdktrace.AlwaysSample())
	}
	if parentBased {
		return sdktrace.ParentBased(s)
	}
	return s
}

// samplerShare is the share in OTEL_TRACES_SAMPLER_ARG; 1 if that is not a valid share.
func samplerShare() float64 {
	text := strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	if text == "" {
		return 1
	}
	share, err := strconv.ParseFloat(text, 64)
	if err != nil || share < 0 || share > 1 {
		otel.Handle(fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is no share from 0 to 1: 1 is used", text))
		return 1
	}
	return share
}

// withSpan puts a span context into a context, for samplers, propagators and exemplars.
func withSpan(id trace.SpanContext) context.Context {
	if !id.IsValid() {
		return context.Background()
	}
	if id.IsRemote() {
		return trace.ContextWithRemoteSpanContext(context.Background(), id)
	}
	return trace.ContextWithSpanContext(context.Background(), id)
}
