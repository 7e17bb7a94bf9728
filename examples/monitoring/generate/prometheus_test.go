//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/wait"
)

// These tests need promtool, prometheus and a built anteroom: make e2e-telemetry.

func TestTheRulesPassTheirTests(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}} {
		c := exec.CommandContext(t.Context(), "promtool", args...)
		c.Dir = ".."
		if said, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}

// free is an address that nothing listens on.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, name, args...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); c.Wait() })
}

func get(address string) (string, bool) {
	res, err := http.Get(address)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err == nil && res.StatusCode == http.StatusOK
}

// mayBeEmpty are panels whose metrics a short run does not have: nothing fails, leaves or
// is unloaded.
var mayBeEmpty = map[string]bool{"Refused": true, "Failed": true, "Clients that left": true, "Contention": true, "Unloads": true,
	"Loads": true, "Declared and seen": true, "Estimates": true}

// TestEveryQueryRunsAgainstARealPrometheus that has read a proxy with traffic.
func TestEveryQueryRunsAgainstARealPrometheus(t *testing.T) {
	anteroom := os.Getenv("ANTEROOM")
	dir, model, public, admin, prometheus := t.TempDir(), free(t), free(t), free(t), free(t)
	config := filepath.Join(dir, "anteroom.yaml")
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A card as Linux shows one of AMD's, of which a twentieth is in use.
	device := filepath.Join(dir, "card0", "device")
	if err := os.MkdirAll(device, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"mem_info_vram_total": "51539607552", "mem_info_vram_used": "2576980377", "gpu_busy_percent": "37"} {
		write(filepath.Join(device, file), text)
	}
	write(config, fmt.Sprintf(`
listen: %s
admin: {listen: %s}
gpus: {gpu0: {source: amdgpu, device: %q}}
classes: {heavy: {slots: 1, vram: 34GiB, estimate: 1s}, light: {slots: 8, vram: 1GiB, estimate: 100ms}}
backends: {model: {url: "http://%s", gpu: gpu0}}
routes:
  - {name: images, match: {path: /heavy}, class: heavy, backend: model}
  - {name: captions, match: {path: /light}, class: light, backend: model}
  - {name: chat, match: {path: /v1/chat/completions}, class: light, backend: model}
state: {file: ""}
telemetry: {traces: {exporter: otlp, endpoint: "http://%s"}, log: {level: error}}
`, public, admin, filepath.Join(dir, "card0"), model, free(t))) // no collector is there: the spans are made all the same
	engine := &http.Server{Addr: model, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(20 * time.Millisecond)
		if r.URL.Path == "/v1/chat/completions" {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":5}}\n\ndata: [DONE]\n\n")
			return
		}
		io.WriteString(w, "done")
	})}
	go engine.ListenAndServe()
	t.Cleanup(func() { engine.Close() })
	start(t, anteroom, "serve", "-c", config)
	rules, err := filepath.Abs("../rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs: [{job_name: anteroom, static_configs: [{targets: [%q]}]}]
`, rules, admin))
	start(t, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prometheus, "--enable-feature=exemplar-storage", "--log.level=error")
	wait.Until(t, "the proxy is ready", func() bool { _, ok := get("http://" + admin + "/readyz"); return ok })
	wait.Until(t, "Prometheus is ready", func() bool { _, ok := get("http://" + prometheus + "/-/ready"); return ok })
	traffic, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range 4 {
		go func() {
			for traffic.Err() == nil {
				path := [...]string{"/heavy", "/v1/chat/completions", "/light", "/light"}[i]
				if res, err := http.Post("http://"+public+path, "application/json", strings.NewReader("{}")); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		}()
	}
	ask := func(expr string) (samples int, problem string) {
		expr = strings.NewReplacer("$class", ".*", "$gpu", ".*", "$__rate_interval", "5s", "$__range", "10s").Replace(expr)
		text, _ := get("http://" + prometheus + "/api/v1/query?" + url.Values{"query": {expr}}.Encode())
		var answer struct {
			Status, Error string
			Data          struct{ Result []json.RawMessage }
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Status != "success" {
			return 0, fmt.Sprintf("%s: %s %v %s", expr, answer.Error, err, text)
		}
		return len(answer.Data.Result), ""
	}
	wait.Until(t, "there are rates", func() bool {
		n, _ := ask(`sum by (anteroom_class) (rate(anteroom_requests_total[5s])) > 0`)
		return n == 2
	})
	for _, g := range groups {
		for _, p := range g.panels {
			for _, q := range p.queries {
				samples, problem := ask(q.expr)
				if problem != "" {
					t.Errorf("%s: %s: %s", g.title, p.title, problem)
				} else if samples == 0 && !mayBeEmpty[p.title] {
					t.Errorf("%s: %s: nothing comes of %s", g.title, p.title, q.expr)
				}
			}
		}
	}
	text, _ := get("http://" + prometheus + "/api/v1/rules")
	if strings.Count(text, `"health":"ok"`) != strings.Count(string(read(t, "examples/monitoring/rules.yml")), "expr: ") {
		t.Errorf("not all rules are healthy: %s", text)
	}
	exemplars, _ := get("http://" + prometheus + "/api/v1/query_exemplars?" + url.Values{"query": {"anteroom_request_execution_seconds_bucket"},
		"start": {fmt.Sprint(time.Now().Add(-time.Minute).Unix())}, "end": {fmt.Sprint(time.Now().Unix())}}.Encode())
	if !strings.Contains(exemplars, "trace_id") {
		t.Errorf("the executions have no exemplars: %s", exemplars)
	}
}
