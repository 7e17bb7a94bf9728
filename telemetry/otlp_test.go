package telemetry

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// received is what has reached a collector.
type received chan *collector.ExportTraceServiceRequest

// Export is the collector's side of OTLP over gRPC.
func (r received) Export(_ context.Context, ask *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r <- ask
	return &collector.ExportTraceServiceResponse{}, nil
}

type grpcCollector struct {
	collector.UnimplementedTraceServiceServer
	received
}

func (c grpcCollector) Export(ctx context.Context, ask *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	return c.received.Export(ctx, ask)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// overGRPC is a collector; it gives its host and port.
func overGRPC(t *testing.T) (string, received) {
	l, r, s := listen(t), make(received, 16), grpc.NewServer()
	collector.RegisterTraceServiceServer(s, grpcCollector{received: r})
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String(), r
}

// overHTTP is a collector; it takes only POST /v1/traces.
func overHTTP(t *testing.T) (string, received) {
	r := make(received, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		ask := &collector.ExportTraceServiceRequest{}
		if err == nil {
			err = proto.Unmarshal(body, ask)
		}
		if err != nil || in.Method != http.MethodPost || in.URL.Path != "/v1/traces" || in.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("the collector got %s %s as %s (%v), want POST /v1/traces as application/x-protobuf",
				in.Method, in.URL.Path, in.Header.Get("Content-Type"), err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.Export(in.Context(), ask)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), r
}

// delivered ends the set-up and gives the spans that came, by name, with the
// attributes of their resource.
func delivered(t *testing.T, telemetry *Telemetry, r received) (map[string]*spanpb.Span, map[string]string) {
	t.Helper()
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	close(r)
	found, about := map[string]*spanpb.Span{}, map[string]string{}
	for ask := range r {
		for _, rs := range ask.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				about[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					found[s.Name] = s
				}
			}
		}
	}
	return found, about
}

func TestSpansReachACollector(t *testing.T) {
	for name, c := range map[string]struct {
		grpc   bool
		config func(address string) TracesConfig
		env    map[string]string // ADDRESS stands for the collector's
	}{
		"over HTTP by the configuration": {config: func(a string) TracesConfig {
			return TracesConfig{Exporter: "otlp", Endpoint: "http://" + a, Sample: 1}
		}},
		"over HTTP with a slash behind the port": {config: func(a string) TracesConfig {
			return TracesConfig{Exporter: "otlp", Endpoint: "http://" + a + "/", Sample: 1}
		}},
		"over HTTP with the whole path": {config: func(a string) TracesConfig {
			return TracesConfig{Exporter: "otlp", Endpoint: "http://" + a + "/v1/traces", Sample: 1}
		}},
		"over HTTP by the environment":               {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS"}},
		"over HTTP by the environment's word traces": {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://ADDRESS/v1/traces"}},
		"over HTTP where the configuration asks and the environment knows where": {
			config: func(string) TracesConfig { return TracesConfig{Exporter: "otlp", Sample: 1} },
			env:    map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS"}},
		"over HTTP where the configuration knows better than the environment": {
			config: func(a string) TracesConfig {
				return TracesConfig{Exporter: "otlp", Endpoint: "http://" + a, Sample: 1}
			},
			env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}},
		"over gRPC by the configuration": {grpc: true, config: func(a string) TracesConfig {
			return TracesConfig{Exporter: "otlp", Endpoint: "grpc://" + a, Sample: 1}
		}},
		"over gRPC by the environment": {grpc: true, env: map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}},
		"over gRPC where the configuration asks and the environment knows how": {grpc: true,
			config: func(string) TracesConfig { return TracesConfig{Exporter: "otlp", Sample: 1} },
			env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS",
				"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}},
	} {
		t.Run(name, func(t *testing.T) {
			noOTEL(t)
			address, r := overHTTP(t)
			if c.grpc {
				address, r = overGRPC(t)
			}
			for k, v := range c.env {
				t.Setenv(k, strings.ReplaceAll(v, "ADDRESS", address))
			}
			config := usual()
			if c.config != nil {
				config.Traces = c.config(address)
			}
			telemetry := start(t, config, &logs{})
			q, _ := run(telemetry, generate())
			found, about := delivered(t, telemetry, r)
			server := found[serverName]
			if len(found) != 3 || server == nil {
				t.Fatalf("got %d spans %v, want 3", len(found), found)
			}
			for _, child := range []*spanpb.Span{found[SpanWait], found["POST"]} {
				if string(child.ParentSpanId) != string(server.SpanId) || string(child.TraceId) != string(server.TraceId) {
					t.Errorf("%s is not under the server span", child.Name)
				}
			}
			if id := q.SpanContext().TraceID(); string(server.TraceId) != string(id[:]) {
				t.Errorf("the trace is %x, want %s", server.TraceId, id)
			}
			if server.Kind != spanpb.Span_SPAN_KIND_SERVER || found["POST"].Kind != spanpb.Span_SPAN_KIND_CLIENT ||
				found[SpanWait].Kind != spanpb.Span_SPAN_KIND_INTERNAL {
				t.Errorf("the kinds are %s, %s, %s", server.Kind, found["POST"].Kind, found[SpanWait].Kind)
			}
			if about["service.name"] != "anteroom" || about["service.version"] != "test" {
				t.Errorf("the resource is %v, want service.name anteroom, service.version test", about)
			}
			if n := telemetry.spansLost.Load(); n != 0 {
				t.Errorf("%d spans are counted as lost, want none", n)
			}
		})
	}
}

func TestMetricsReachACollectorWhereTheEnvironmentAsks(t *testing.T) {
	noOTEL(t)
	got := make(chan *metricspb.ExportMetricsServiceRequest, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		ask := &metricspb.ExportMetricsServiceRequest{}
		if err == nil {
			err = proto.Unmarshal(body, ask)
		}
		if err != nil || in.URL.Path != "/v1/metrics" {
			t.Errorf("the collector got %s (%v), want /v1/metrics", in.URL.Path, err)
		}
		got <- ask
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	t.Setenv("OTEL_METRICS_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", s.URL+"/v1/metrics")
	telemetry := start(t, usual(), &logs{})
	telemetry.Observe(box())
	run(telemetry, generate())
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	close(got)
	found := map[string]bool{}
	for ask := range got {
		for _, rm := range ask.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					found[m.Name] = true
				}
			}
		}
	}
	for _, name := range []string{MetricServer, MetricWait, MetricExecution, MetricRequests, MetricQueueLength, MetricVRAMBooked,
		MetricBreaker, MetricSpansLost} {
		if !found[name] {
			t.Errorf("the collector has no %s: %v", name, found)
		}
	}
}

// The command line may hold secrets.
func TestTheResourceHasNoCommandLine(t *testing.T) {
	noOTEL(t)
	address, r := overHTTP(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
	telemetry := start(t, usual(), &logs{})
	run(telemetry, generate())
	_, about := delivered(t, telemetry, r)
	for key := range about {
		if strings.HasPrefix(key, "process.command") {
			t.Errorf("the resource has %s", key)
		}
	}
	if about["host.name"] == "" || about["telemetry.sdk.language"] != "go" {
		t.Errorf("the resource is %v, want host.name and telemetry.sdk.*", about)
	}
}

func TestTheEnvironmentNamesTheService(t *testing.T) {
	noOTEL(t)
	address, r := overHTTP(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
	t.Setenv("OTEL_SERVICE_NAME", "gate-7")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab,service.version=ours")
	telemetry := start(t, usual(), &logs{})
	run(telemetry, generate())
	_, about := delivered(t, telemetry, r)
	if about["service.name"] != "gate-7" || about["deployment.environment.name"] != "lab" || about["service.version"] != "ours" {
		t.Errorf("the resource is %v, want service.name gate-7, deployment.environment.name lab, service.version ours", about)
	}
}

// A value that cannot be read does not keep the program from starting.
func TestMalformedResourceAttributesDoNotStopTheStart(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "nonsense")
	start(t, usual(), &logs{})
}

func TestTheSamplerIsHonoured(t *testing.T) {
	for name, c := range map[string]struct {
		sample float64
		env    map[string]string
		caller string
		want   int
	}{
		"all":                      {sample: 1, want: 3},
		"none":                     {sample: 0},
		"none but a caller's":      {sample: 0, caller: sampled, want: 3},
		"the environment's none":   {sample: 1, env: map[string]string{"OTEL_TRACES_SAMPLER": "always_off"}},
		"the environment's all":    {sample: 0, env: map[string]string{"OTEL_TRACES_SAMPLER": "always_on"}, want: 3},
		"the environment's share":  {sample: 1, env: map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}},
		"the environment's parent": {sample: 1, env: map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, caller: sampled, want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			noOTEL(t)
			address, r := overHTTP(t)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			config := usual()
			config.Traces = TracesConfig{Exporter: "otlp", Endpoint: "http://" + address, Sample: c.sample}
			telemetry := start(t, config, &logs{})
			request := generate()
			if c.caller != "" {
				request.Header.Set("Traceparent", c.caller)
			}
			_, header := run(telemetry, request)
			if _, _, flags := parent(t, header); (flags == "01") != (c.want > 0) {
				t.Errorf("the backend got %s, want sampled: %t", header.Get("Traceparent"), c.want > 0)
			}
			if found, _ := delivered(t, telemetry, r); len(found) != c.want {
				t.Errorf("got %d spans, want %d", len(found), c.want)
			}
		})
	}
}

// silence is a listener that fails the test when a client connects.
type silence struct{ net.Listener }

// check calls itself: the first in the line must be this call.
func (s silence) check(t *testing.T) {
	t.Helper()
	own, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	first, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if got := first.RemoteAddr().String(); got != own.LocalAddr().String() {
		t.Errorf("a client called %s from %s before", s.Addr(), got)
	}
}

func TestWithoutAnExporterNothingIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		exporter string
		env      map[string]string
	}{
		"neither asks":              {},
		"the configuration forbids": {exporter: "none", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS"}},
		"the environment forbids":   {env: map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS"}},
		"the SDK is disabled": {exporter: "otlp", env: map[string]string{"OTEL_SDK_DISABLED": "TRUE",
			"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDRESS"}},
	} {
		t.Run(name, func(t *testing.T) {
			noOTEL(t)
			quiet := []silence{{listen(t)}}
			for _, usualPort := range []string{"127.0.0.1:4317", "127.0.0.1:4318"} {
				if l, err := net.Listen("tcp", usualPort); err == nil { // else a collector listens there
					t.Cleanup(func() { l.Close() })
					quiet = append(quiet, silence{l})
				}
			}
			for k, v := range c.env {
				t.Setenv(k, strings.ReplaceAll(v, "ADDRESS", quiet[0].Addr().String()))
			}
			config := usual()
			config.Traces.Exporter = c.exporter
			telemetry := start(t, config, &logs{})
			run(telemetry, generate())
			if telemetry.tracer != nil {
				t.Error("spans are made without an exporter")
			}
			if err := telemetry.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			for _, l := range quiet {
				l.check(t)
			}
		})
	}
}

// Starting before the collector does is no mistake.
func TestNoConnectionIsMadeBeforeThereAreSpans(t *testing.T) {
	noOTEL(t)
	l := silence{listen(t)}
	for _, scheme := range []string{"http", "grpc"} {
		config := usual()
		config.Traces = TracesConfig{Exporter: "otlp", Endpoint: scheme + "://" + l.Addr().String(), Sample: 1}
		telemetry := start(t, config, &logs{})
		if err := telemetry.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	}
	l.check(t)
}

func TestAnUnknownExporterStopsTheStart(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "pigeon")
	if _, err := Start(context.Background(), usual(), "test", &logs{}); err == nil || !strings.Contains(err.Error(), "pigeon") {
		t.Errorf("got %v, want an error that names the pigeon", err)
	}
}

// A word may be misspelled: spans leave all the same, and a warning names the variable.
func TestAProtocolThatIsNotKnownStopsNothing(t *testing.T) {
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		for _, protocol := range []string{"http/jsno", "grcp"} {
			t.Run(variable+"="+protocol, func(t *testing.T) {
				noOTEL(t)
				address, r := overHTTP(t)
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
				t.Setenv(variable, protocol)
				out := &logs{}
				telemetry := start(t, usual(), out)
				if line := lines(t, out)[0]; line["level"] != "WARN" || !strings.HasPrefix(line["msg"].(string), variable+":") || line["value"] != protocol {
					t.Errorf("got %v, want a warning that names %s and %s", line, variable, protocol)
				}
				run(telemetry, generate())
				if found, _ := delivered(t, telemetry, r); len(found) != 3 {
					t.Errorf("got %d spans, want 3", len(found))
				}
			})
		}
	}
}

func TestSpansLeaveAsJSON(t *testing.T) {
	noOTEL(t)
	got := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, in *http.Request) {
		got <- in.URL.Path + " " + in.Header.Get("Content-Type")
	}))
	t.Cleanup(s.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
	out := &logs{}
	telemetry := start(t, usual(), out)
	if strings.Contains(out.String(), "WARN") {
		t.Errorf("got a warning: %s", out)
	}
	run(telemetry, generate())
	telemetry.Shutdown(t.Context())
	if path := <-got; path != "/v1/traces application/json" {
		t.Errorf("the collector got %s, want /v1/traces application/json", path)
	}
}

func TestAConfigurationFileOfOpenTelemetryIsRefused(t *testing.T) {
	for _, name := range []string{"OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"} {
		noOTEL(t)
		t.Setenv(name, "otel.yaml")
		if _, err := Start(context.Background(), usual(), "test", &logs{}); err == nil || !strings.Contains(err.Error(), name) ||
			!strings.Contains(err.Error(), "unset it") {
			t.Errorf("got %v, want an error that names %s and its cure", err, name)
		}
		os.Unsetenv(name)
	}
}

func TestTheConsoleGetsSpansBesideTheLog(t *testing.T) {
	noOTEL(t)
	config, out := usual(), &logs{}
	config.Traces.Exporter = "console"
	telemetry := start(t, config, out)
	run(telemetry, generate())
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, `"Name":"`+SpanWait+`"`) }) {
		t.Errorf("got\n%s\nwant the log line and three spans", out)
	}
}
