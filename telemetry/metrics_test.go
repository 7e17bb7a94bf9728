package telemetry

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/memory"
)

var update = flag.Bool("update", false, "write testdata/names.golden anew")

// scrape gives what /metrics answers, as text and read.
func scrape(t *testing.T, telemetry *Telemetry) (string, map[string]*dto.MetricFamily) {
	t.Helper()
	answer := httptest.NewRecorder()
	telemetry.MetricsHandler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("/metrics answered %d: %s", answer.Code, answer.Body)
	}
	text := answer.Body.String()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("/metrics cannot be read: %v", err)
	}
	return text, families
}

// series writes a family as name{label=value ...} → value; a histogram's value
// is how often it was recorded.
func series(f *dto.MetricFamily) map[string]float64 {
	found := map[string]float64{}
	for _, m := range f.GetMetric() {
		var by []string
		for _, l := range m.GetLabel() {
			by = append(by, l.GetName()+"="+l.GetValue())
		}
		v := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		found[strings.Join(by, " ")] = v
	}
	return found
}

// box is a controller's snapshot in which no two numbers are the same, so that none
// can stand in another's place.
func box() Sources {
	return Sources{
		Admission: func() admission.Snapshot {
			return admission.Snapshot{At: time.Unix(100, 0),
				GPUs: []admission.GPUState{
					{GPUState: memory.GPUState{Name: "gpu0", Capacity: 48, Reserve: 2, Booked: 29, Unmanaged: 3, Unattributed: 5, Available: 9,
						Observed: 38, Total: 47, Utilization: new(0.37), Device: "GPU-a"}, ObservedAt: time.Unix(96, 0)},
					{GPUState: memory.GPUState{Name: "gpu1", Capacity: 80, Reserve: 4, Booked: 0, Unmanaged: 1, Available: 75, Observed: -1,
						Err: "no driver", Stale: true, Lost: true}},
				},
				Classes: []admission.ClassState{
					{Name: "heavy", Slots: 1, Running: 0, Queued: 5, QueueLimit: 10, QueuedBytes: 4096, OldestWait: 90 * time.Second, Paused: true,
						Counts: admission.Counts{Backfilled: 11, Overtook: 12, Strict: 13}},
					{Name: "light", Slots: 16, Running: 7, Queued: 0, QueueLimit: 64},
				},
				Backends: []admission.BackendState{{Name: "flux", Available: true, Running: 6, Queued: 8, Slots: 3,
					Replicas: []admission.ReplicaState{{Residency: "loaded"}, {Residency: "asleep"}},
					Accounts: []admission.AccountState{{GPU: "gpu0", Low: 20, High: 26, Retained: 17, Booked: 21},
						{GPU: "gpu0", Low: 1, High: 2, Retained: 4}, {GPU: "gpu1", High: 7}},
				}, {Name: "vqa"}, {Name: "old", Available: true, Draining: true}},
			}
		},
		Breakers: func() map[string][]string {
			return map[string][]string{"flux": {"closed", "open"}, "vqa": {"open"}, "old": {"half-open"}}
		},
		Memory: func() []RouteMemory { return []RouteMemory{{Route: "images", Declared: 31, P95: 29, Most: 30}} },
	}
}

// busy is a set-up that has seen one of everything.
func busy(t *testing.T) *Telemetry {
	telemetry, _, _ := recorded(t, usual())
	telemetry.Observe(box())
	run(telemetry, generate())
	refuse(telemetry, generate(), 429, &admission.Rejection{Code: admission.CodeQueueFull, Position: -1})
	refuse(telemetry, generate(), 503, &admission.Rejection{Code: admission.CodeQueueTimeout, Waited: time.Minute})
	refuse(telemetry, generate(), 499, &admission.Rejection{Code: admission.CodeClientCancelled, Waited: time.Second})
	telemetry.Reloaded(true)
	telemetry.Reloaded(false)
	return telemetry
}

func TestMetricsSayWhatHappened(t *testing.T) {
	telemetry := busy(t)
	telemetry.spansLost.Add(12)
	_, families := scrape(t, telemetry)
	post := "http_request_method=POST http_response_status_code=%d http_route=" + pattern + " url_scheme=http"
	for name, want := range map[string]map[string]float64{
		"http_server_request_duration_seconds": {fmt.Sprintf(post, 200): 1, fmt.Sprintf(post, 429): 1, "error_type=queue_timeout " +
			fmt.Sprintf(post, 503): 1, fmt.Sprintf(post, 499): 1},
		"anteroom_request_wait_seconds": {"anteroom_class=heavy anteroom_result=ok": 1, "anteroom_class=heavy anteroom_result=refused": 2,
			"anteroom_class=heavy anteroom_result=cancelled": 1},
		"anteroom_request_execution_seconds": {"anteroom_backend=flux anteroom_class=heavy anteroom_result=ok": 1},
		"anteroom_requests_total": {"anteroom_class=heavy anteroom_result=ok anteroom_route=images anteroom_tenant= gen_ai_request_model=": 1,
			"anteroom_class=heavy anteroom_result=refused anteroom_route=images anteroom_tenant= gen_ai_request_model=":   2,
			"anteroom_class=heavy anteroom_result=cancelled anteroom_route=images anteroom_tenant= gen_ai_request_model=": 1},
		"anteroom_refusals_total":            {"anteroom_class=heavy anteroom_code=queue_full": 1, "anteroom_class=heavy anteroom_code=queue_timeout": 1},
		"anteroom_cancellations_total":       {"anteroom_class=heavy anteroom_phase=wait": 1},
		"anteroom_queue_length":              {"anteroom_class=heavy": 5, "anteroom_class=light": 0},
		"anteroom_queue_limit":               {"anteroom_class=heavy": 10, "anteroom_class=light": 64},
		"anteroom_queue_bytes":               {"anteroom_class=heavy": 4096, "anteroom_class=light": 0},
		"anteroom_queue_oldest_seconds":      {"anteroom_class=heavy": 90, "anteroom_class=light": 0},
		"anteroom_slots":                     {"anteroom_class=heavy": 1, "anteroom_class=light": 16},
		"anteroom_running":                   {"anteroom_class=heavy": 0, "anteroom_class=light": 7},
		"anteroom_paused":                    {"anteroom_class=heavy": 1, "anteroom_class=light": 0},
		"anteroom_vram_capacity_bytes":       {"anteroom_gpu=gpu0": 48, "anteroom_gpu=gpu1": 80},
		"anteroom_vram_reserve_bytes":        {"anteroom_gpu=gpu0": 2, "anteroom_gpu=gpu1": 4},
		"anteroom_vram_booked_bytes":         {"anteroom_gpu=gpu0": 29, "anteroom_gpu=gpu1": 0},
		"anteroom_vram_unmanaged_bytes":      {"anteroom_gpu=gpu0": 3, "anteroom_gpu=gpu1": 1},
		"anteroom_vram_unattributed_bytes":   {"anteroom_gpu=gpu0": 5, "anteroom_gpu=gpu1": 0},
		"anteroom_vram_available_bytes":      {"anteroom_gpu=gpu0": 9, "anteroom_gpu=gpu1": 75},
		"anteroom_backend_low_bytes":         {"anteroom_backend=flux anteroom_gpu=gpu0": 21, "anteroom_backend=flux anteroom_gpu=gpu1": 0},
		"anteroom_backend_high_bytes":        {"anteroom_backend=flux anteroom_gpu=gpu0": 28, "anteroom_backend=flux anteroom_gpu=gpu1": 7},
		"anteroom_backend_retained_bytes":    {"anteroom_backend=flux anteroom_gpu=gpu0": 21, "anteroom_backend=flux anteroom_gpu=gpu1": 0},
		"anteroom_backend_asleep":            {"anteroom_backend=flux": 1, "anteroom_backend=vqa": 0, "anteroom_backend=old": 0},
		"anteroom_vram_observed_bytes":       {"anteroom_gpu=gpu0": 38}, // gpu1 was never read: no value is not zero
		"anteroom_route_vram_declared_bytes": {"anteroom_route=images": 31},
		"anteroom_route_vram_seen_bytes":     {"anteroom_quantile=0.95 anteroom_route=images": 29, "anteroom_quantile=1 anteroom_route=images": 30},
		"anteroom_gpu_state": {
			"anteroom_gpu=gpu0 anteroom_state=readable": 1, "anteroom_gpu=gpu1 anteroom_state=readable": 0,
			"anteroom_gpu=gpu0 anteroom_state=stale": 0, "anteroom_gpu=gpu1 anteroom_state=stale": 1,
			"anteroom_gpu=gpu0 anteroom_state=lost": 0, "anteroom_gpu=gpu1 anteroom_state=lost": 1},
		"anteroom_backend_available":       {"anteroom_backend=flux": 1, "anteroom_backend=vqa": 0, "anteroom_backend=old": 0},
		"anteroom_breaker_state":           breakers(map[string]string{"flux 0": "closed", "flux 1": "open", "vqa 0": "open", "old 0": "half-open"}),
		"anteroom_backfills_total":         {"anteroom_class=heavy": 11, "anteroom_class=light": 0},
		"anteroom_overtakings_total":       {"anteroom_class=heavy": 12, "anteroom_class=light": 0},
		"anteroom_strict_heads_total":      {"anteroom_class=heavy": 13, "anteroom_class=light": 0},
		"anteroom_backend_running":         {"anteroom_backend=flux": 6, "anteroom_backend=vqa": 0, "anteroom_backend=old": 0},
		"anteroom_backend_queued":          {"anteroom_backend=flux": 8, "anteroom_backend=vqa": 0, "anteroom_backend=old": 0},
		"anteroom_backend_slots":           {"anteroom_backend=flux": 3, "anteroom_backend=vqa": 0, "anteroom_backend=old": 0},
		"anteroom_backend_booked_bytes":    {"anteroom_backend=flux anteroom_gpu=gpu0": 21, "anteroom_backend=flux anteroom_gpu=gpu1": 0},
		"anteroom_gpu_reading_age_seconds": {"anteroom_gpu=gpu0": 4}, // gpu1 was never read
		"hw_gpu_memory_limit_bytes":        {"hw_id=GPU-a hw_name=gpu0 hw_type=gpu": 47},
		"hw_gpu_utilization_ratio":         {"hw_id=GPU-a hw_name=gpu0 hw_type=gpu": 0.37},
		"hw_gpu_memory_usage_bytes":        {"hw_id=GPU-a hw_name=gpu0 hw_type=gpu": 38},
		"anteroom_config_reloads_total":    {"anteroom_result=ok": 1, "anteroom_result=failed": 1},
		"anteroom_config_last_reload":      {"": 0},
		"anteroom_spans_dropped_total":     {"": 12},
	} {
		if families[name] == nil {
			t.Errorf("/metrics has no %s", name)
			continue
		}
		if got := series(families[name]); !maps.Equal(got, want) {
			t.Errorf("%s is\n%v, want\n%v", name, got, want)
		}
	}
}

// An image takes twenty seconds, and the HTTP conventions' buckets end at ten.
func TestDurationsReachTenMinutes(t *testing.T) {
	_, families := scrape(t, busy(t))
	for _, name := range []string{"http_server_request_duration_seconds", "anteroom_request_wait_seconds", "anteroom_request_execution_seconds"} {
		for _, m := range families[name].GetMetric() {
			var bounds []float64
			for _, b := range m.GetHistogram().GetBucket() {
				bounds = append(bounds, b.GetUpperBound())
			}
			if !slices.Contains(bounds, 600) || !slices.Contains(bounds, 20) || !slices.Contains(bounds, .005) {
				t.Errorf("%s has the bounds %v, want them from 5 ms over 20 s to 600 s", name, bounds)
			}
		}
	}
	wait := families["anteroom_request_wait_seconds"]
	for _, m := range wait.GetMetric() {
		if m.GetLabel()[1].GetValue() == ResultOK && m.GetHistogram().GetSampleSum() != 2 {
			t.Errorf("the wait that was granted took %v s, want 2", m.GetHistogram().GetSampleSum())
		}
	}
}

// Before the controller is there, and after it is, a scrape works.
func TestTheGaugesWaitForTheirSources(t *testing.T) {
	noOTEL(t)
	telemetry := start(t, usual(), &logs{})
	if _, families := scrape(t, telemetry); families["anteroom_queue_length"] != nil || families["anteroom_config_last_reload"] == nil {
		t.Error("without sources want the gauges that need none, and no other")
	}
	telemetry.Observe(Sources{Admission: box().Admission})
	if _, families := scrape(t, telemetry); families["anteroom_queue_length"] == nil || families["anteroom_breaker_state"] != nil {
		t.Error("with a controller alone want its gauges, and no breaker's")
	}
}

func TestMetricsCanBeTurnedOff(t *testing.T) {
	noOTEL(t)
	config := usual()
	config.Metrics.Prometheus = false
	telemetry := start(t, config, &logs{})
	if telemetry.MetricsHandler() != nil {
		t.Error("/metrics is served, want it off")
	}
	run(telemetry, generate())
}

// Whatever clients send, the series stay few: labels come from small sets that
// the configuration knows.
func TestNoClientCanMakeSeries(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	telemetry.Observe(box())
	run(telemetry, generate())
	telemetry.Begin(httptest.NewRequest("BREW", "http://box/", nil), "").End(time.Now(), Ending{Status: 404, RPC: -1, Code: "no_route"})
	before, _ := scrape(t, telemetry)
	for i := range 5000 {
		r := httptest.NewRequest("POST", fmt.Sprintf("http://host-%d/v1/images/%d?q=%d", i, i, i), nil)
		r.Header.Set("X-Tenant", fmt.Sprint("tenant-", i))
		r.Header.Set("User-Agent", fmt.Sprint("agent-", i))
		r.Header.Set("Baggage", fmt.Sprint("user=", i))
		run(telemetry, r)
		r = httptest.NewRequest(fmt.Sprint("BREW", i), fmt.Sprintf("http://box/%d", i), nil)
		telemetry.Begin(r, "").End(time.Now(), Ending{Status: 404, RPC: -1, Code: "no_route"})
	}
	after, _ := scrape(t, telemetry)
	if a, b := anteroomLines(before), anteroomLines(after); len(a) != len(b) {
		t.Errorf("10,000 requests made %d lines of %d:\n%s", len(b), len(a), strings.Join(b, "\n"))
	}
	if n := len(telemetry.metrics.sets); n > 16 {
		t.Errorf("%d label sets are kept, want a handful", n)
	}
}

func anteroomLines(text string) (found []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "anteroom_") || strings.HasPrefix(line, "http_") {
			found = append(found, line)
		}
	}
	return found
}

// A slow request's bucket leads to its trace.
func TestExemplarsNameTheTrace(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	q, _ := run(telemetry, generate())
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	answer := httptest.NewRecorder()
	telemetry.MetricsHandler().ServeHTTP(answer, r)
	want := fmt.Sprintf(`trace_id="%s"`, q.SpanContext().TraceID())
	for _, name := range []string{"http_server_request_duration_seconds", "anteroom_request_wait_seconds", "anteroom_request_execution_seconds"} {
		found := false
		for line := range strings.Lines(answer.Body.String()) {
			found = found || strings.HasPrefix(line, name+"_bucket") && strings.Contains(line, want)
		}
		if !found {
			t.Errorf("no bucket of %s has the exemplar %s", name, want)
		}
	}
}

func TestPromtoolFindsNothingWrong(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: ", err)
	}
	text, _ := scrape(t, busy(t))
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if said, err := check.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("promtool: %v\n%s", err, said)
	}
}

// The names are a contract: what is written here and was released stays.
func TestTheNamesAreTheContract(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	telemetry.Observe(box())
	run(telemetry, generate())
	refuse(telemetry, generate(), 503, &admission.Rejection{Code: admission.CodeQueueTimeout, Reason: admission.ReasonResources, Waited: time.Minute})
	q := telemetry.Begin(generate(), pattern)
	q.Execute(time.Now(), flux, pattern, http.Header{})
	q.Executed(time.Now(), Execution{Status: 500, RPC: -1})
	q.End(time.Now(), Ending{Status: 500, RPC: -1})
	tunnel := telemetry.Begin(httptest.NewRequest("BREW", "http://box/ws", nil), pattern)
	tunnel.Classify("images", "heavy", "flux", 0)
	tunnel.Identify("acme", "flux-1")
	tunnel.Received(time.Now().Add(time.Second))
	tunnel.Wait(time.Now())
	tunnel.Admitted(time.Now(), 8, 0, 0, 0, nil)
	for range 2 { // the second time it is sent again
		tunnel.Execute(time.Now(), flux, pattern, http.Header{})
		tunnel.Executed(time.Now(), Execution{Status: 101, RPC: 0, GPUs: 1, Estimate: time.Second})
	}
	tunnel.End(time.Now(), Ending{Status: 101, RPC: -1, FirstByte: time.Now(), Opened: time.Now()})
	chat := telemetry.Begin(httptest.NewRequest("POST", "http://box/v1/chat/completions", nil), "/v1/chat/completions")
	chat.Provide("vllm")
	chat.Execute(time.Now(), flux, "/v1/chat/completions", http.Header{})
	chat.Executed(time.Now(), Execution{Status: 200, RPC: -1, Model: &ModelUse{Input: 11, Output: 5, Streamed: true}})
	chat.End(time.Now(), Ending{Status: 200, RPC: -1, FirstByte: time.Now()})
	left := telemetry.Begin(generate(), pattern)
	left.End(time.Now(), Ending{Status: 499, RPC: -1, Code: "client_cancelled"})
	telemetry.Reloaded(true)
	full := telemetry.Begin(generate(), pattern)
	full.Classify("images", "heavy", "flux", 0)
	full.OutOfMemory(OOMRetried)
	telemetry.Ordered(SpanUnload, time.Now(), "flux", 7, nil).End(time.Now(),
		Done{Asked: admission.GiB, GPUs: []string{"gpu0"}, Failed: true, Note: "200, and nothing came back"})
	telemetry.Ordered(SpanWake, time.Now(), "flux", 0, nil).End(time.Now(), Done{Asked: admission.GiB})
	telemetry.Malformed(431, "10.0.0.1:99")

	var got bytes.Buffer
	_, families := scrape(t, telemetry)
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") {
			continue // not ours
		}
		labels := map[string]bool{}
		for _, m := range families[name].GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		if name == "target_info" {
			labels = nil // the box's
		}
		line := []string{"metric", strings.ToLower(families[name].GetType().String()), name}
		fmt.Fprintln(&got, strings.Join(append(line, slices.Sorted(maps.Keys(labels))...), " "))
	}
	telemetry.tracer.out.flush(t.Context())
	found := map[string]bool{}
	for _, s := range memory.GetSpans() {
		for _, a := range s.Attributes {
			found[fmt.Sprintf("span %s %q: %s", s.SpanKind, s.Name, a.Key)] = true
		}
		for _, e := range s.Events {
			found[fmt.Sprintf("span %s %q: event %s", s.SpanKind, s.Name, e.Name)] = true
			for _, a := range e.Attributes {
				found[fmt.Sprintf("span %s %q: event %s: %s", s.SpanKind, s.Name, e.Name, a.Key)] = true
			}
		}
	}
	for _, line := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintln(&got, line)
	}

	const golden = "testdata/names.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the names are\n%s\nwant\n%s\n(-update writes them, and breaks every dashboard that used the old ones)", &got, want)
	}
}

// A median is read off the bounds around it: the first image model of the README runs
// for 17 to 20 s, its caption model for 1 to 2 s.
func TestAMedianIsCloseToTheTruth(t *testing.T) {
	for name, c := range map[string]struct{ from, to time.Duration }{
		"an image":   {17 * time.Second, 20 * time.Second},
		"a caption":  {time.Second, 2 * time.Second},
		"an answer":  {3 * time.Second, 8 * time.Second},
		"a long one": {24 * time.Second, 28 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, _, _ := recorded(t, usual())
			const n = 200
			for i := range n {
				q := telemetry.Begin(generate(), pattern)
				at := time.Now()
				q.Execute(at, flux, pattern, http.Header{})
				q.Executed(at.Add(c.from+(c.to-c.from)*time.Duration(i)/(n-1)), Execution{Status: 200, RPC: -1})
			}
			_, families := scrape(t, telemetry)
			got := quantile(families["anteroom_request_execution_seconds"].GetMetric()[0].GetHistogram(), 0.5)
			if want := (c.from + c.to).Seconds() / 2; got < want*0.9 || got > want*1.1 {
				t.Errorf("the median reads %.2f s, want %.2f within a tenth", got, want)
			}
		})
	}
}

// quantile is what Prometheus makes of a histogram: a straight line between the bounds.
func quantile(h *dto.Histogram, q float64) float64 {
	rank, below, from := q*float64(h.GetSampleCount()), 0.0, 0.0
	for _, b := range h.GetBucket() {
		if n := float64(b.GetCumulativeCount()); n >= rank {
			return from + (b.GetUpperBound()-from)*(rank-below)/(n-below)
		} else {
			below, from = n, b.GetUpperBound()
		}
	}
	return from
}

// What comes from outside stays within 2,000 series, however much of it is different.
func TestSeriesStayFew(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	telemetry.Observe(box())
	telemetry.Bound(Bounds{Tenants: map[string]bool{"acme": true}, Models: map[string]bool{"flux-1": true}})
	for i := range 10_000 {
		r := httptest.NewRequest("POST", fmt.Sprintf("http://host-%d/v1/images/%d?q=%d", i, i, i), nil)
		status := 200 + i%400
		q := telemetry.Begin(r, pattern)
		q.Classify("images", "heavy", "flux", admission.GiB)
		q.Identify(fmt.Sprint("tenant-", i), fmt.Sprint("model-", i))
		at := time.Now()
		q.Wait(at)
		q.Admitted(at, uint64(i), 0, 0, 0, nil)
		q.Execute(at, flux, r.URL.Path, http.Header{})
		rpc := -1
		if status == 200 {
			rpc = i / 400
		}
		q.Executed(at, Execution{Status: status, RPC: rpc, GPUs: 1})
		q.End(at, Ending{Status: status, RPC: -1})
	}
	text, _ := scrape(t, telemetry)
	n := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	t.Logf("%d series", n)
	if n > 2000 {
		t.Errorf("%d series, want 2,000 at the most", n)
	}
	for _, want := range []string{`anteroom_tenant="other"`, `gen_ai_request_model="other"`} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

// A card gives to one what another lacks: how long each class runs beside each other
// one, and alone.
func TestAnExecutionIsToldByWhatRanBesideIt(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	at := time.Now()
	begin := func(class string) *Request {
		q := telemetry.Begin(generate(), pattern)
		q.Classify("route", class, "flux", 0)
		q.Admitted(at, 1, 0, 0, 0, nil)
		q.Execute(at, flux, pattern, http.Header{})
		return q
	}
	end := func(q *Request, seconds int) {
		q.Executed(at.Add(time.Duration(seconds)*time.Second), Execution{Status: 200, RPC: -1})
	}
	end(begin("heavy"), 10) // alone
	heavy := begin("heavy") // beside two lights, of which one begins later
	first := begin("light")
	end(first, 2)
	second := begin("light")
	end(heavy, 20)
	third := begin("light")
	end(second, 3)
	end(third, 4) // beside a light alone
	failed := begin("heavy")
	failed.Executed(at, Execution{Code: "backend_protocol", RPC: -1}) // says nothing
	_, families := scrape(t, telemetry)
	for name, want := range map[string]map[string]float64{
		"anteroom_execution_runs_total": {"anteroom_beside= anteroom_class=heavy": 1, "anteroom_beside=light anteroom_class=heavy": 1,
			"anteroom_beside=heavy anteroom_class=light": 2, "anteroom_beside=light anteroom_class=light": 2},
		"anteroom_execution_beside_seconds_total": {"anteroom_beside= anteroom_class=heavy": 10, "anteroom_beside=light anteroom_class=heavy": 20,
			"anteroom_beside=heavy anteroom_class=light": 5, "anteroom_beside=light anteroom_class=light": 7},
	} {
		if got := series(families[name]); !maps.Equal(got, want) {
			t.Errorf("%s is\n%v, want\n%v", name, got, want)
		}
	}
}

// What a class, a tenant and a route have used of the card.
func TestTheBillIsByClassRouteAndTenant(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	telemetry.Bound(Bounds{Tenants: map[string]bool{"acme": true}})
	at := time.Now()
	for _, tenant := range []string{"acme", "unknown", "unknown too", ""} {
		q := telemetry.Begin(generate(), pattern)
		q.Classify("images", "heavy", "flux", 34*admission.GiB)
		q.Identify(tenant, "")
		q.Admitted(at, 1, 0, 0, 0, nil)
		q.Execute(at, flux, pattern, http.Header{})
		q.Executed(at.Add(10*time.Second), Execution{Status: 200, RPC: -1, GPUs: 2})
	}
	_, families := scrape(t, telemetry)
	const by = "anteroom_class=heavy anteroom_route=images anteroom_tenant="
	for name, each := range map[string]float64{"anteroom_gpu_time_seconds_total": 20, "anteroom_gpu_byte_seconds_total": 680 << 30} {
		if families[name] == nil {
			t.Errorf("there is no %s: %v", name, slices.Sorted(maps.Keys(families)))
			continue
		}
		if got, want := series(families[name]), map[string]float64{by + "acme": each, by + "other": 2 * each, by: each}; !maps.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestEstimatesAreHeldAgainstTheTruth(t *testing.T) {
	telemetry, _, _ := recorded(t, usual())
	at := time.Now()
	q := telemetry.Begin(generate(), pattern)
	q.Classify("images", "heavy", "flux", 0)
	q.Wait(at)
	q.Admitted(at.Add(3*time.Second), 1, 0, 0, 3*time.Second, stayed) // that expected 1.5 s
	q.Execute(at, flux, pattern, http.Header{})
	q.Executed(at.Add(9*time.Second), Execution{Status: 200, RPC: -1, Estimate: 18 * time.Second})
	_, families := scrape(t, telemetry)
	sums := map[string]float64{}
	for _, m := range families["anteroom_estimate_ratio"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "anteroom_of" {
				sums[l.GetValue()] = m.GetHistogram().GetSampleSum()
			}
		}
	}
	if want := map[string]float64{"execution": 0.5, "wait": 2}; !maps.Equal(sums, want) {
		t.Errorf("the ratios are %v, want %v", sums, want)
	}
}

// Native histograms come in protobuf, with bounds of their own.
func TestDurationsCanBeNativeHistograms(t *testing.T) {
	noOTEL(t)
	config := usual()
	config.Metrics.NativeHistograms = true
	telemetry := start(t, config, &logs{})
	run(telemetry, generate())
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	answer := httptest.NewRecorder()
	telemetry.MetricsHandler().ServeHTTP(answer, r)
	decoder := expfmt.NewDecoder(answer.Body, expfmt.ResponseFormat(answer.Header()))
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); err != nil {
			t.Fatalf("there is no histogram of executions: %v", err)
		}
		if f.GetName() != "anteroom_request_execution_seconds" {
			continue
		}
		if h := f.GetMetric()[0].GetHistogram(); len(h.GetPositiveSpan()) == 0 || h.GetSampleCount() != 1 {
			t.Errorf("the histogram is %v, want a native one", h)
		}
		return
	}
}

// breakers are the figures of the breaker of each replica: 1 for the state that it is in.
func breakers(in map[string]string) map[string]float64 {
	figures := map[string]float64{}
	for replica, now := range in {
		name, number, _ := strings.Cut(replica, " ")
		for _, state := range []string{"closed", "half-open", "open"} {
			figures[fmt.Sprintf("anteroom_backend=%s anteroom_replica=%s anteroom_state=%s", name, number, state)] = map[bool]float64{true: 1}[state == now]
		}
	}
	return figures
}
