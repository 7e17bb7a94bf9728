package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// torchSays is an error of torch with all its figures.
const torchSays = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 47.50 GiB of which 1.13 GiB is free. " +
	"Including non-PyTorch memory, this process has 4.00 GiB memory in use."

// fixed is a model server that always answers the same.
type fixed struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
	chunked bool
	calls   atomic.Int32
}

func (f *fixed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	f.calls.Add(1)
	for k, v := range f.header {
		w.Header()[k] = v
	}
	w.WriteHeader(f.status)
	if f.chunked {
		http.NewResponseController(w).Flush()
	}
	io.WriteString(w, f.body)
	for k, v := range f.trailer {
		w.Header()[http.TrailerPrefix+k] = v
	}
}

// openFixed is a box whose quick backend tries out-of-memory answers once more.
func openFixed(t testing.TB, f *fixed, change ...func(*proxy.Setup)) *box {
	return open(t, f, append([]func(*proxy.Setup){func(s *proxy.Setup) {
		setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM = true })
	}}, change...)...)
}

// outOfMemoryRuns is how many runs of light requests are known to have run out of
// memory, and what is booked for them.
func (b *box) outOfMemoryRuns() (n int, booked admission.Bytes) {
	var l struct {
		Routes []struct {
			OutOfMemory int   `json:"out_of_memory"`
			Booked      int64 `json:"booked_bytes"`
		} `json:"routes"`
	}
	b.ask("GET", "/api/learned", &l)
	for _, r := range l.Routes {
		n, booked = n+r.OutOfMemory, max(booked, admission.Bytes(r.Booked))
	}
	return n, booked
}

func text(kind string) http.Header { return http.Header{"Content-Type": {kind}} }

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

// In whatever form it comes, the answer reaches its client byte for byte, is
// counted, and is no failure of the backend.
func TestAnOutOfMemoryAnswerIsKnownInEachForm(t *testing.T) {
	says, _ := json.Marshal(torchSays)
	detail := `{"detail":` + string(says) + `}`
	for name, c := range map[string]struct {
		*fixed
		runs int32 // 2: it was tried once more
	}{
		"500":               {&fixed{status: 500, header: text("application/json"), body: detail}, 2},
		"503":               {&fixed{status: 503, header: text("application/json"), body: detail}, 2},
		"400":               {&fixed{status: 400, header: text("application/json"), body: detail}, 2},
		"of unknown length": {&fixed{status: 500, header: text("application/json"), body: detail, chunked: true}, 2},
		"gzip": {&fixed{status: 500, header: http.Header{"Content-Type": {"application/json"},
			"Content-Encoding": {"gzip"}}, body: zipped(detail)}, 2},
		"torch since 2.8": {&fixed{status: 500, header: text("application/json"),
			body: `{"detail":"CUDA error: out of memory\nSearch for ..."}`}, 2},
		"text": {&fixed{status: 500, header: text("text/plain"), body: "Traceback\nRuntimeError: " + torchSays}, 2},
		"HTML": {&fixed{status: 500, header: text("text/html"), body: "<html><pre>" + torchSays + "</pre></html>"}, 2},
		"behind 64 KiB": {&fixed{status: 500, header: text("text/plain"), body: strings.Repeat("  File \"x.py\"\n", 8000) +
			torchSays}, 2},
		"behind 600 KiB": {&fixed{status: 500, header: text("text/plain"), body: strings.Repeat("  File \"x.py\"\n", 50<<10) +
			torchSays}, 1},
		"400 of unknown length": {&fixed{status: 400, header: text("application/json"), body: detail, chunked: true}, 1},
		"events": {&fixed{status: 200, header: text("text/event-stream"),
			body: "data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":" + string(says) + "}}\n\ndata: [DONE]\n\n"}, 1},
		"events of a 500": {&fixed{status: 500, header: text("text/event-stream"), body: "data: {\"error\":{\"message\":" +
			string(says) + "}}\n\n"}, 1},
		"JSON lines": {&fixed{status: 200, header: text("application/x-ndjson"), body: "{\"response\":\"a\"}\n{\"error\":" +
			string(says) + "}\n"}, 2},
		"JSON lines as they come": {&fixed{status: 200, header: text("application/x-ndjson"), chunked: true,
			body: "{\"response\":\"a\"}\n{\"error\":" + string(says) + "}\n"}, 1},
		"events, gzip": {&fixed{status: 200, header: http.Header{"Content-Type": {"text/event-stream"},
			"Content-Encoding": {"gzip"}}, body: zipped("data: {\"error\":" + string(says) + "}\n\n")}, 1},
		"JSON, br": {&fixed{status: 500, header: http.Header{"Content-Type": {"application/json"},
			"Content-Encoding": {"br"}}, body: packedBy(brotli.NewWriter, `{"detail":`+string(says)+`}`)}, 2},
		"JSON, zstd": {&fixed{status: 400, header: http.Header{"Content-Type": {"application/json"},
			"Content-Encoding": {"zstd"}}, body: packedBy(zstdWriter, `{"detail":`+string(says)+`}`)}, 2},
		"a word of our own":   {&fixed{status: 500, header: text("application/json"), body: `{"error":"device full"}`}, 2},
		"nothing of the sort": {&fixed{status: 500, header: text("application/json"), body: `{"error":"division by zero"}`}, -1},
		"a model writes of it": {&fixed{status: 200, header: text("application/json"), body: `{"choices":[{"message":{"content":` +
			string(says) + `}}]}`}, -1},
		"a model streams of it": {&fixed{status: 200, header: text("text/event-stream"),
			body: "data: {\"choices\":[{\"delta\":{\"content\":" + string(says) + "}}]}\n\n"}, -1},
		"a field of the request": {&fixed{status: 422, header: text("application/json"),
			body: `{"detail":[{"loc":["body","prompt"],"msg":"too long","input":` + string(says) + `}]}`}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.fixed
			b := openFixed(t, f, func(s *proxy.Setup) {
				setBackend(s, "quick", func(c *backend.Config) { c.OOMPatterns = []string{"device full"} })
			})
			want := 1
			if c.runs < 0 {
				c.runs, want = 1, 0
			}
			res, body := b.do("POST", "/light/x", `{"prompt":"a cat"}`, "Accept-Encoding", "identity")
			if res.StatusCode != f.status || body != f.body || res.Header.Get("Content-Type") != f.header.Get("Content-Type") {
				t.Errorf("got %s, %q, %d bytes; want what the backend sent", res.Status, res.Header.Get("Content-Type"), len(body))
			}
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			if got := f.calls.Load(); got != c.runs {
				t.Errorf("it was sent %d times, want %d", got, c.runs)
			}
			if n, _ := b.outOfMemoryRuns(); n != want {
				t.Errorf("%d runs are known to have run out of memory, want %d", n, want)
			}
			if want > 0 {
				eventually(t, "one is counted", func() bool {
					return b.metric(`anteroom_oom_total{anteroom_backend="quick",anteroom_result="passed"`) == "1"
				})
			}
		})
	}
}

// The same words are no error where the client sent them.
func TestTheClientsOwnWordsAreNoOutOfMemory(t *testing.T) {
	const words = "why do I get CUDA out of memory?"
	echo := func(status int, format string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.WriteHeader(status)
			fmt.Fprintf(w, format, body)
		})
	}
	large := `{"image":"` + strings.Repeat("x", 3<<20) + `","prompt":"CUDA out of memory. Tried to allocate 2.00 GiB"}`
	for name, c := range map[string]struct {
		model        http.Handler
		method, path string
		body         string
	}{
		"in a 500":     {echo(500, "bad input: %s"), "POST", "/light/x", `{"prompt":"` + words + `"}`},
		"as an error":  {echo(500, "%s"), "POST", "/light/x", `{"error":"CUDA out of memory"}`},
		"as a message": {echo(400, `{"error":{"message":%q}}`), "POST", "/light/x", "RuntimeError: " + torchSays},
		"in a form":    {echo(400, `{"detail":"CUDA out of memory"}`), "POST", "/light/x", "prompt=CUDA+out%20of+memory"},
		"in a body in a file": {echo(500, `{"detail":"cannot draw: CUDA out of memory. Tried to allocate 2.00 GiB"}`+"%.0s"), "POST",
			"/light/x", large},
		"in the query":   {echo(500, `{"detail":"CUDA out of memory"}%s`), "POST", "/light/x?prompt=CUDA%20out%20of%20memory", ""},
		"behind 600 KiB": {echo(500, strings.Repeat("x\n", 300<<10)+"%s"), "POST", "/light/x", "CUDA out of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				c.model.ServeHTTP(w, r)
			}), func(s *proxy.Setup) { setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM = true }) })
			b.do(c.method, c.path, c.body)
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			if n, _ := b.outOfMemoryRuns(); n != 0 || calls.Load() != 1 {
				t.Errorf("%d runs out of memory after %d calls, want none after one", n, calls.Load())
			}
		})
	}
}

// What an error says was in use and tried is what the next run is booked with.
func TestTheFiguresOfAnErrorAreLearned(t *testing.T) {
	says, _ := json.Marshal(torchSays)
	for name, f := range map[string]*fixed{
		"an answer": {status: 500, header: text("application/json"), body: `{"detail":` + string(says) + `}`},
		"a stream":  {status: 200, header: text("text/event-stream"), body: "data: {\"error\":{\"message\":" + string(says) + "}}\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			b := openFixed(t, f)
			b.do("POST", "/light/x", "{}")
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			// 4 GiB in use, 2 tried, 2 % more.
			if _, booked := b.outOfMemoryRuns(); booked < 6*admission.GiB || booked > 6*admission.GiB+512*admission.MiB {
				t.Errorf("%v are booked, want a little more than 6GiB", booked)
			}
		})
	}
}

// Events reach their client as they come, and so does an error that is no answer
// to hold back.
func TestTheSearchHoldsNothingBack(t *testing.T) {
	for _, c := range []struct {
		kind   string
		status int
	}{{"text/event-stream", 200}, {"text/event-stream", 500}, {"application/x-ndjson", 200}, {"application/json", 400}} {
		t.Run(fmt.Sprint(c.kind, c.status), func(t *testing.T) {
			seen := make(chan struct{})
			b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				io.WriteString(w, "data: {\"error\":\"CUDA out")
				http.NewResponseController(w).Flush()
				<-seen
				io.WriteString(w, " of memory\"}\n\n")
			}), func(s *proxy.Setup) { setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM = true }) })
			res, err := b.client.Do(b.request(context.Background(), "POST", "/light/x", "{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			first := make([]byte, len("data: {\"error\":\"CUDA out"))
			if _, err := io.ReadFull(res.Body, first); err != nil {
				t.Fatal(err)
			}
			close(seen)
			io.Copy(io.Discard, res.Body)
		})
	}
}

func TestGRPCThatRanOutOfMemoryIsCounted(t *testing.T) {
	f := &fixed{status: 200, header: text("application/grpc"), body: "\x00\x00\x00\x00\x00",
		trailer: http.Header{"Grpc-Status": {"13"}, "Grpc-Message": {"in ensemble 'sd', " + strings.ReplaceAll(torchSays, "%", "%25")}}}
	b := openFixed(t, f, overH2C)
	r := b.request(context.Background(), "POST", "/light/x", "\x00\x00\x00\x00\x00", "Content-Type", "application/grpc", "Te", "trailers")
	res, err := h2c(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.Trailer.Get("Grpc-Status") != "13" {
		t.Errorf("the trailers are %v", res.Trailer)
	}
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	eventually(t, "one run is known, and its figure raised", func() bool {
		n, booked := b.outOfMemoryRuns()
		return n == 1 && booked >= 6*admission.GiB
	})
}

// Gradio and ComfyUI tell of it in the result of a job, whose own answer was long
// given.
func TestAJobThatRanOutOfMemoryTeachesItsFigures(t *testing.T) {
	says, _ := json.Marshal(torchSays)
	gradioApp := func(s *proxy.Setup) {
		setBackend(s, "slow", func(b *backend.Config) {
			b.Completion = backend.CompletionConfig{Preset: "gradio", Every: time.Millisecond, Timeout: time.Minute}
		})
		s.Routing.Routes = append([]routing.RouteConfig{
			{Name: "events", Match: routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/gradio/**"}}, Pass: true,
				Backend: "slow"},
			{Name: "join", Match: routing.MatchConfig{Path: routing.Texts{"/gradio/**"}}, Class: "heavy", Backend: "slow"},
		}, s.Routing.Routes...)
	}
	for name, c := range map[string]struct {
		join, events, session, end string
		isMemory                   bool
	}{
		"of a queue": {"/queue/join", "/gradio/queue/data", "s1",
			`data: {"msg":"process_completed","event_id":"event-1","output":{"error":` + string(says) +
				`,"visible":true},"success":false,"title":"Error"}` + "\n\n", true},
		"of a plain call":  {"/call/draw", "/gradio/call/draw/event-1", "", "event: error\ndata: {\"error\":" + string(says) + "}\n\n", true},
		"without a reason": {"/call/draw", "/gradio/call/draw/event-1", "", "event: error\ndata: null\n\n", false},
		"that went well": {"/queue/join", "/gradio/queue/data", "s1",
			`data: {"msg":"process_completed","event_id":"event-1","output":{"data":[` + string(says) + `]},"success":true}` + "\n\n", false},
	} {
		t.Run("Gradio, "+name, func(t *testing.T) {
			g := &gradio{sessions: map[string]chan string{}, joined: make(chan string, 10)}
			b := open(t, g, gradioApp)
			b.do("POST", "/gradio"+c.join, `{"data":["a poster that says CUDA out of memory"]}`)
			<-g.joined
			events, stream := g.listen(t, b, c.events, c.session)
			events <- c.end
			got := make([]byte, len(c.end))
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != c.end {
				t.Errorf("the client read %q, %v", got, err)
			}
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			b.wantOutOfMemory(c.isMemory)
		})
	}
	for name, c := range map[string]struct {
		message  string
		isMemory bool
	}{
		"torch": {`{"exception_type":"torch.OutOfMemoryError","exception_message":` + string(says) +
			`,"traceback":[],"current_inputs":{}}`, true},
		"the type alone": {`{"exception_type":"torch.OutOfMemoryError","exception_message":"Allocation on device \n\n","traceback":["x"]}`, true},
		"another error": {`{"exception_type":"ValueError","exception_message":"bad seed","current_inputs":{"text":[` + string(says) +
			`]}}`, false},
		"the user's text": {`{"exception_type":"FileNotFoundError","exception_message":"No such file or directory: 'CUDA out of memory.png'"}`, false},
	} {
		t.Run("ComfyUI, "+name, func(t *testing.T) {
			f := newComfy()
			b := open(t, f, asComfy())
			b.do("POST", "/prompt", `{"prompt":{}}`)
			id := <-f.arrived
			var entry any
			text := `{"prompt":[1,"x",{"6":{"inputs":{"text":` + string(says) +
				`}}},{},[]],"outputs":{},"status":{"status_str":"error","completed":false,` +
				`"messages":[["execution_start",{"prompt_id":"x"}],["execution_error",` + c.message + `]]}}`
			if err := json.Unmarshal([]byte(text), &entry); err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			delete(f.drawing, id)
			f.history[id] = entry
			f.mu.Unlock()
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			b.wantOutOfMemory(c.isMemory)
		})
	}
}

// wantOutOfMemory wants one run that ran out of memory, or none, and its figures
// where there are any.
func (b *box) wantOutOfMemory(is bool) {
	b.t.Helper()
	want, count := 0, ""
	if is {
		want, count = 1, "1"
	}
	// A run teaches its figures once its grant is back.
	eventually(b.t, fmt.Sprintf("%d runs are known to have run out of memory", want), func() bool {
		n, _ := b.outOfMemoryRuns()
		return n == want
	})
	if got := b.metric(`anteroom_oom_total{anteroom_backend="slow",anteroom_result="passed"`); got != count {
		b.t.Errorf("%q are counted, want %q", got, count)
	}
	kept := 0
	for _, d := range b.kept().Decisions {
		if d.Kind == timeline.OOM && d.Backend == "slow" && d.Action == telemetry.OOMPassed && d.Grant > 0 {
			kept++
		}
	}
	if kept != want {
		b.t.Errorf("%d are in the history, want %d", kept, want)
	}
}

// A request's body is kept until its error is judged, and no longer.
func TestABodyIsGivenBackWhenItsErrorIsJudged(t *testing.T) {
	f := &fixed{status: 500, header: text("text/plain"), body: strings.Repeat("  File \"x.py\"\n", 50<<10) + torchSays}
	b := openFixed(t, f, func(s *proxy.Setup) { s.Proxy.Limits.Spool = 4 * admission.MiB })
	for range 3 {
		res, body := b.do("POST", "/light/x", strings.Repeat("x", 3<<20))
		if res.StatusCode != 500 {
			t.Fatalf("got %s: %.100s", res.Status, body)
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
	if n, _ := b.outOfMemoryRuns(); n != 3 {
		t.Errorf("%d runs are known to have run out of memory, want 3", n)
	}
}

// packedBy is a text as an encoding of HTTP writes it.
func packedBy[W io.WriteCloser](writer func(io.Writer) W, text string) string {
	var b strings.Builder
	w := writer(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

func zstdWriter(w io.Writer) *zstd.Encoder {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err) // the options are wrong, and there are none
	}
	return z
}
