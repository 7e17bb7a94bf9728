//go:build e2e

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// tracing is serve before two simulated engines, with a Collector, Jaeger behind it for
// traces, and a receiver of the test's own behind it for metrics.
type tracing struct {
	t      *testing.T
	proxy  *served
	jaeger string // of its API

	mu      sync.Mutex
	context map[string]string // guarded by mu; the traceparent that vLLM got, by path
	metrics map[string]bool   // guarded by mu; names that came
}

// unused is an address that nothing listens on.
func unused(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// background runs a program until the test ends; what it says is told where the test fails.
func background(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	var said bytes.Buffer
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), env...), &said, &said
	must(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if t.Failed() {
			text := said.String()
			t.Logf("%s said\n%s", name, text[max(0, len(text)-4000):])
		}
	})
}

func within(t *testing.T, d time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !is(); <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", d, what)
		}
	}
}

func newTracing(t *testing.T) *tracing {
	collector, jaeger := os.Getenv("E2E_COLLECTOR"), os.Getenv("E2E_JAEGER")
	if collector == "" || jaeger == "" {
		t.Fatal("E2E_COLLECTOR and E2E_JAEGER are not set: want make e2e-telemetry")
	}
	e := &tracing{t: t, context: map[string]string{}, metrics: map[string]bool{}}
	into := httptest.NewServer(http.HandlerFunc(e.takeMetrics))
	t.Cleanup(into.Close)
	otlp, query, at := unused(t), unused(t), unused(t)
	e.jaeger = "http://" + query
	background(t, []string{"SPAN_STORAGE_TYPE=memory"}, jaeger, "--collector.otlp.enabled=true", "--collector.otlp.http.host-port="+otlp,
		"--collector.otlp.grpc.host-port="+unused(t),
		"--query.http-server.host-port="+query, "--query.grpc-server.host-port="+unused(t), "--admin.http.host-port="+unused(t),
		"--collector.http-server.host-port="+unused(t), "--collector.grpc-server.host-port="+unused(t))
	background(t, nil, collector, "--config", writeFile(t, "collector.yaml", fmt.Sprintf(`
receivers: {otlp: {protocols: {http: {endpoint: %q}}}}
exporters:
  otlp_http/jaeger: {endpoint: "http://%s", tls: {insecure: true}}
  otlp_http/test: {endpoint: %q, tls: {insecure: true}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp_http/jaeger]}
    metrics: {receivers: [otlp], exporters: [otlp_http/test]}
`, at, otlp, into.URL)))
	for _, address := range []string{at, otlp, query} {
		within(t, time.Minute, address+" is served", func() bool {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	directory := t.TempDir()
	card, err := simulation.OpenCard(directory, 48*admission.GiB)
	must(t, err)
	t.Cleanup(func() { card.Close() })
	comfyui, vllm := simulation.ComfyUI(), simulation.VLLM()
	comfyui.Weights, comfyui.PerRun = 24*admission.GiB, 10*admission.GiB
	vllm.Weights, vllm.PerRun = 22*admission.GiB, 0
	var urls []string
	for i, kind := range []simulation.Kind{comfyui, vllm} {
		engine := simulation.NewEngine(kind, card, simulation.Options{Speed: 20, Seed: uint64(i)})
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e.mu.Lock()
			e.context[r.URL.Path] = r.Header.Get("Traceparent")
			e.mu.Unlock()
			engine.ServeHTTP(w, r)
		}))
		t.Cleanup(func() { web.Close(); engine.Close() })
		urls = append(urls, web.URL)
	}
	file := write(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
state: {file: ""}
gpus: {gpu0: {source: amdgpu, device: %q}}
classes:
  images: {slots: 1, vram: 10GiB, estimate: 1s, queue: {timeout: 5m}}
  chat: {slots: 8, estimate: 1s, queue: {timeout: 5m}}
backends:
  comfyui: {url: %q, gpu: gpu0, resident: 24GiB, slots: 1, min_residency: 0s, completion: {preset: comfyui, every: 50ms}, reclaim: {preset: comfyui}}
  vllm: {url: %q, gpu: gpu0, resident: 22GiB, returns_memory: true, cancel: aborts, min_residency: 0s, reclaim: {preset: vllm}}
routes:
  - {name: images, match: {method: POST, path: /prompt}, class: images, backend: comfyui}
  - {name: chat, match: {method: POST, path: /v1/chat/completions}, class: chat, backend: vllm}
telemetry: {traces: {exporter: otlp, endpoint: "http://%s"}}
`, directory+"/card0", urls[0], urls[1], at))
	command := process("serve", "-c", file)
	command.Env = append(command.Env, "OTEL_BSP_SCHEDULE_DELAY=200", "OTEL_METRICS_EXPORTER=otlp", "OTEL_METRIC_EXPORT_INTERVAL=500",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://"+at+"/v1/metrics", "OTEL_SERVICE_NAME=endtoend")
	e.proxy = serveCommand(t, file, command)
	go func() {
		for range e.proxy.lines {
		}
	}()
	return e
}

// takeMetrics is where the Collector sends metrics on.
func (e *tracing) takeMetrics(w http.ResponseWriter, r *http.Request) {
	var from io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		if unpacked, err := gzip.NewReader(r.Body); err == nil {
			from = unpacked
		}
	}
	text, err := io.ReadAll(from)
	var batch metricspb.ExportMetricsServiceRequest
	if err == nil {
		err = proto.Unmarshal(text, &batch)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, of := range batch.ResourceMetrics {
		for _, in := range of.ScopeMetrics {
			for _, m := range in.Metrics {
				e.metrics[m.Name] = true
			}
		}
	}
}

// caller's trace n, as a client sends it, and its id.
func caller(n int) (header, id string) {
	id = fmt.Sprintf("abc%029x", n)
	return "00-" + id + "-00000000000000ff-01", id
}

// ask sends a request in the caller's trace n.
func (e *tracing) ask(n int, path, body string) {
	r, err := http.NewRequest("POST", e.proxy.url+path, strings.NewReader(body))
	must(e.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header["Traceparent"] = []string{first(caller(n))}
	res, err := http.DefaultClient.Do(r)
	must(e.t, err)
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		e.t.Errorf("%s: %s: %s", path, res.Status, text)
	}
}

func first(a, _ string) string { return a }

// seenSpan is a span as Jaeger's API has it; times in microseconds.
type seenSpan struct {
	TraceID, SpanID, OperationName string
	StartTime, Duration            int64
	References                     []struct{ RefType, TraceID, SpanID string }
	Tags                           []struct {
		Key   string
		Value any
	}
	Logs []struct {
		Fields []struct {
			Key   string
			Value any
		}
	}
}

func (s seenSpan) end() int64 { return s.StartTime + s.Duration }

func (s seenSpan) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

// parent is the span that it is a child of; links are those that it follows.
func (s seenSpan) parent() string {
	for _, r := range s.References {
		if r.RefType == "CHILD_OF" {
			return r.SpanID
		}
	}
	return ""
}

func (s seenSpan) links() (ids []string) {
	for _, r := range s.References {
		if r.RefType == "FOLLOWS_FROM" {
			ids = append(ids, r.TraceID+"/"+r.SpanID)
		}
	}
	return ids
}

func (s seenSpan) id() string { return s.TraceID + "/" + s.SpanID }

// events are the names of a span's events.
func (s seenSpan) events() (names []string) {
	for _, l := range s.Logs {
		for _, f := range l.Fields {
			if f.Key == "event" {
				names = append(names, fmt.Sprint(f.Value))
			}
		}
	}
	return names
}

// spans asks Jaeger's API.
func (e *tracing) spans(query string) []seenSpan {
	res, err := http.Get(e.jaeger + query)
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	var answer struct{ Data []struct{ Spans []seenSpan } }
	if res.StatusCode != http.StatusOK || json.NewDecoder(res.Body).Decode(&answer) != nil {
		return nil
	}
	var all []seenSpan
	for _, trace := range answer.Data {
		all = append(all, trace.Spans...)
	}
	slices.SortStableFunc(all, func(a, b seenSpan) int { return int(a.StartTime - b.StartTime) })
	return all
}

// tree is the trace of a request: its SERVER span, its wait, and its CLIENT span.
func (e *tracing) tree(n int, server string) (root, wait, client seenSpan) {
	e.t.Helper()
	_, id := caller(n)
	within(e.t, time.Minute, "Jaeger has "+server+" with its wait and its execution", func() bool {
		for _, s := range e.spans("/api/traces/" + id) {
			switch s.tag("span.kind") + " " + s.OperationName {
			case "server " + server:
				root = s
			case "internal admission.wait":
				wait = s
			case "client POST":
				client = s
			}
		}
		return root.SpanID != "" && wait.SpanID != "" && client.SpanID != ""
	})
	if root.parent() != "00000000000000ff" || wait.parent() != root.SpanID || client.parent() != root.SpanID {
		e.t.Errorf("%s: the spans are under %s, %s and %s, want the caller's 00000000000000ff and %s twice", server, root.parent(),
			wait.parent(), client.parent(), root.SpanID)
	}
	if wait.end() > client.StartTime || client.end() > max(root.end(), client.end()) || wait.StartTime < root.StartTime {
		e.t.Errorf("%s: the request begins at %d, waits from %d to %d and runs from %d, want them in this order", server, root.StartTime,
			wait.StartTime, wait.end(), client.StartTime)
	}
	return root, wait, client
}

// order is the trace of an unload or a wake that was done for a span.
func (e *tracing) order(name string, wait seenSpan) (found seenSpan) {
	e.t.Helper()
	within(e.t, time.Minute, "Jaeger has "+name+" with a link to the wait that it was done for", func() bool {
		for _, s := range e.spans("/api/traces?" + url.Values{"service": {"endtoend"}, "operation": {name}}.Encode()) {
			if slices.Contains(s.links(), wait.id()) {
				found = s
			}
		}
		return found.SpanID != ""
	})
	if !slices.Contains(wait.links(), found.id()) {
		e.t.Errorf("the wait links to %v, want the %s %s", wait.links(), name, found.id())
	}
	return found
}

// TestThroughACollectorToJaeger: what an operator sees of a chat, of an image whose
// memory is made free by an unload, of one that waits for it, and of a chat whose model
// is woken again.
func TestThroughACollectorToJaeger(t *testing.T) {
	e := newTracing(t)
	const chat, image = `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":8}`, `{"prompt":{"3":{}}}`
	e.ask(1, "/v1/chat/completions", chat)
	var both sync.WaitGroup
	for n := 2; n <= 3; n++ {
		both.Go(func() { e.ask(n, "/prompt", image) })
	}
	both.Wait()
	e.ask(4, "/v1/chat/completions", chat)

	root, _, client := e.tree(1, "POST /v1/chat/completions")
	if root.tag("anteroom.result") != "ok" || root.tag("http.response.status_code") != "200" ||
		root.tag("gen_ai.operation.name") != "chat" || root.tag("gen_ai.usage.output_tokens") == "" {
		t.Errorf("the chat's span has %v", root.Tags)
	}
	e.mu.Lock()
	sent := e.context["/v1/chat/completions"]
	e.mu.Unlock()
	_, _, last := e.tree(4, "POST /v1/chat/completions")
	if want := "00-" + last.TraceID + "-" + last.SpanID + "-01"; sent != want {
		t.Errorf("the engine got the trace context %q, want that of the CLIENT span, %q", sent, want)
	}
	if client.SpanID == last.SpanID {
		t.Error("both chats are one span")
	}

	// The images: which of them came first is nobody's promise.
	_, wait, client := e.tree(2, "POST /prompt")
	_, otherWait, otherClient := e.tree(3, "POST /prompt")
	if client.StartTime > otherClient.StartTime {
		wait, client, otherWait, otherClient = otherWait, otherClient, wait, client
	}
	for _, s := range []seenSpan{client, otherClient} {
		// A prompt is answered at once; its job takes 17 s and more, at twenty times the speed.
		if took := time.Duration(s.Duration) * time.Microsecond; took < 500*time.Millisecond {
			t.Errorf("an image's CLIENT span lasts %v, want as long as its job", took)
		}
	}
	if otherClient.StartTime < client.end() {
		t.Errorf("the second image runs from %d, want from the first one's end at %d", otherClient.StartTime, client.end())
	}
	if got := otherWait.events(); !slices.Contains(got, "queued") || !slices.Contains(got, "blocked") || got[len(got)-1] != "granted" {
		t.Errorf("the second image's wait has the events %v, want queued, blocked and granted", got)
	}
	if unload := e.order("admission.unload vllm", wait); unload.end() > client.StartTime || unload.tag("anteroom.freed") == "0" {
		t.Errorf("the unload ends at %d with %s bytes freed, want before the image runs at %d, and some", unload.end(),
			unload.tag("anteroom.freed"), client.StartTime)
	}
	_, wait, client = e.tree(4, "POST /v1/chat/completions")
	e.order("admission.unload comfyui", wait)
	if wake := e.order("admission.wake vllm", wait); wake.end() > client.StartTime {
		t.Errorf("the wake ends at %d, want before the chat runs at %d", wake.end(), client.StartTime)
	}

	for _, name := range []string{"http.server.request.duration", "anteroom.request.wait", "anteroom.vram.booked", "anteroom.gpu.swaps",
		"gen_ai.server.request.duration"} {
		within(t, time.Minute, "the Collector has passed on "+name, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.metrics[name]
		})
	}
}
