package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// TestAModelsAnswerSaysWhatItUsed in each engine's words, in one piece and as a stream,
// and never by what a model wrote.
func TestAModelsAnswerSaysWhatItUsed(t *testing.T) {
	const chat, embed, ollama = "/light/v1/chat/completions", "/light/v1/embeddings", "/light/api/chat"
	long := strings.Repeat("word ", 20_000)
	cases := []struct {
		name, path, kind, answer string
		input, output            string // tokens; empty: not said
		streamed                 bool
	}{
		{"OpenAI's", chat, "application/json", `{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16},"prompt_logprobs":null}`, "11", "5", false},
		{"a long one", chat, "application/json; charset=utf-8", `{"choices":[{"message":{"content":"` + long +
			`"}}],"usage" : {"prompt_tokens":11,"completion_tokens":5}}`, "11", "5", false},
		{"a stream with its use", chat, "text/event-stream", `data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}` + "\n\n" +
			`data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}` + "\n\ndata: [DONE]\n\n", "11", "5", true},
		{"a stream without", chat, "text/event-stream", `data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}` + "\n\ndata: [DONE]\n\n",
			"", "", true},
		{"Anthropic's", "/light/v1/messages", "application/json", `{"content":[],"usage":{"input_tokens":11,"output_tokens":5}}`, "11", "5", false},
		{"embeddings", embed, "application/json", `{"data":[{"embedding":[1,2,3]}],"usage":{"prompt_tokens":11,"total_tokens":11}}`, "11", "", false},
		{"Ollama's stream", ollama, "application/x-ndjson", `{"message":{"content":"hi"},"done":false}` + "\n" +
			`{"message":{"content":""},"done":true,"context":[1,2],"prompt_eval_count":11,"prompt_eval_duration":7,"eval_count":5,"eval_duration":9}` + "\n", "11", "5", true},
		{"a model that writes of its use", chat, "application/json",
			`{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":99} \"eval_count\":99"}}]}`, "", "", false},
		{"an answer that is none of these", chat, "application/json", `{"usage":"free","eval_count":"many"}`, "", "", false},
		{"another path", "/light/v1/models", "application/json", `{"usage":{"prompt_tokens":11,"completion_tokens":5}}`, "", "", false},
		{"an error", chat, "application/json", `error`, "", "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			collector := newReceiver(t)
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", c.kind)
				if c.answer == "error" {
					w.WriteHeader(http.StatusBadRequest)
				}
				flush := http.NewResponseController(w).Flush
				for line := range strings.Lines(c.answer) {
					io.WriteString(w, line)
					flush()
				}
			}))
			t.Cleanup(backend.Close)
			b := openTraced(t, backend.URL, telemetry.TracesConfig{Exporter: "otlp", Endpoint: collector.URL, Sample: 1}, func(s *proxy.Setup) {
				quick := s.Routing.Backends["quick"]
				quick.Preset = "vllm"
				s.Routing.Backends["quick"] = quick
			})
			if _, got := b.do("POST", c.path, "{}"); got != c.answer {
				t.Fatalf("got %.100q", got)
			}
			operation := map[string]string{chat: "chat", ollama: "chat", "/light/v1/messages": "chat", embed: "embeddings"}[c.path]
			labels := fmt.Sprintf(`gen_ai_operation_name=%q,gen_ai_provider_name="vllm",gen_ai_request_model=""`, operation)
			eventually(t, "the request has ended", func() bool { return b.line("request") != nil }) // the last that is told of it
			for series, want := range map[string]string{
				`gen_ai_client_inference_usage_input_tokens_total{` + labels:  c.input,
				`gen_ai_client_inference_usage_output_tokens_total{` + labels: strings.TrimPrefix(c.output, "0"),
				`gen_ai_server_time_to_first_token_seconds_count{` + labels:   map[bool]string{true: "1"}[c.streamed],
				`gen_ai_server_time_per_output_token_seconds_count{` + labels: map[bool]string{true: "1"}[c.streamed && c.output != ""],
			} {
				if got := b.metric(series); got != want && !(want == "" && got == "0") {
					t.Errorf("%s is %q, want %q", series, got, want)
				}
			}
			b.told.Shutdown(t.Context())
			server, _ := collector.trace()
			for key, want := range map[string]string{"gen_ai.usage.input_tokens": c.input, "gen_ai.usage.output_tokens": c.output} {
				if got := said(server, key); got != want {
					t.Errorf("the span's %s is %q, want %q", key, got, want)
				}
			}
			if got := said(server, "gen_ai.operation.name"); got != operation {
				t.Errorf("the operation is %q, want %q", got, operation)
			}
		})
	}
}
