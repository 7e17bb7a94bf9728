package outofmemory

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

const torchSays = "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 47.50 GiB of which 3.13 GiB is free."

func TestWhereAnErrorStands(t *testing.T) {
	says := quoted(torchSays)
	for _, c := range []struct {
		name, kind string
		status     int
		body       string
		want       bool
	}{
		{"FastAPI", "application/json", 500, `{"detail":` + says + `}`, true},
		{"FastAPI, 400", "application/json", 400, `{"detail":` + says + `}`, true},
		{"nested", "application/json", 500, `{"status":"error","result":{"error":{"message":` + says + `}}}`, true},
		{"in a list", "application/json", 500, `[{"error":` + says + `}]`, true},
		{"vLLM before 0.10", "application/json", 500, `{"object":"error","message":` + says +
			`,"type":"InternalServerError","param":null,"code":500}`, true},
		{"Ollama", "application/json; charset=utf-8", 500, `{"error":` + says + `}`, true},
		{"Triton", "application/json", 400, `{"error":` + says + `}`, true},
		{"AUTOMATIC1111", "application/json", 500, `{"error":"OutOfMemoryError","detail":"","body":"","errors":` + says + `}`, true},
		{"AUTOMATIC1111, the name alone", "application/json", 500, `{"error":"OutOfMemoryError","detail":"","body":"","errors":""}`, true},
		{"ComfyUI", "application/json", 500,
			`{"error":{"type":"torch.OutOfMemoryError","message":"Allocation on device ","details":"","extra_info":{}},"node_errors":{}}`, true},
		{"Gradio, /run/predict", "application/json", 500, `{"error":` + says + `}`, true},
		{"TGI", "application/json", 424, `{"error":` + quoted("Request failed during generation: Server error: "+torchSays) +
			`,"error_type":"generation"}`, true},
		{"problem details", "application/problem+json", 500,
			`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":` + says + `}`, true},
		{"JSON that calls itself text", "text/plain; charset=utf-8", 500, `{"error":` + says + `}`, true},
		{"a string", "application/json", 500, says, true},
		{"a traceback", "text/plain", 500,
			"Traceback (most recent call last):\n  File \"/app/serve.py\", line 12, in generate\n    return pipe(**kw)\ntorch.OutOfMemoryError: " +
				torchSays + "\n", true},
		{"a log line", "text/plain", 500, "[2025-11-01 10:00:00] [ERROR] " + torchSays, true},
		{"Python's repr", "text/plain", 500, `{'error': '` + torchSays + `'}`, true},
		{"HTML", "text/html; charset=utf-8", 500,
			"<!doctype html><html><head><title>500</title></head><body><h1>Internal Server Error</h1><pre>RuntimeError(&#x27;" + torchSays +
				"&#x27;)</pre></body></html>", true},
		{"no type", "", 500, `{"error":` + says + `}`, true},
		{"the end is missing", "application/json", 500, `{"detail":"` + torchSays, true},
		{"behind 300 KiB", "application/json", 500, `{"trace_id":"` + strings.Repeat("x", 300<<10) + `","detail":` + says + `}`, true},
		{"behind 300 KiB of text", "text/plain", 500, strings.Repeat("  File \"x.py\", line 1\n", 15<<10) + torchSays, true},
		{"behind a line of 300 KiB", "text/plain", 500, strings.Repeat("x ", 150<<10) + "\n" + torchSays, true},

		{"SSE, OpenAI", "text/event-stream", 200, "data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":" + says +
			",\"code\":500}}\n\ndata: [DONE]\n\n", true},
		{"SSE, vLLM before 0.10", "text/event-stream", 200, "data: {\"object\":\"error\",\"message\":" + says + ",\"code\":400}\n\n", true},
		{"SSE, Anthropic", "text/event-stream", 200,
			"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":" + says + "}}\n\n", true},
		{"SSE, OpenAI's responses", "text/event-stream", 200,
			"event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"message\":" +
				says + "}}}\n\n", true},
		{"SSE, TGI", "text/event-stream", 200, "data:{\"error\":" + says + ",\"error_type\":\"generation\"}\n\n", true},
		{"SSE, llama.cpp", "text/event-stream", 200, "error: {\"code\":500,\"message\":" + says + "}\n\n", true},
		{"SSE, Triton", "text/event-stream", 200, "data: {\"error\":" + says + "}\n\n", true},
		{"SSE, Gradio's call", "text/event-stream", 200, "event: error\ndata: {\"error\":" + says + ",\"visible\":true}\n\n", true},
		{"SSE, Gradio's call, as text", "text/event-stream", 200, "event: error\ndata: " + says + "\n\n", true},
		{"SSE, CRLF", "text/event-stream", 200, "event: error\r\ndata: " + torchSays + "\r\n\r\n", true},
		{"SSE, 500", "text/event-stream", 500, "data: " + torchSays + "\n\n", true},
		{"JSON lines, Ollama", "application/x-ndjson", 200, "{\"model\":\"m\",\"response\":\"a\"}\n{\"error\":" + says + "}\n", true},
		{"JSON lines, the last without an end", "application/x-ndjson", 200, "{\"model\":\"m\",\"response\":\"a\"}\n{\"error\":" + says +
			"}", true},

		{"200", "application/json", 200, `{"error":` + says + `}`, false},
		{"200, text", "text/plain", 200, torchSays, false},
		{"an image", "image/png", 500, torchSays, false},
		{"SSE, a delta", "text/event-stream", 200, "data: {\"choices\":[{\"delta\":{\"content\":" + says + "}}]}\n\n", false},
		{"SSE, the event after an error", "text/event-stream", 200, "event: error\ndata: {}\n\ndata: " + says + "\n\n", false},
		{"SSE, text", "text/event-stream", 200, "data: " + torchSays + "\n\n", false},
		{"SSE, no error", "text/event-stream", 200, "data: {\"error\":null,\"text\":" + says + ",\"message\":" + says + "}\n\n", false},
		{"SSE, an object of another kind", "text/event-stream", 200, "data: {\"object\":\"chat.completion.chunk\",\"message\":" + says +
			"}\n\n", false},
		{"SSE, a comment", "text/event-stream", 200, ": " + torchSays + "\n\n", false},
		{"JSON lines, a model's words", "application/x-ndjson", 200, "{\"response\":" + says + "}\n", false},
		{"what the client sent", "application/json", 500, `{"detail":"failed","input":` + says + `,"request":{"error":` + says + `}}`, false},
		{"deep", "application/json", 500, strings.Repeat("[", 1000) + `{"error":` + says + `}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ok := judge(c.status, c.kind, c.body)
			if ok != c.want {
				t.Fatalf("got %v %+v, want %v", ok, r, c.want)
			}
		})
	}
}

func TestGRPCTellsInItsTrailers(t *testing.T) {
	header := http.Header{"Content-Type": {"application/grpc"}}
	for name, trailer := range map[string]http.Header{
		"internal": {"Grpc-Status": {"13"}, "Grpc-Message": {"CUDA out of memory. Tried to allocate 9.00 GiB."}},
		"percent-encoded": {"Grpc-Status": {"13"},
			"Grpc-Message": {"in ensemble 'sd', failed: %0ACUDA out of memory. Tried to allocate 9.00 GiB."}},
		"resources exhausted": {"Grpc-Status": {"8"}, "Grpc-Message": {"CUDA out of memory. Tried to allocate 9.00 GiB."}},
	} {
		s := Scan(200, header, nil)
		s.Write([]byte("CUDA out of memory"))
		s.Trailer(trailer)
		if r, ok := s.Report(nil); !ok || r.Tried != 9*gib {
			t.Errorf("%s: got %v %+v", name, ok, r)
		}
		only := header.Clone()
		for k, v := range trailer {
			only[k] = v
		}
		if _, ok := Scan(200, only, nil).Report(nil); !ok {
			t.Errorf("%s: not found in an answer that has trailers only", name)
		}
	}
	for name, trailer := range map[string]http.Header{
		"a quota": {"Grpc-Status": {"8"}, "Grpc-Message": {"received message larger than max"}},
		"well":    {"Grpc-Status": {"0"}, "Grpc-Message": {"CUDA out of memory"}},
		"none":    {},
	} {
		s := Scan(200, header, nil)
		s.Write([]byte("CUDA out of memory"))
		s.Trailer(trailer)
		if r, ok := s.Report(nil); ok {
			t.Errorf("%s: found %+v", name, r)
		}
	}
}

// packers compress as the encodings of HTTP say.
var packers = map[string]func(io.Writer) io.WriteCloser{
	"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"x-gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"Deflate": func(w io.Writer) io.WriteCloser { p, _ := flate.NewWriter(w, 6); return p }, // bare
	"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
	"zstd":    func(w io.Writer) io.WriteCloser { p, _ := zstd.NewWriter(w); return p },
}

func TestCompressedAnswersAreUnpacked(t *testing.T) {
	for name, packer := range packers {
		for kind, body := range map[string]string{
			"application/json":  `{"detail":` + quoted(torchSays) + `,"trace_id":"` + strings.Repeat("x", 70<<10) + `"}`,
			"text/event-stream": "data: {\"error\":" + quoted(torchSays) + "}\n\n",
		} {
			var packed bytes.Buffer
			p := packer(&packed)
			io.WriteString(p, body)
			p.Close()
			lengths := []int{packed.Len(), packed.Len() - 4} // the end may be cut
			if name == "br" || name == "zstd" {
				lengths = lengths[:1] // a block is unpacked as a whole
			}
			for _, length := range lengths {
				s := Scan(500, http.Header{"Content-Type": {kind}, "Content-Encoding": {name}}, nil)
				s.Write(packed.Bytes()[:length])
				if r, ok := s.Report(nil); !ok || r.Tried != 9*gib {
					t.Errorf("%s, %s, %d of %d bytes: got %v %+v", name, kind, length, packed.Len(), ok, r)
				}
			}
		}
	}
	if Scan(500, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip, br"}}, nil) != nil {
		t.Error("what is packed twice is looked at")
	}
}

// A bomb ends at maxScanned.
func TestABombEnds(t *testing.T) {
	for name, packer := range packers {
		for _, c := range []struct {
			before int
			found  bool
		}{{maxScanned / 4, true}, {maxScanned / 2, false}} {
			var packed bytes.Buffer
			p := packer(&packed)
			p.Write(bytes.Repeat([]byte("x\n"), c.before))
			io.WriteString(p, torchSays)
			p.Close()
			if packed.Len() > maxPacked {
				t.Fatalf("%s: it has %d bytes, want %d at most", name, packed.Len(), maxPacked)
			}
			s := Scan(500, http.Header{"Content-Encoding": {name}}, nil)
			s.Write(packed.Bytes())
			if _, ok := s.Report(nil); ok != c.found {
				t.Errorf("%s, behind %d bytes: found %v, want %v", name, 2*c.before, ok, c.found)
			}
		}
	}
}

// A window that HTTP does not allow costs no memory.
func TestALargeWindowIsNotUnpacked(t *testing.T) {
	var packed bytes.Buffer
	p, err := zstd.NewWriter(&packed, zstd.WithWindowSize(8*maxWindow))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(p, torchSays+"\n")
	p.Write(bytes.Repeat([]byte("x\n"), 8*maxWindow))
	p.Close()
	s := Scan(500, http.Header{"Content-Encoding": {"zstd"}}, nil)
	s.Write(packed.Bytes())
	if _, ok := s.Report(nil); ok {
		t.Error("it is unpacked")
	}
}

// A Scanner holds no more than a fixed amount, whatever passes.
func TestAScannerHoldsLittle(t *testing.T) {
	for name, piece := range map[string]string{
		"a long line":      "CUDA out of memory, ",
		"lines":            "CUDA out of memory\n",
		"a long string":    `\u0041CUDA out of memory `,
		"events":           "data: {\"error\":\"CUDA out of memory\"}\n\n",
		"what is no event": "CUDA out of memory",
	} {
		for _, kind := range []string{"text/plain", "application/json", "text/event-stream", "application/x-ndjson", "text/html"} {
			s := Scan(500, http.Header{"Content-Type": {kind}}, nil)
			if kind == "application/json" {
				io.WriteString(s, `{"detail":"`)
			}
			before := heap()
			block := []byte(strings.Repeat(piece, 500))
			for range 20 {
				s.Write(block)
			}
			if grown := heap() - before; grown > 128<<10 {
				t.Errorf("%s as %s: holds %d bytes", name, kind, grown)
			}
			s.Report(nil)
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func FuzzScan(f *testing.F) {
	kinds := []string{"", "application/json", "text/plain", "text/html", "text/event-stream", "application/x-ndjson"}
	for i, c := range said {
		f.Add([]byte(`{"detail":`+quoted(c.text)+`}`), uint8(i), true)
		f.Add([]byte("event: error\ndata: "+quoted(c.text)+"\n\n"), uint8(i), false)
		f.Add([]byte(c.text), uint8(i), true)
	}
	f.Add([]byte("\\u\\ud83d{\"[[[{&#x27;<pre>"), uint8(3), true)
	f.Fuzz(func(t *testing.T, body []byte, how uint8, failed bool) {
		status := 200
		if failed {
			status = 500
		}
		kind := kinds[int(how)%len(kinds)]
		header := http.Header{"Content-Type": {kind}}
		if how&64 != 0 {
			header.Set("Content-Encoding", []string{"gzip", "br", "zstd", "deflate"}[how>>4&3])
		}
		// 1. The verdict does not depend on how the bytes are split.
		verdict := func(pieces func() int) string {
			s := Scan(status, header, []string{"pattern"})
			for rest := body; len(rest) > 0; {
				n := min(max(1, pieces()), len(rest))
				if got, err := s.Write(rest[:n]); got != n || err != nil {
					t.Fatalf("Write gave %d, %v", got, err)
				}
				rest = rest[n:]
			}
			r, ok := s.Report(nil)
			again, _ := s.Report(nil)
			if fmt.Sprint(again) != fmt.Sprint(r) {
				t.Fatal("a second Report differs")
			}
			return fmt.Sprint(r, ok)
		}
		whole := verdict(func() int { return len(body) })
		if one := verdict(func() int { return 1 }); one != whole {
			t.Errorf("byte by byte %s, whole %s", one, whole)
		}
		n := 0
		if mixed := verdict(func() int { n = (n*7 + int(how) + 3) % 61; return n }); mixed != whole {
			t.Errorf("in pieces %s, whole %s", mixed, whole)
		}
		// 2. What the client sent as it stands is never an error.
		s := Scan(status, header, nil)
		s.Write(body)
		if r, ok := s.Report(func(words string) bool { return true }); ok {
			t.Errorf("found %+v in what was sent", r)
		}
	})
}

// An answer that is no error and no stream costs the look at its header; of a
// stream each event costs its first key.
func BenchmarkOrdinaryAnswer(b *testing.B) {
	b.Run("JSON", func(b *testing.B) {
		header := http.Header{"Content-Type": {"application/json"}}
		body := []byte(`{"choices":[{"message":{"content":"` + strings.Repeat("word ", 1000) + `"}}]}`)
		b.ReportAllocs()
		for b.Loop() {
			if s := Scan(200, header, nil); s != nil {
				s.Write(body)
			}
		}
	})
	b.Run("event", func(b *testing.B) {
		s := Scan(200, http.Header{"Content-Type": {"text/event-stream"}}, nil)
		event := []byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n")
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		for b.Loop() {
			s.left = maxScanned
			s.Write(event)
		}
	})
	b.Run("error", func(b *testing.B) {
		header := http.Header{"Content-Type": {"application/json"}}
		body := []byte(`{"detail":"the width must be a multiple of 8"}`)
		b.ReportAllocs()
		for b.Loop() {
			s := Scan(500, header, nil)
			s.Write(body)
			s.Report(nil)
		}
	})
}
