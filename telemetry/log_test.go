package telemetry

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// lines are the log's, read.
func lines(t *testing.T, out *logs) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out.String()) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q is not JSON: %v", line, err)
		}
		found = append(found, m)
	}
	return found
}

func TestARequestIsOneLine(t *testing.T) {
	telemetry, _, out := recorded(t, usual())
	q, _ := run(telemetry, generate())
	all := lines(t, out)
	if len(all) != 1 {
		t.Fatalf("got %d lines, want 1:\n%s", len(all), out)
	}
	line := all[0]
	for _, moving := range []string{"time", "total_ms"} {
		if line[moving] == nil {
			t.Errorf("the line has no %s", moving)
		}
		delete(line, moving)
	}
	id := q.SpanContext()
	expect(t, "the line", line, map[string]any{
		"level": "INFO", "msg": "request", "method": "POST", "route": "images", "class": "heavy", "backend": "flux", "status": 200.0,
		"path": pattern, "result": ResultOK, "grant": 7.0, "position": 3.0, "reason": "resources", "wait_ms": 2000.0, "execute_ms": 18000.0,
		"vram": float64(34 << 30), "bytes_in": 17.0, "bytes_out": 4096.0,
		"trace_id": id.TraceID().String(), "span_id": id.SpanID().String(),
	})
}

// The id of a log line is the one in X-Anteroom-Request-Id, with or without
// tracing.
func TestALineHasItsTraceWithTracingOff(t *testing.T) {
	for name, headers := range map[string][]string{"without a caller's trace": {}, "in a caller's trace": {"Traceparent", sampled}} {
		t.Run(name, func(t *testing.T) {
			noOTEL(t)
			out := &logs{}
			q, _ := run(start(t, usual(), out), from(headers...))
			line := lines(t, out)[0]
			id := q.SpanContext()
			if line["trace_id"] != id.TraceID().String() || line["span_id"] != id.SpanID().String() || !id.IsValid() {
				t.Errorf("the line has %v-%v, want %s-%s", line["trace_id"], line["span_id"], id.TraceID(), id.SpanID())
			}
			if len(headers) > 0 && line["trace_id"] != callersTrace {
				t.Errorf("the line is in trace %v, want the caller's", line["trace_id"])
			}
		})
	}
}

func TestRefusalsAreLoggedByWhoseFaultTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		code   admission.Code
		level  string
	}{
		"a client's":   {422, admission.CodeNeverFits, "INFO"},
		"full":         {429, admission.CodeQueueFull, "INFO"},
		"a hang-up":    {499, admission.CodeClientCancelled, "INFO"},
		"the server's": {503, admission.CodeQueueTimeout, "WARN"},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, _, out := recorded(t, usual())
			refuse(telemetry, generate(), c.status, &admission.Rejection{Code: c.code, Waited: 1500 * time.Microsecond})
			line := lines(t, out)[0]
			if line["level"] != c.level || line["code"] != string(c.code) || line["status"] != float64(c.status) || line["wait_ms"] != 1.5 {
				t.Errorf("the line is %v, want %s with code %s, status %d, wait_ms 1.5", line, c.level, c.code, c.status)
			}
			if _, has := line["execute_ms"]; has {
				t.Errorf("the line is %v, want no execute_ms: it did not run", line)
			}
		})
	}
}

// What a client writes into a request does not come into the log: neither secrets and
// prompts nor lines of its own. Its path does, on the request's one line.
func TestNoSecretOfAClientIsLogged(t *testing.T) {
	const forged = "x\n" + `{"level":"ERROR","msg":"forged"}` + "\nmsg=forged"
	words := map[string]string{
		"the body": "a cat in the rain", "the query": "querysecret", "a header": "headersecret", "a tenant": "acme-key",
		"the method": "SHOUT", "a forged line": "forged",
	}
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			config := usual()
			config.Log = LogConfig{Format: format, Level: "debug"}
			telemetry, _, out := recorded(t, config)
			r := generate()
			r.Method = words["the method"] + forged
			r.URL.Path, r.URL.RawQuery = "/pathword/x\n{\"level\":\"ERROR\"}", "key=querysecret&"+forged
			r.Host, r.RemoteAddr = forged, forged
			for _, name := range []string{"Authorization", "Cookie", "X-Tenant", "User-Agent", "Traceparent", "Tracestate", "Baggage", "X-Request-Id"} {
				r.Header.Set(name, "headersecret acme-key "+forged)
			}
			run(telemetry, r)
			text := out.String()
			if n := strings.Count(text, "\n"); n != 1 {
				t.Errorf("got %d lines, want 1:\n%s", n, text)
			}
			if !strings.Contains(text, "/pathword/x%0A") {
				t.Errorf("the path is not in the log:\n%s", text)
			}
			for what, word := range words {
				if strings.Contains(text, word) {
					t.Errorf("%s is in the log:\n%s", what, text)
				}
			}
		})
	}
}

// What OpenTelemetry's parts say may quote anything.
func TestTroubleIsOneBriefLine(t *testing.T) {
	out := &logs{}
	log, _ := newLog(usual().Log, out)
	complain := (&Telemetry{log: log}).complain()
	complain(errorText("refused\nforged\xff" + strings.Repeat("x", 100_000)))
	all := lines(t, out)
	if len(all) != 1 {
		t.Fatalf("got %d lines, want 1", len(all))
	}
	if said, _ := all[0]["error"].(string); len(said) > 600 || !strings.HasPrefix(said, "refused\nforged\uFFFDxxx") {
		t.Errorf("the error is %.40q… of %d bytes, want it cut, with what is no text replaced", said, len(said))
	}
}

type errorText string

func (e errorText) Error() string { return string(e) }

func TestTheLevelDecidesWhatIsWritten(t *testing.T) {
	for level, want := range map[string][]float64{"debug": {200, 503}, "info": {200, 503}, "warn": {503}, "error": nil} {
		t.Run(level, func(t *testing.T) {
			config := usual()
			config.Log.Level = level
			telemetry, _, out := recorded(t, config)
			run(telemetry, generate())
			refuse(telemetry, generate(), 503, &admission.Rejection{Code: admission.CodeQueueTimeout})
			var got []float64
			for _, l := range lines(t, out) {
				got = append(got, l["status"].(float64))
			}
			if !slices.Equal(got, want) {
				t.Errorf("at %s the statuses logged are %v, want %v", level, got, want)
			}
		})
	}
}

func TestTextIsOneLineToo(t *testing.T) {
	config := usual()
	config.Log.Format = "text"
	telemetry, _, out := recorded(t, config)
	q, _ := run(telemetry, generate())
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, " class=heavy ") ||
		!strings.Contains(text, "trace_id="+q.SpanContext().TraceID().String()) {
		t.Errorf("got %q, want one line with class and trace_id", text)
	}
}

// A request that passes through has no class, and one without a rule no route:
// the line has the same keys all the same.
func TestTheKeysDoNotComeAndGo(t *testing.T) {
	telemetry, _, out := recorded(t, usual())
	q := telemetry.Begin(httptest.NewRequest(http.MethodGet, "http://box/nowhere", nil), "")
	q.End(time.Now(), Ending{Status: http.StatusNotFound, RPC: -1, Code: "no_route", In: 0, Out: 120})
	got := slices.Sorted(maps.Keys(lines(t, out)[0]))
	want := []string{"backend", "bytes_in", "bytes_out", "class", "code", "level", "method", "msg", "path", "result", "route", "span_id",
		"status", "time", "total_ms", "trace_id"}
	if !slices.Equal(got, want) {
		t.Errorf("the line has %v, want %v", got, want)
	}
}

// A job goes on behind its answer, and so does work whose client has left. Its end is
// a line of its own in the same trace.
func TestWorkThatEndsLaterIsOneMoreLine(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		code   string
		ended  Execution
		want   map[string]any
	}{
		"a job that is done": {200, "", Execution{Status: 200, RPC: -1}, map[string]any{"level": "INFO", "result": ResultOK}},
		"a job that failed": {200, "", Execution{Status: 200, RPC: -1, Code: "job_failed"},
			map[string]any{"level": "WARN", "result": ResultFailed, "code": "job_failed"}},
		"work whose client left": {499, "client_cancelled", Execution{Status: 200, RPC: -1}, map[string]any{"level": "INFO", "result": ResultOK}},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, _, out := recorded(t, usual())
			q := telemetry.Begin(generate(), pattern)
			at := time.Now()
			q.Classify("images", "heavy", "flux", 34*admission.GiB)
			q.Identify("acme", "flux-1")
			q.Wait(at)
			q.Admitted(at, 7, 0, 0, 0, nil)
			q.Execute(at, flux, pattern, http.Header{})
			q.End(at.Add(time.Millisecond), Ending{Status: c.status, RPC: -1, Code: c.code})
			q.Executed(at.Add(18*time.Second), c.ended)
			all := lines(t, out)
			if len(all) != 2 {
				t.Fatalf("got %d lines, want 2:\n%s", len(all), out)
			}
			if _, has := all[0]["execute_ms"]; has || all[0]["tenant"] != "acme" || all[0]["model"] != "flux-1" {
				t.Errorf("the request's line is %v, want tenant and model, and no execute_ms: the work goes on", all[0])
			}
			delete(all[1], "time")
			want := map[string]any{"msg": "work ended", "route": "images", "class": "heavy", "backend": "flux", "tenant": "acme", "grant": 7.0,
				"vram": float64(34 << 30), "execute_ms": 18000.0, "trace_id": all[0]["trace_id"], "span_id": all[0]["span_id"]}
			maps.Copy(want, c.want)
			expect(t, "the work's line", all[1], want)
		})
	}
}

// slog's JSON handler is the measure of a request's line.
func TestALineIsWrittenAsSlogWritesIt(t *testing.T) {
	attributes := []slog.Attr{slog.String("plain", "a cat"), slog.String("empty", ""), slog.String("quotes", `"a\b"`),
		slog.String("control", "\x00\n\t\x1f\x7f"),
		slog.String("not ascii", "größer \u2028 <b>&"), slog.String("not text", "a\xffb"), slog.Int("int", -7), slog.Uint64("uint", 1<<63),
		slog.Float64("zero", 0),
		slog.Float64("ms", 18000.125), slog.Float64("small", 0.001), slog.Float64("large", 1e12)}
	var want, got logs
	log, _ := newLog(LogConfig{Format: "json", Level: "info"}, &want)
	log.LogAttrs(t.Context(), slog.LevelWarn, "request", attributes...)
	_, lines := newLog(LogConfig{Format: "json", Level: "info"}, &got)
	lines.write(slog.LevelWarn, "request", attributes)
	cut := func(l *logs) string { _, rest, _ := strings.Cut(l.String(), `","`); return rest }
	if cut(&got) != cut(&want) {
		t.Errorf("got\n%swant\n%s", got.String(), want.String())
	}
	if _, err := time.Parse(`{"time":"2006-01-02T15:04:05.999999999Z07:00`, strings.SplitN(got.String(), `","`, 2)[0]); err != nil {
		t.Error(err)
	}
}
