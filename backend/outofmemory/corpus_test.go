package outofmemory

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// talk is a prompt or an answer that talks about memory, made of word lists. It
// quotes errors, as people do.
func talk(r *rand.Rand) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	quote := said[r.IntN(len(said))].text
	short := quote[:strings.IndexAny(quote+".", ".\n(")]
	words := pick("CUDA out of memory", "cuda out of memory", "CUDA error: out of memory", "OutOfMemoryError", "torch.OutOfMemoryError",
		"CUBLAS_STATUS_ALLOC_FAILED", "RESOURCE_EXHAUSTED", "HIP out of memory", "cudaMalloc failed: out of memory", "out of memory", short)
	gpu := pick("an RTX 3060", "my 4090", "an A100", "two H100s", "a laptop GPU", "a T4 on Colab")
	model := pick("SDXL", "Flux", "Llama 3", "Whisper large", "a LoRA", "Stable Diffusion")
	return pick(
		"why do I get "+words+"?",
		"How do I fix "+words+" with "+model+" on "+gpu+"?",
		"a poster that says "+words,
		"a neon sign reading \""+words+"\", cinematic, 8k",
		words,
		words+" errors are caused by batches that are too large for "+gpu+".",
		words+" means that "+model+" does not fit on "+gpu+".",
		"The message `"+words+"` is what PyTorch raises when an allocation fails; lower the batch size.",
		"Explain this: "+quote,
		"My training of "+model+" crashed with "+words+" after three epochs. What now?",
		"To fix "+words+", set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True and try again.",
		"1. Lower the batch size. 2. Use "+model+" in fp16. If you still see "+words+" buy "+gpu+".",
		"```python\ntry:\n    model.generate()\nexcept torch.cuda.OutOfMemoryError:\n    print(\""+words+"\")\n```",
		"```\n"+quote+"\n```\nThis is what I see on "+gpu+".",
		"Review: the handler returns {\"error\": \""+words+"\"} with 200; it should be a 500.",
		"Translate into German: \""+short+"\"",
		"Write a haiku about "+words+" and "+gpu,
		"user: "+words+"\nassistant: Your card is full. "+words+" tells you so.",
		"Sentiment of the review 'great card, but "+words+" all day'?",
		"{\"error\":{\"message\":\""+short+"\"}}",
		"data: {\"error\":\""+short+"\"}",
	)
}

// exchange is what a client sent, and an answer that holds it or talks likewise.
type exchange struct {
	status          int
	kind, sent, got string
}

// exchanges gives an answer of some shape that holds a text as a client's or a
// model's.
func exchanges(r *rand.Rand) exchange {
	text := talk(r)
	q := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	sent := `{"model":"m","prompt":` + q(text) + `,"n":1}`
	chat := `{"model":"m","messages":[{"role":"user","content":` + q(text) + `}]}`
	words := strings.Fields(text)
	list := []exchange{
		// What a model wrote, in one piece and as it comes.
		{200, "application/json", chat,
			`{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":` + q(text) +
				`},"finish_reason":"stop"}]}`},
		{200, "application/json", sent, `{"model":"m","response":` + q(text) + `,"done":true}`},
		{200, "text/plain", sent, text},
		{200, "text/html", sent, "<html><body><p>" + text + "</p></body></html>"},
		{200, "text/event-stream", chat, deltas(words, func(w string) string {
			return `{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":` + q(w+" ") + `}}]}`
		})},
		{200, "text/event-stream", chat, deltas([]string{text}, func(w string) string { return `{"choices":[{"text":` + q(w) + `}]}` })},
		{200, "text/event-stream", chat, deltas([]string{text}, func(w string) string { return w })},
		{200, "text/event-stream", chat, deltas([]string{text}, func(w string) string { return `{"text":` + q(w) + `,"error":null}` })},
		{200, "text/event-stream", chat, deltas([]string{text}, func(w string) string { return `{"error":null,"message":` + q(w) + `}` })},
		{200, "text/event-stream", chat, "event: content_block_delta\n" + deltas([]string{text}, func(w string) string {
			return `{"type":"content_block_delta","delta":{"type":"text_delta","text":` + q(w) + `}}`
		})},
		{200, "text/event-stream", sent, "event: complete\n" + deltas([]string{text}, func(w string) string { return `[` + q(w) + `]` })},
		{200, "text/event-stream", sent, deltas([]string{text}, func(w string) string {
			return `{"msg":"process_completed","event_id":"e","output":{"data":[` + q(w) + `]},"success":true}`
		})},
		{200, "application/x-ndjson", chat, `{"model":"m","message":{"role":"assistant","content":` + q(text) + `},"done":false}` + "\n" +
			`{"model":"m","response":` + q(text) + `}` + "\n"},
		{200, "application/x-ndjson", chat, q(text) + "\n"},
		// Errors that say what the client sent: FastAPI, ComfyUI, OpenAI, text.
		{422, "application/json", sent,
			`{"detail":[{"type":"string_too_long","loc":["body","prompt"],"msg":"String should have at most 10 characters","input":` +
				q(text) + `,"ctx":{"max_length":10}}]}`},
		{422, "application/json", sent, `{"detail":[{"loc":["body","prompt"],"msg":` + q("Value error, not allowed: "+text) +
			`,"type":"value_error"}]}`},
		{400, "application/json", sent,
			`{"error":{"type":"prompt_outputs_failed_validation","message":"Prompt outputs failed validation","details":"","extra_info":{}},"node_errors":{` +
				`"6":{"errors":[{"type":"invalid_input_type","message":"Failed to convert","details":` + q("text, "+text+", invalid literal") +
				`,"extra_info":{` +
				`"received_value":` + q(text) + `,"exception_message":` + q("could not convert string: '"+text+"'") + `}}],"class_type":"CLIPTextEncode"}}}`},
		{400, "application/json", chat, `{"error":{"message":` + q("Invalid value for 'messages': "+text) +
			`,"type":"invalid_request_error","param":"messages"}}`},
		{400, "text/plain", sent, "bad input: " + sent},
		{500, "text/plain", sent, "bad input: " + sent},
		{500, "text/plain", sent, "could not parse prompt " + text},
		{500, "application/json", sent, `{"detail":` + q("Moderation refused the prompt: "+text) + `}`},
		{500, "application/json", sent, `{"error":"failed","request":` + sent + `}`},
		{500, "application/json", sent, `{"error":"failed","body":` + sent + `,"inputs":{"error":` + q(text) + `}}`},
		{500, "application/json", sent, `{"detail":` +
			q("1 validation error for Ask\nprompt\n  Input should be shorter [type=string_too_long, input_value='"+text+"', input_type=str]") + `}`},
		{500, "text/html", sent, "<html><body><h1>Server Error</h1><pre>prompt = '" + text + "'</pre></body></html>"},
		{404, "application/json", sent, `{"error":` + q("model '"+text+"' not found") + `}`},
		{400, "application/json", url.Values{"prompt": {text}}.Encode(), `{"error":` + q("unsupported prompt: "+text) + `}`},
		{400, "application/json", "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n" + text + "\r\n--b--", `{"message":` +
			q(text) + `}`},
		{503, "application/json", sent, `{"error":"queue is full","prompt":` + q(text) + `}`},
	}
	return list[r.IntN(len(list))]
}

func deltas(words []string, event func(string) string) string {
	var b strings.Builder
	for _, w := range words {
		for line := range strings.SplitSeq(event(w), "\n") {
			fmt.Fprintf(&b, "data: %s\n", line)
		}
		b.WriteString("\n")
	}
	return b.String() + "data: [DONE]\n\n"
}

// exchangesTried is how many there are; go test ./backend/outofmemory -run Talk -talks 100000
// tries more.
var exchangesTried = flag.Int("talks", 1000, "prompts and answers that talk about memory")

// 1,000 prompts and answers that talk about memory: none is an out-of-memory
// error.
func TestTalkOfMemoryIsNoError(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	wrong, kinds := 0, map[int]int{}
	for range *exchangesTried {
		x := exchanges(r)
		s := Scan(x.status, http.Header{"Content-Type": {x.kind}}, nil)
		s.Write([]byte(x.got))
		kinds[x.status]++
		if got, ok := s.Report(func(words string) bool { return Sent(strings.NewReader(x.sent), words) }); ok {
			if wrong++; wrong <= 10 {
				t.Errorf("%d %s: found %s %q\nsent %s\ngot  %s", x.status, x.kind, got.Engine, got.Words, x.sent, x.got)
			}
		}
	}
	t.Logf("%d of %d are taken for one, by status %v", wrong, *exchangesTried, kinds)
}

// What an engine says counts although the prompt has the same words.
func TestAnErrorCountsWhateverThePrompt(t *testing.T) {
	const torch = "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 47.50 GiB"
	for prompt, want := range map[string]bool{
		"a cat":                        true,
		"a poster: CUDA out of memory": true,
		"CUDA out of memory":           true,
		"CUDA out of memory. Tried to allocate 2.00 GiB": true,
		torch: false, // it cannot be told
	} {
		s := Scan(500, http.Header{"Content-Type": {"application/json"}}, nil)
		fmt.Fprintf(s, `{"detail":%s}`, quoted(torch))
		if _, ok := s.Report(func(words string) bool { return Sent(strings.NewReader(`{"prompt":`+quoted(prompt)+`}`), words) }); ok != want {
			t.Errorf("%q: got %v, want %v", prompt, ok, want)
		}
	}
}

func TestSentReadsEscapes(t *testing.T) {
	for body, want := range map[string]bool{
		`{"prompt":"CUDA out of memory"}`:                 true,
		`{"prompt":"\u0043UDA\nout of\tmemory"}`:          true,
		`{"prompt":"cuda OUT-OF-MEMORY"}`:                 true,
		"prompt=CUDA+out%20of%20mem%6Fry&n=1":             true,
		`{"prompt":"C:\\new\\table"}`:                     false,
		`{"prompt":"CUDA is out", "of": "the memory"}`:    false,
		strings.Repeat("x", 1<<20) + "CUDA out of memory": true,
		strings.Repeat("cudaoutofmemor ", 1<<14) + "y":    true,
		strings.Repeat("cudaoutofmemor ", 1<<14) + "x":    false,
		"": false,
	} {
		if got := Sent(strings.NewReader(body), "CUDA out of memory"); got != want {
			t.Errorf("%.60q: got %v, want %v", body, got, want)
		}
	}
}
