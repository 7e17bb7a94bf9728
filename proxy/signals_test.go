package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// receiver is a collector that takes OTLP over HTTP.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*spanpb.Span // guarded by mu
}

func newReceiver(t *testing.T) *receiver {
	r := new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		var ask collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &ask)
		}
		if err != nil || in.URL.Path != "/v1/traces" {
			t.Errorf("the collector got %s: %v", in.URL.Path, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, of := range ask.ResourceSpans {
			for _, in := range of.ScopeSpans {
				r.spans = append(r.spans, in.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// trace is the last trace that a SERVER span began.
func (r *receiver) trace() (server *spanpb.Span, all map[string]*spanpb.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Kind == spanpb.Span_SPAN_KIND_SERVER && (server == nil || s.StartTimeUnixNano > server.StartTimeUnixNano) {
			server = s
		}
	}
	all = map[string]*spanpb.Span{}
	if server == nil {
		return nil, all
	}
	for _, s := range r.spans {
		if string(s.TraceId) == string(server.TraceId) {
			name := s.Name
			for i := 2; all[name] != nil; i++ {
				name = fmt.Sprintf("%s %d", s.Name, i)
			}
			all[name] = s
		}
	}
	return server, all
}

// said is an attribute of a span as a text; empty: it has none.
func said(s *spanpb.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.Key == key {
			switch v := a.Value; {
			case v.GetStringValue() != "":
				return v.GetStringValue()
			default:
				return fmt.Sprint(v.GetIntValue())
			}
		}
	}
	return ""
}

// line is the last log line with a message; nil: there is none.
func (b *box) line(message string) (found map[string]any) {
	for text := range strings.Lines(b.logs.String()) {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["msg"] == message {
			found = l
		}
	}
	return found
}

// answering answers by the end of the path.
func answering(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w).Flush
		kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if kind != "ws" { // else a server does not see its caller leave
			io.Copy(io.Discard, r.Body)
		}
		switch kind {
		case "sse", "ndjson":
			w.Header().Set("Content-Type", map[string]string{"sse": "text/event-stream", "ndjson": "application/x-ndjson"}[kind])
			for range 3 {
				io.WriteString(w, "data: 1\n\n")
				flush()
			}
		case "ws":
			c, brw := upgraded(t, w)
			defer c.Close()
			hello := make([]byte, 5)
			io.ReadFull(brw, hello)
			io.WriteString(c, "hello to you")
			io.Copy(io.Discard, brw)
		case "grpc-ok", "grpc-internal", "grpc-exhausted":
			w.Header().Set("Content-Type", "application/grpc")
			if kind == "grpc-exhausted" { // trailers alone
				w.Header().Set("Grpc-Status", "8")
				return
			}
			w.Header().Set("Trailer", "Grpc-Status")
			io.WriteString(w, "\x00\x00\x00\x00\x00")
			flush()
			w.Header().Set("Grpc-Status", map[string]string{"grpc-ok": "0", "grpc-internal": "13"}[kind])
		case "cut":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "half")
			flush()
			panic(http.ErrAbortHandler)
		case "error":
			w.WriteHeader(500)
		case "hang":
			<-r.Context().Done()
		default:
			io.WriteString(w, "done")
		}
	})
}

// played is one kind of request under way.
type played struct {
	*testing.T
	*box
	comfy   *comfy
	reached *atomic.Int32 // requests that are at the backend, or were
}

// ask sends a request and reads its answer, whatever comes of it.
func (p *played) ask(client *http.Client, r *http.Request) {
	if res, err := client.Do(r); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

func (p *played) post(path string, headers ...string) {
	p.ask(p.client, p.request(p.Context(), "POST", path, `{"model":"llama-3"}`, headers...))
}

func (p *played) grpc(path string) {
	p.ask(h2c(p), p.request(p.Context(), "POST", path, "\x00\x00\x00\x00\x00", "Content-Type", "application/grpc", "Te", "trailers"))
}

// leave sends a request and leaves when something is true.
func (p *played) leave(path, what string, is func() bool) {
	ctx, cancel := context.WithCancel(p.Context())
	over := make(chan struct{})
	go func() { defer close(over); p.ask(p.client, p.request(ctx, "POST", path, "{}")) }()
	eventually(p, what, is)
	cancel()
	<-over
}

// TestEveryKindOfRequestIsToldAsItWas plays each kind against real sockets and a
// collector, and looks at the SERVER span, the log line and the metrics.
func TestEveryKindOfRequestIsToldAsItWas(t *testing.T) {
	type want struct {
		status, code, result, errorType string
		failed                          bool              // the SERVER span's status is Error
		spans                           []string          // under the SERVER span
		about                           map[string]string // of the SERVER span
		line                            map[string]any    // of the request's log line; nil: it has no such key
		work                            map[string]any    // of the work's line; nil: there is none
		metrics                         []string          // that are 1
	}
	const heavyOK = `anteroom_requests_total{anteroom_class="heavy",anteroom_result="ok",anteroom_route="heavy",anteroom_tenant="",gen_ai_request_model=""}`
	light := func(result string) string {
		return fmt.Sprintf(`anteroom_requests_total{anteroom_class="light",anteroom_result=%q,anteroom_route="light",anteroom_tenant="",gen_ai_request_model=""}`, result)
	}
	execution := func(result string) string {
		return fmt.Sprintf(`anteroom_request_execution_seconds_count{anteroom_backend="quick",anteroom_class="light",anteroom_result=%q}`, result)
	}
	failures := func(code string) string {
		return fmt.Sprintf(`anteroom_failures_total{anteroom_backend="quick",anteroom_class="light",anteroom_code=%q}`, code)
	}
	const firstByte = `anteroom_request_first_byte_seconds_count{anteroom_backend="quick",anteroom_class="light"}`
	usual := []string{telemetry.SpanWait, "POST"}
	for name, c := range map[string]struct {
		play func(*played)
		h2c  bool
		want want
	}{
		"plain": {play: func(p *played) { p.post("/light/plain") }, want: want{status: "200", result: "ok", spans: usual,
			about:   map[string]string{"url.path": "/light/plain", "anteroom.position": "0", "http.response.body.size": "4"},
			line:    map[string]any{"level": "INFO", "path": "/light/plain", "position": 0.0, "bytes_in": 19.0, "bytes_out": 4.0, "code": nil, "tenant": nil},
			metrics: []string{light("ok"), execution("ok"), firstByte}}},
		"a tenant, a model and no other's names in metrics": {play: func(p *played) { p.post("/v1/chat/completions", "X-Tenant", "acme") },
			want: want{status: "200", result: "ok", spans: usual,
				about: map[string]string{"anteroom.tenant": "acme", "gen_ai.request.model": "llama-3", "gen_ai.operation.name": "chat"},
				line:  map[string]any{"tenant": "acme", "model": "llama-3"},
				metrics: []string{`anteroom_requests_total{anteroom_class="light",anteroom_result="ok",anteroom_route="chat",` +
					`anteroom_tenant="other",gen_ai_request_model="other"}`}}},
		"SSE": {play: func(p *played) { p.post("/light/sse") }, want: want{status: "200", result: "ok", spans: usual,
			line: map[string]any{"level": "INFO", "bytes_out": 27.0}, metrics: []string{light("ok"), firstByte}}},
		"NDJSON": {play: func(p *played) { p.post("/light/ndjson") }, want: want{status: "200", result: "ok", spans: usual,
			line: map[string]any{"level": "INFO", "bytes_out": 27.0}, metrics: []string{light("ok"), firstByte}}},
		"a WebSocket": {play: func(p *played) {
			c, r := p.raw("GET /light/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			http.ReadResponse(r, nil)
			io.WriteString(c, "hello")
			io.ReadFull(r, make([]byte, 12))
			c.Close()
		}, want: want{status: "101", result: "ok", spans: []string{"GET"},
			line: map[string]any{"level": "INFO", "code": nil, "bytes_in": 5.0, "bytes_out": 12.0},
			metrics: []string{light("ok"), `anteroom_connection_open_seconds_count{anteroom_backend="quick",anteroom_class="light"}`,
				`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="101",http_route="/light/**",url_scheme="http"}`}}},
		"gRPC that is well": {play: func(p *played) { p.grpc("/light/grpc-ok") }, h2c: true, want: want{status: "200", result: "ok", spans: usual,
			about: map[string]string{"rpc.response.status_code": "OK"}, line: map[string]any{"level": "INFO", "rpc_status": "OK"},
			metrics: []string{light("ok")}}},
		"gRPC that fails": {play: func(p *played) { p.grpc("/light/grpc-internal") }, h2c: true, want: want{status: "200", result: "failed",
			code: "backend_error", errorType: "INTERNAL", failed: true, spans: usual, about: map[string]string{"rpc.response.status_code": "INTERNAL"},
			line:    map[string]any{"level": "WARN", "rpc_status": "INTERNAL"},
			metrics: []string{light("failed"), execution("failed"), failures("backend_error")}}},
		"gRPC that fails in its header": {play: func(p *played) { p.grpc("/light/grpc-exhausted") }, h2c: true, want: want{status: "200", result: "failed",
			code: "backend_error", errorType: "RESOURCE_EXHAUSTED", failed: true, spans: usual, line: map[string]any{"level": "WARN"},
			metrics: []string{light("failed")}}},
		"gRPC that is refused": {play: func(p *played) { p.grpc("/never/x") }, h2c: true, want: want{status: "200", result: "refused",
			code: "never_fits", spans: []string{telemetry.SpanWait}, about: map[string]string{"rpc.response.status_code": "FAILED_PRECONDITION"},
			line: map[string]any{"level": "INFO"}, metrics: []string{`anteroom_refusals_total{anteroom_class="never",anteroom_code="never_fits"}`}}},
		"a job": {play: func(p *played) {
			p.post("/prompt")
			eventually(p, "its answer is on a line", func() bool { return p.line("request") != nil })
			p.comfy.finish(<-p.comfy.arrived, "success")
		}, want: want{status: "200", result: "ok", spans: usual, line: map[string]any{"execute_ms": nil},
			work: map[string]any{"level": "INFO", "result": "ok", "class": "heavy"}}},
		"a job that fails": {play: func(p *played) {
			p.post("/prompt")
			eventually(p, "its answer is on a line", func() bool { return p.line("request") != nil })
			p.comfy.finish(<-p.comfy.arrived, "error")
		}, want: want{status: "200", result: "ok", spans: usual, work: map[string]any{"level": "WARN", "result": "failed", "code": "job_failed"}}},
		"cut": {play: func(p *played) { p.post("/light/cut") }, want: want{status: "200", result: "failed", code: "backend_protocol",
			errorType: "backend_protocol", failed: true, spans: usual, line: map[string]any{"level": "WARN"},
			metrics: []string{light("failed"), execution("failed"), failures("backend_protocol"),
				`http_server_request_duration_seconds_count{error_type="backend_protocol",http_request_method="POST",http_response_status_code="200",http_route="/light/**",url_scheme="http"}`}}},
		"an error": {play: func(p *played) { p.post("/light/error") }, want: want{status: "500", result: "failed", code: "backend_error",
			errorType: "500", failed: true, spans: usual, line: map[string]any{"level": "WARN"},
			metrics: []string{light("failed"), failures("backend_error")}}},
		"cut by the execution timeout": {play: func(p *played) { p.post("/brief/hang") },
			want: want{status: "504", result: "failed", code: "execution_timeout",
				errorType: "execution_timeout", failed: true, spans: usual, line: map[string]any{"level": "WARN"},
				metrics: []string{`anteroom_failures_total{anteroom_backend="quick",anteroom_class="brief",anteroom_code="execution_timeout"}`}}},
		"refused": {play: func(p *played) { p.post("/never/x") },
			want: want{status: "422", result: "refused", code: "never_fits", spans: []string{telemetry.SpanWait},
				line:    map[string]any{"level": "INFO", "execute_ms": nil},
				metrics: []string{`anteroom_refusals_total{anteroom_class="never",anteroom_code="never_fits"}`}}},
		"cancelled in the queue": {play: func(p *played) {
			p.controller.Pause("light")
			p.leave("/light/plain", "it waits", func() bool { return p.waiting() == 1 })
		}, want: want{status: "499", result: "cancelled", code: "client_cancelled", spans: []string{telemetry.SpanWait},
			about:   map[string]string{"anteroom.wait.reason": "paused"},
			line:    map[string]any{"level": "INFO", "reason": "paused", "execute_ms": nil},
			metrics: []string{light("cancelled"), `anteroom_cancellations_total{anteroom_class="light",anteroom_phase="wait"}`}}},
		"cancelled while it runs": {play: func(p *played) { p.leave("/light/hang", "it runs", func() bool { return p.reached.Load() == 1 }) },
			want: want{status: "499", result: "cancelled", code: "client_cancelled", spans: usual, line: map[string]any{"level": "INFO"},
				metrics: []string{light("cancelled"), `anteroom_cancellations_total{anteroom_class="light",anteroom_phase="execute"}`}}},
		"retried": {play: func(p *played) { p.post("/scarce/x") }, want: want{status: "200", result: "ok",
			spans: []string{telemetry.SpanWait, telemetry.SpanWait + " 2", "POST", "POST 2"}, line: map[string]any{"level": "INFO"},
			metrics: []string{`anteroom_oom_total{anteroom_backend="scarce",anteroom_result="retried"}`,
				`anteroom_failures_total{anteroom_backend="scarce",anteroom_class="light",anteroom_code="out_of_memory"}`}}},
		"a slow upload": {play: func(p *played) {
			c, r := p.raw("POST /light/plain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			r.ReadString('\n')                 // it waits for the body now
			<-time.After(5 * time.Millisecond) // as long as an upload takes
			io.WriteString(c, "half")
			http.ReadResponse(r, nil)
			http.ReadResponse(r, nil)
		}, want: want{status: "200", result: "ok", spans: []string{telemetry.SpanReceive, telemetry.SpanWait, "POST"}, metrics: []string{light("ok")}}},
		"an upload that breaks off": {play: func(p *played) {
			c, _ := p.raw("POST /light/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nhe")
			c.Close()
		}, want: want{status: "400", result: "refused", code: "bad_body", line: map[string]any{"level": "INFO", "wait_ms": nil},
			metrics: []string{`anteroom_refusals_total{anteroom_class="light",anteroom_code="bad_body"}`}}},
		"pass": {play: func(p *played) { p.post("/pass/plain") }, want: want{status: "200", result: "ok", spans: []string{"POST"},
			line: map[string]any{"route": "pass", "class": "", "wait_ms": nil}, metrics: []string{
				`anteroom_requests_total{anteroom_class="",anteroom_result="ok",anteroom_route="pass",anteroom_tenant="",gen_ai_request_model=""}`}}},
		"no route": {play: func(p *played) { p.post("/nowhere?secret=1") }, want: want{status: "404", result: "refused", code: "no_route",
			about: map[string]string{"url.path": "/nowhere"}, line: map[string]any{"level": "INFO", "path": "/nowhere"},
			metrics: []string{`anteroom_refusals_total{anteroom_class="",anteroom_code="no_route"}`}}},
		"heavy": {play: func(p *played) { p.post("/heavy") }, want: want{status: "200", result: "ok", spans: usual, metrics: []string{heavyOK}}},
	} {
		t.Run(name, func(t *testing.T) {
			collected, draws := newReceiver(t), newComfy()
			scarce, answers := &scarce{bodies: make(chan string, 10)}, answering(t)
			scarce.left.Store(1)
			var reached atomic.Int32
			model := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reached.Add(1)
				switch {
				case r.URL.Path == "/prompt", strings.HasPrefix(r.URL.Path, "/history/"), r.URL.Path == "/queue":
					draws.ServeHTTP(w, r)
				case strings.HasPrefix(r.URL.Path, "/scarce/"):
					scarce.ServeHTTP(w, r)
				default:
					answers.ServeHTTP(w, r)
				}
			}))
			model.Config.Protocols = new(http.Protocols)
			model.Config.Protocols.SetHTTP1(true)
			model.Config.Protocols.SetUnencryptedHTTP2(true)
			model.Config.ErrorLog = quiet
			model.Start()
			t.Cleanup(model.Close)
			changes := []func(*proxy.Setup){asComfy(), tellable}
			if c.h2c {
				changes = append(changes, overH2C)
			}
			b := openTraced(t, model.URL, telemetry.TracesConfig{Exporter: "otlp", Endpoint: collected.URL, Sample: 1}, changes...)
			c.play(&played{t, b, draws, &reached})
			eventually(t, "it is on a line", func() bool { return b.line("request") != nil })
			eventually(t, "nothing runs", func() bool { return b.running() == 0 })
			w := c.want
			if w.work != nil {
				eventually(t, "the work is on a line", func() bool { return b.line("work ended") != nil })
			}
			for _, series := range w.metrics {
				if got := b.metric(strings.TrimSuffix(series, "}")); got != "1" {
					t.Errorf("%s is %q, want 1", series, got)
				}
			}
			if err := b.told.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			server, all := collected.trace()
			if server == nil {
				t.Fatal("there is no SERVER span")
			}
			under := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(name string) bool {
				// Any body may take long on a machine that is busy.
				return all[name] == server || name == telemetry.SpanReceive && !slices.Contains(w.spans, name)
			})
			if !slices.Equal(under, slices.Sorted(slices.Values(w.spans))) {
				t.Errorf("under the SERVER span are %q, want %q", under, w.spans)
			}
			about := map[string]string{"http.response.status_code": w.status, "anteroom.result": w.result, "anteroom.code": w.code, "error.type": w.errorType}
			maps.Copy(about, w.about)
			for key, value := range about {
				if got := said(server, key); got != value {
					t.Errorf("the SERVER span has %s %q, want %q", key, got, value)
				}
			}
			if got := server.Status.GetCode() == spanpb.Status_STATUS_CODE_ERROR; got != w.failed {
				t.Errorf("the SERVER span has the status %v, want an error: %t", server.Status, w.failed)
			}
			checkLine(t, b.line("request"), map[string]any{"result": w.result, "trace_id": fmt.Sprintf("%x", server.TraceId)}, w.line)
			if w.work == nil && b.line("work ended") != nil {
				t.Errorf("there is a line of work that went on: %v", b.line("work ended"))
			} else if w.work != nil {
				checkLine(t, b.line("work ended"), map[string]any{"trace_id": fmt.Sprintf("%x", server.TraceId)}, w.work)
			}
		})
	}
}

func checkLine(t *testing.T, line map[string]any, wants ...map[string]any) {
	t.Helper()
	for _, want := range wants {
		for key, value := range want {
			if line[key] != value {
				t.Errorf("the line has %s %v, want %v: %v", key, line[key], value, line)
			}
		}
	}
}

// tellable adds what the table needs to the box.
func tellable(s *proxy.Setup) {
	s.Proxy.Trusted, s.Proxy.Tenants.Header = []string{"127.0.0.1"}, "X-Tenant"
	never, brief := s.Routing.Classes["light"], s.Routing.Classes["light"]
	never.VRAM.Amount = 1 << 45
	brief.ExecutionTimeout = 20 * time.Millisecond
	s.Routing.Classes = maps.Clone(s.Routing.Classes)
	s.Routing.Classes["never"], s.Routing.Classes["brief"] = never, brief
	s.Routing.Backends = maps.Clone(s.Routing.Backends)
	short := s.Routing.Backends["quick"]
	short.RetryOOM, short.OOMPatterns = true, []string{"CUDA out of memory"}
	s.Routing.Backends["scarce"] = short
	s.Routing.Routes = append(s.Routing.Routes, []routing.RouteConfig{
		{Name: "never", Match: routing.MatchConfig{Path: routing.Texts{"/never/**"}}, Class: "never", Backend: "quick"},
		{Name: "brief", Match: routing.MatchConfig{Path: routing.Texts{"/brief/**"}}, Class: "brief", Backend: "quick"},
		{Name: "scarce", Match: routing.MatchConfig{Path: routing.Texts{"/scarce/**"}}, Class: "light", Backend: "scarce"},
		{Name: "chat", Match: routing.MatchConfig{Path: routing.Texts{"/v1/chat/completions"}}, Class: "light", Backend: "quick", Errors: "openai"},
	}...)
}

// TestWhatTheParserRefusesIsTold sends what never becomes a request: net/http answers
// it and asks no handler.
func TestWhatTheParserRefusesIsTold(t *testing.T) {
	for name, c := range map[string]struct{ text, status string }{
		"no HTTP":               {"GET / HTTP/9.x\r\n\r\n", "400"},
		"two lengths":           {"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"},
		"an unknown encoding":   {"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501"},
		"a header that is long": {"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", "431"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, newModel(t))
			_, r := b.raw(c.text)
			res, err := http.ReadResponse(r, nil)
			if err != nil || fmt.Sprint(res.StatusCode) != c.status {
				t.Fatalf("got %v, %v, want %s", res, err, c.status)
			}
			eventually(t, "it is counted", func() bool {
				return b.metric(`anteroom_malformed_total{http_response_status_code="`+c.status+`"`) == "1"
			})
			if line := b.line("a request that is not HTTP was refused"); fmt.Sprint(line["status"]) != c.status {
				t.Errorf("the line is %v, want the status %s", line, c.status)
			}
		})
	}
	b := open(t, newModel(t))
	b.do("POST", "/nowhere", "")
	if n := b.metric("anteroom_malformed_total"); n != "" {
		t.Errorf("a refusal of the proxy's is counted as malformed: %s", n)
	}
}
