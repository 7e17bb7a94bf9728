package telemetry

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/anteroom-gpu/anteroom/admission"
)

const serverName = "POST " + pattern

func expect(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s has\n%v, want\n%v", what, got, want)
	}
}

func TestWaitAndExecutionAreSiblingsUnderTheServerSpan(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q, _ := run(telemetry, generate())
	found := spans(t, telemetry, memory)
	if len(found) != 3 {
		t.Fatalf("got %d spans, want 3: %v", len(found), found)
	}
	server, wait, client := found[serverName], found[SpanWait], found["POST"]
	for name, want := range map[string]struct {
		span   tracetest.SpanStub
		kind   trace.SpanKind
		parent trace.SpanID
		lasts  time.Duration
	}{
		"wait":   {wait, trace.SpanKindInternal, server.SpanContext.SpanID(), 2 * time.Second},
		"client": {client, trace.SpanKindClient, server.SpanContext.SpanID(), 18 * time.Second},
		"server": {server, trace.SpanKindServer, trace.SpanID{}, server.EndTime.Sub(server.StartTime)},
	} {
		s := want.span
		if s.SpanKind != want.kind || s.Parent.SpanID() != want.parent || s.EndTime.Sub(s.StartTime) != want.lasts {
			t.Errorf("%s: got %s under %s for %s, want %s under %s for %s", name,
				s.SpanKind, s.Parent.SpanID(), s.EndTime.Sub(s.StartTime), want.kind, want.parent, want.lasts)
		}
		if s.SpanContext.TraceID() != server.SpanContext.TraceID() || !s.SpanContext.TraceID().IsValid() {
			t.Errorf("%s is in trace %s, want %s", name, s.SpanContext.TraceID(), server.SpanContext.TraceID())
		}
		if s.Status.Code != codes.Unset {
			t.Errorf("%s has status %v, want none", name, s.Status)
		}
	}
	if q.SpanContext().SpanID() != server.SpanContext.SpanID() {
		t.Errorf("SpanContext gave %s, want the server span's %s", q.SpanContext().SpanID(), server.SpanContext.SpanID())
	}
	if !client.StartTime.Equal(wait.EndTime) || server.EndTime.Before(client.EndTime) {
		t.Errorf("the server span ends %s, the wait %s, the execution goes from %s to %s: want them in a row",
			server.EndTime, wait.EndTime, client.StartTime, client.EndTime)
	}
}

func TestSpansCarryWhatTheContractSays(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	run(telemetry, generate())
	found := spans(t, telemetry, memory)
	expect(t, "the server span", attributes(found[serverName].Attributes), map[string]any{
		"gen_ai.operation.name": "generate_content", "gen_ai.provider.name": "openai",
		"http.request.method": "POST", "url.path": pattern, "url.scheme": "http", "network.protocol.version": "1.1",
		"http.route": pattern, "http.response.status_code": int64(200), "http.request.body.size": int64(17), "http.response.body.size": int64(4096),
		AttrPosition: int64(3), AttrReason: "resources",
		AttrRoute: "images", AttrClass: "heavy", AttrBackend: "flux", AttrResult: ResultOK,
	})
	expect(t, "admission.wait", attributes(found[SpanWait].Attributes), map[string]any{
		AttrClass: "heavy", AttrBackend: "flux", AttrVRAM: int64(34 << 30), AttrPosition: int64(3),
		AttrWaited: 2.0, AttrGrant: int64(7), AttrReason: "resources", AttrResource: "gpu0",
		AttrNeed: int64(34 << 30), AttrFree: int64(30 << 30), AttrExpected: 1.5,
	})
	expect(t, "the client span", attributes(found["POST"].Attributes), map[string]any{
		"http.request.method": "POST", "url.full": flux + pattern, "server.address": "127.0.0.1", "server.port": int64(8001),
		"http.response.status_code": int64(200), AttrClass: "heavy", AttrBackend: "flux",
	})
	events := found[SpanWait].Events
	if len(events) != 4 || events[0].Name != EventQueued || events[1].Name != EventBlocked || events[2].Name != EventBlocked ||
		events[3].Name != EventGranted {
		t.Fatalf("admission.wait has events %v, want queued, blocked twice, granted", events)
	}
	if d := events[3].Time.Sub(events[0].Time); d != 2*time.Second {
		t.Errorf("between queued and granted lie %s, want 2s", d)
	}
	expect(t, "the event queued", attributes(events[0].Attributes), map[string]any{
		AttrPosition: int64(3), AttrReason: "reserved_for_other", AttrResource: "gpu0",
		AttrNeed: int64(34 << 30), AttrFree: int64(40 << 30), AttrExpected: 1.5,
	})
}

func TestARequestThatRunsAtOnceWasNotQueued(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q := telemetry.Begin(generate(), pattern)
	now := time.Now()
	q.Wait(now)
	q.Admitted(now, 1, 0, 0, 0, nil)
	q.End(now, Ending{Status: http.StatusOK, RPC: -1})
	wait := spans(t, telemetry, memory)[SpanWait]
	if len(wait.Events) != 1 || wait.Events[0].Name != EventGranted {
		t.Errorf("admission.wait has events %v, want granted alone", wait.Events)
	}
	if reason, has := attributes(wait.Attributes)[AttrReason]; has {
		t.Errorf("admission.wait says that it waited for %q, want nothing", reason)
	}
}

func TestRefusalsAreOnTheSpans(t *testing.T) {
	for name, c := range map[string]struct {
		status    int
		rejection admission.Rejection
		events    []string
		wait      map[string]any
		result    string
		error     codes.Code
	}{
		"at the door": {429, admission.Rejection{Code: admission.CodeQueueFull, Position: -1}, []string{EventRefused},
			map[string]any{AttrClass: "heavy", AttrBackend: "flux", AttrVRAM: int64(34 << 30), AttrWaited: 0.0,
				AttrCode: "queue_full", AttrPosition: int64(-1)}, ResultRefused, codes.Unset},
		"after its timeout": {503, admission.Rejection{Code: admission.CodeQueueTimeout, Reason: admission.ReasonResources, Position: 2,
			Waited: time.Minute, Stay: stayed},
			[]string{EventQueued, EventBlocked, EventBlocked, EventRefused},
			map[string]any{AttrClass: "heavy", AttrBackend: "flux", AttrVRAM: int64(34 << 30), AttrWaited: 60.0,
				AttrCode: "queue_timeout", AttrPosition: int64(2), AttrReason: "resources", AttrResource: "gpu0",
				AttrNeed: int64(34 << 30), AttrFree: int64(30 << 30), AttrExpected: 1.5}, ResultRefused, codes.Error},
		"cancelled while it was queued": {499, admission.Rejection{Code: admission.CodeClientCancelled, Reason: admission.ReasonBehind,
			Position: 1, Waited: time.Second},
			[]string{EventQueued, EventRefused},
			map[string]any{AttrClass: "heavy", AttrBackend: "flux", AttrVRAM: int64(34 << 30), AttrWaited: 1.0,
				AttrCode: "client_cancelled", AttrPosition: int64(1), AttrReason: "behind"}, ResultCancelled, codes.Unset},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, memory, _ := recorded(t, usual())
			refuse(telemetry, generate(), c.status, &c.rejection)
			found := spans(t, telemetry, memory)
			if len(found) != 2 {
				t.Fatalf("got %d spans, want the server's and admission.wait: %v", len(found), found)
			}
			expect(t, "admission.wait", attributes(found[SpanWait].Attributes), c.wait)
			var events []string
			for _, e := range found[SpanWait].Events {
				events = append(events, e.Name)
			}
			if strings.Join(events, " ") != strings.Join(c.events, " ") {
				t.Errorf("admission.wait has events %v, want %v", events, c.events)
			}
			server := found[serverName]
			about := attributes(server.Attributes)
			if about[AttrResult] != c.result || about[AttrCode] != string(c.rejection.Code) || about["http.response.status_code"] != int64(c.status) {
				t.Errorf("the server span has %v, want result %s, code %s, status %d", about, c.result, c.rejection.Code, c.status)
			}
			if server.Status.Code != c.error {
				t.Errorf("the server span has status %v, want %v", server.Status, c.error)
			}
		})
	}
}

// A handler that panics in the queue calls neither Admitted nor Refused.
func TestEndClosesAWaitThatNobodyClosed(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q := telemetry.Begin(generate(), pattern)
	q.Wait(time.Now())
	q.End(time.Now(), Ending{Status: http.StatusInternalServerError, RPC: -1, Code: "internal"})
	if found := spans(t, telemetry, memory); len(found) != 2 || found[SpanWait].EndTime.IsZero() {
		t.Errorf("got %v, want admission.wait among two spans", found)
	}
}

func TestTheExecutionSaysHowItEnded(t *testing.T) {
	for name, c := range map[string]struct {
		ended     Execution
		errorType any
		code      codes.Code
		about     string
		result    string
	}{
		"well":           {Execution{Status: 200, RPC: -1}, nil, codes.Unset, "", ResultOK},
		"with a refusal": {Execution{Status: 429, RPC: -1}, "429", codes.Error, "", ResultOK},
		"with an error":  {Execution{Status: 500, RPC: -1}, "500", codes.Error, "", ResultFailed},
		"without an answer": {Execution{RPC: -1, Code: "backend_unreachable", Cause: "connection refused"}, "backend_unreachable",
			codes.Error, "connection refused", ResultFailed},
		"in the middle": {Execution{Status: 200, RPC: -1, Code: "backend_protocol", Cause: "unexpected EOF"}, "backend_protocol",
			codes.Error, "unexpected EOF", ResultFailed},
		"because its client left": {Execution{Status: 200, RPC: -1, Left: true}, "client_cancelled", codes.Unset, "", ResultCancelled},
		"with bytes that are no text": {Execution{RPC: -1, Code: "backend_protocol", Cause: "malformed: \xff"}, "backend_protocol", codes.Error,
			"malformed: \uFFFD", ResultFailed},
		"well by gRPC":             {Execution{Status: 200, RPC: 0}, nil, codes.Unset, "", ResultOK},
		"with gRPC's NOT_FOUND":    {Execution{Status: 200, RPC: 5}, "NOT_FOUND", codes.Error, "", ResultOK},
		"with gRPC's INTERNAL":     {Execution{Status: 200, RPC: 13}, "INTERNAL", codes.Error, "", ResultFailed},
		"with gRPC's CANCELLED":    {Execution{Status: 200, RPC: 1}, "CANCELLED", codes.Error, "", ResultCancelled},
		"with a status of no gRPC": {Execution{Status: 200, RPC: 99}, "UNKNOWN", codes.Error, "", ResultFailed},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, memory, _ := recorded(t, usual())
			q := telemetry.Begin(generate(), pattern)
			q.Execute(time.Now(), flux, pattern, http.Header{})
			q.Executed(time.Now(), c.ended)
			client := spans(t, telemetry, memory)["POST"]
			if got := attributes(client.Attributes)["error.type"]; got != c.errorType {
				t.Errorf("error.type is %v, want %v", got, c.errorType)
			}
			if client.Status.Code != c.code || client.Status.Description != c.about {
				t.Errorf("the status is %v, want %v %q", client.Status, c.code, c.about)
			}
			_, families := scrape(t, telemetry)
			for by := range series(families["anteroom_request_execution_seconds"]) {
				if !strings.HasSuffix(by, "anteroom_result="+c.result) {
					t.Errorf("the metric has %s, want the result %s", by, c.result)
				}
			}
		})
	}
}

// A backend with `cancel: ignored` works on when the client has left.
func TestTheExecutionMayEndAfterTheRequest(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q := telemetry.Begin(generate(), pattern)
	began := time.Now()
	q.Execute(began, flux, pattern, http.Header{})
	q.End(began.Add(time.Second), Ending{Status: 499, RPC: -1, Code: "client_cancelled"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.Executed(began.Add(20*time.Second), Execution{Status: http.StatusOK, RPC: -1})
		q.Executed(began.Add(30*time.Second), Execution{Status: http.StatusOK, RPC: -1}) // only the first counts
	}()
	<-done
	client := spans(t, telemetry, memory)["POST"]
	if d := client.EndTime.Sub(client.StartTime); d != 20*time.Second {
		t.Errorf("the execution lasted %s, want 20s", d)
	}
	_, families := scrape(t, telemetry)
	for by, n := range series(families["anteroom_request_execution_seconds"]) {
		if n != 1 {
			t.Errorf("%s is recorded %v times, want once", by, n)
		}
	}
}

// What clients send is bounded, and fit for OTLP, which refuses a whole batch
// for one byte that is not UTF-8.
func TestAPathFromAClientIsFitForExport(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	telemetry.Begin(httptest.NewRequest("BREW", "http://box/%ff"+strings.Repeat("a", 60_000), nil), "").End(time.Now(),
		Ending{Status: 404, RPC: -1, Code: "no_route"})
	server := spans(t, telemetry, memory)["HTTP"]
	path, _ := attributes(server.Attributes)["url.path"].(string)
	if !strings.HasPrefix(path, "/%FFaaa") && !strings.HasPrefix(path, "/%ffaaa") || !utf8.ValidString(path) {
		t.Errorf("url.path begins with %.20q, want /%%ffaaa", path)
	}
	if len(path) > maxAttribute {
		t.Errorf("url.path has %d bytes, want at most %d", len(path), maxAttribute)
	}
	if route, has := attributes(server.Attributes)["http.route"]; has {
		t.Errorf("http.route is %q, want none: no rule matched", route)
	}
}

func TestABackendsPasswordIsNotExported(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q := telemetry.Begin(generate(), pattern)
	q.Execute(time.Now(), "https://me:hidden@models.example", "/v1/x", http.Header{})
	q.Executed(time.Now(), Execution{Status: http.StatusOK, RPC: -1})
	about := attributes(spans(t, telemetry, memory)["POST"].Attributes)
	if full, _ := about["url.full"].(string); full == "" || strings.Contains(full, "hidden") {
		t.Errorf("url.full is %q, want it without the password", full)
	}
	if port, has := about["server.port"]; has || about["server.address"] != "models.example" {
		t.Errorf("the client span has %v and port %v, want models.example without one", about, port)
	}
}

func TestANilRequestDoesNothing(t *testing.T) {
	var q *Request
	q.Classify("", "", "", 0)
	q.Wait(time.Now())
	q.Admitted(time.Now(), 0, 0, 0, 0, nil)
	q.Refused(time.Now(), &admission.Rejection{})
	q.Execute(time.Now(), "", "", nil)
	q.Executed(time.Now(), Execution{Status: 0, RPC: -1})
	q.End(time.Now(), Ending{Status: 0, RPC: -1})
	if q.SpanContext().IsValid() {
		t.Error("a nil Request has a span")
	}
}

// An unload is done for a request that waits: each leads to the other.
func TestAnOrderAndItsRequestLeadToEachOther(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	q := telemetry.Begin(generate(), pattern)
	at := time.Now()
	q.Classify("images", "heavy", "flux", 34*admission.GiB)
	q.Wait(at)
	if RequestOf(q.Origin()) != q || RequestOf(nil) != nil {
		t.Error("an Origin does not lead to its request")
	}
	telemetry.Ordered(SpanUnload, at, "vqa", 7, q).End(at.Add(time.Second), Done{Asked: 2, Freed: 1, GPUs: []string{"gpu0"}})
	q.Admitted(at.Add(2*time.Second), 7, 0, 0, 2*time.Second,
		&admission.Stay{Steps: []admission.Step{{Reason: admission.ReasonReclaiming, Resource: "gpu0", Backend: "vqa"}}})
	q.End(at.Add(2*time.Second), Ending{Status: 200, RPC: -1})
	found := spans(t, telemetry, memory)
	wait, order := found[SpanWait], found[SpanUnload+" vqa"]
	if len(wait.Links) != 1 || wait.Links[0].SpanContext.SpanID() != order.SpanContext.SpanID() || len(order.Links) != 1 ||
		order.Links[0].SpanContext.SpanID() != wait.SpanContext.SpanID() {
		t.Fatalf("admission.wait has the links %v, the unload %v, want each other", wait.Links, order.Links)
	}
	if wait.SpanContext.TraceID() == order.SpanContext.TraceID() || order.Parent.IsValid() {
		t.Error("the unload is in its request's trace, want one of its own")
	}
	expect(t, "the event blocked", attributes(wait.Events[1].Attributes),
		map[string]any{AttrReason: "reclaiming", AttrResource: "gpu0", AttrBackend: "vqa"})
}
