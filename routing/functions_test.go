package routing_test

import (
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

// TestTheCostOfEveryEngineCanBeWritten has the expressions that engines'
// requests call for, in units of a GiB.
func TestTheCostOfEveryEngineCanBeWritten(t *testing.T) {
	const (
		images    = "gib(1) * num(body.n, 1) * megapixels(body.size, 1.048576) / 1.048576"
		chat      = `gib(num(body.max_completion_tokens ?? body.max_tokens, 256) / 256 + sum(body.messages ?? [], type(.content) == "array" ? count(.content, .type == "image_url") : 0))`
		prompts   = `gib(type(body.input) == "array" ? len(body.input) : 1)`
		documents = `gib(1 + len(body.documents ?? body.texts ?? []))`
		comfy     = `gib(sum(filter(values(body.prompt), .inputs?.steps != nil), num(.inputs.steps, 20)) / 28.0 *
			max(1.0, sum(filter(values(body.prompt), has(.inputs, "batch_size") && has(.inputs, "width")), num(.inputs.batch_size, 1) * num(.inputs.width, 1024) * num(.inputs.height, 1024)) / 1048576.0))`
		a1111 = "gib(num(body.batch_size, 1) * num(body.n_iter, 1) * num(body.steps, 28) / 28 * num(body.width, 1024) * num(body.height, 1024) / " +
			"1048576) * (flag(body.enable_hr, false) ? 1 + num(body.hr_scale, 2) ** 2 : 1)"
	)
	graph := func(steps string) string {
		return `{"prompt":{"3":{"class_type":"KSampler","inputs":{"seed":1,"steps":` + steps +
			`,"model":["4",0]}},"5":{"inputs":{"width":1024,"height":"1024","batch_size":2}},"9":{"class_type":"SaveImage"}}}`
	}
	form := func(fields ...string) string {
		var b strings.Builder
		for _, f := range fields {
			name, value, _ := strings.Cut(f, "=")
			b.WriteString("--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n")
		}
		return b.String() + "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: " +
			"image/png\r\n\r\n\x89PNG\r\n--b--\r\n"
	}
	const multipart = "Content-Type: multipart/form-data; boundary=b"
	for _, c := range []struct {
		engine, vram, body, contentType string
		want                            admission.Bytes
	}{
		{"openai images", images, `{"n":4,"size":"2048x1024"}`, "", 8 * gib},
		{"openai images", images, `{"prompt":"a cat"}`, "", 1 * gib},
		{"openai images, in doubt", images, `{"n":[4]}`, "", 34 * gib},
		{"openai edits", images, form("prompt=a cat", "n=4", "size=2048x1024"), multipart, 8 * gib},
		{"openai edits", images, form("prompt=a cat"), multipart, 1 * gib},
		{"openai edits, in doubt", images, form("n=4", "n=1"), multipart, 34 * gib},
		{"openai variations", "gib(num(body.n, 1))", "n=3&size=auto", "Content-Type: application/x-www-form-urlencoded", 3 * gib},
		{"openai videos", "gib(10)", `{}`, "", 10 * gib},
		{"transcriptions", "gib(1 + size / 1000.0)", strings.Repeat(" ", 2998) + "{}", "", 4 * gib},
		{"openai speech", `gib(1 + len(body.input ?? "") / 500.0)`, `{"input":"` + strings.Repeat("é", 500) + `"}`, "", 2 * gib},
		{"openai chat", chat, `{"messages":[{"content":"hi"},{"content":[{"type":"text"},{"type":"image_url"},{"type":"image_url"}]}],"max_tokens":512}`, "", 4 * gib},
		{"openai chat", chat, `{}`, "", 1 * gib},
		{"openai chat, in doubt", chat, `{"messages":{"0":{}}}`, "", 34 * gib},
		{"openai completions", "gib(num(body.n, 1) * num(body.max_tokens, 256) / 256)", `{"n":2,"max_tokens":"1024"}`, "", 8 * gib},
		{"openai embeddings", prompts, `{"input":["a","b","c"]}`, "", 3 * gib},
		{"openai embeddings", prompts, `{"input":"abc"}`, "", 1 * gib},
		{"rerank", documents, `{"documents":["a","b"]}`, "", 3 * gib},
		{"rerank", documents, `{"texts":["a"]}`, "", 2 * gib},
		{"rerank", documents, `{}`, "", 1 * gib},
		{"comfyui", comfy, graph("28"), "", 2 * gib},
		{"comfyui, steps from another node", comfy, graph(`["7",0]`), "", 34 * gib},
		{"comfyui, no graph", comfy, `{}`, "", 34 * gib},
		{"a1111", a1111, `{"batch_size":2}`, "", 2 * gib},
		{"a1111", a1111, `{"enable_hr":true,"hr_scale":1}`, "", 2 * gib},
		{"a1111, as pydantic reads it", a1111, `{"enable_hr":"on"}`, "", 5 * gib},
		{"a1111, in doubt", a1111, `{"enable_hr":"false"}`, "", 34 * gib},
		{"ollama", "gib(num(body.options?.num_predict, 256) / 256 + len(body.images ?? []))", `{"images":["QQ==","QQ=="]}`, "", 3 * gib},
		{"ollama, without a limit", "gib(num(body.options?.num_predict, 256) / 256)", `{"options":{"num_predict":-1}}`, "", 34 * gib},
		{"tgi", "gib(num(body.parameters?.max_new_tokens, 256) / 256)", `{"parameters":{"max_new_tokens":512}}`, "", 2 * gib},
		{"sglang", `gib((type(body.text) == "array" ? len(body.text) : 1) * num(body.sampling_params?.max_new_tokens, 128) / 128)`,
			`{"text":["a","b"]}`, "", 2 * gib},
		{"triton", "gib(max(1.0, num(body.inputs?.[0]?.shape?.[0], 1)))", `{"inputs":[{"shape":[4,3]}]}`, "", 4 * gib},
		{"diffusers", "mib(1024) * num(body.num_images_per_prompt, 1) * num(body.width, 1024) * num(body.height, 1024) / 1048576.0",
			`{"num_images_per_prompt":3,"width":2048}`, "", 6 * gib},
	} {
		var headers []string
		if c.contentType != "" {
			headers = append(headers, c.contentType)
		}
		if got := demand(t, c.vram, c.body, headers...); got != c.want {
			t.Errorf("%s: %s with %.200q: got %v, want %v", c.engine, c.vram, c.body, got, c.want)
		}
	}
	vqa := `any(body.messages ?? [], type(.content) == "array" && any(.content, .type == "image_url"))`
	table := aTable(t, light("vqa", when(vqa)), light("chat", path("/**")))
	for body, want := range map[string]string{
		`{"messages":[{"content":"hi"},{"content":[{"type":"text"},{"type":"image_url"}]}]}`: "vqa",
		`{"messages":[{"content":[{"type":"text"}]}]}`:                                       "chat",
		`{"messages":[]}`: "chat",
		`{}`:              "chat",
	} {
		r, b := posted(t, "/", body)
		wantRule(t, table, r, b, want)
	}
}

func TestAValueIsNeverLessThanAServerTakesItFor(t *testing.T) {
	const doubt = -1
	for expression, cases := range map[string]map[string]float64{
		"gib(num(body.x, 2))": {
			`null`: 2, `""`: 2, `"auto"`: 2, `" "`: 2, `1`: 1, `3`: 3, `3.5`: 3.5, `"3"`: 3, `" +3\n"`: 3, `"3."`: 3, `"1"`: 1, `"1.5"`: 2,
			`1.5`: 1.5, `" 1"`: 2, `0.5`: 2, `"+1"`: 2, `"003"`: 3, `"3e0"`: 3,
			`0`: 2, `-0`: 2, `1e-400`: 2, `"0"`: 2, `"0.0"`: 2, // Python's `x or 2`
			`-1`: doubt, `"-1"`: doubt, `true`: doubt, `false`: doubt, `[3]`: doubt, `{}`: doubt, `{"a":3}`: doubt,
			`"1_0"`: doubt, `"3e-1"`: doubt, `"0x3"`: doubt, `"0x1p4"`: doubt, `"3,0"`: doubt, `"3k"`: doubt, `"３"`: doubt, `"3\u00a0"`: doubt,
			`"\u000b3"`: doubt,
			`"nan"`:     doubt, `"inf"`: doubt, `"-Infinity"`: doubt, `"1e400"`: doubt, `"3 0"`: doubt,
		},
		"gib(4 + num(body.x, 2))": {`2`: 6, `-1`: doubt, `"-1"`: doubt},
		"gib(megapixels(body.x, 2))": {
			`null`: 2, `""`: 2, `"auto"`: 2, `"x"`: 2, `"square_hd"`: 2, `"1000x1000"`: 1, `"1000x4000"`: 4,
			`"2000X2000"`: 4, `"2000 x 2000"`: 4, `"2000*2000"`: 4, `"2000×2000"`: 4, `" +2000x2000\n"`: 4,
			`"1000X1000"`: 2, `"1000 x 1000"`: 2, `" 1000x1000"`: 2, `"0x0"`: 2, `"0x1000"`: 2, // which some servers do not know
			`1`: doubt, `1024`: doubt, `[2000,2000]`: doubt, `{"width":2000}`: doubt, `true`: doubt,
			`"2e3x2e3"`: doubt, `"infxinf"`: doubt, `".2000x2000"`: doubt, `"1.2000x2000"`: doubt, `"1000"`: doubt, `"1000x"`: doubt,
			`"x1000"`: doubt, `"1x1000x1000"`: doubt, `"16:9"`: doubt, `"4K"`: doubt, `"landscape_4_3"`: doubt, `"1000х1000"`: doubt, `"-1x-1"`: doubt,
		},
		"gib(flag(body.x, false) ? 2 : 1)": {
			`null`: 1, `false`: 1, `0`: 1, `""`: 1, `true`: 2, `1`: 2, `"1"`: 2, `"True"`: 2, `" on"`: 2, `"yes"`: 2,
			`"false"`: doubt, `"0"`: doubt, `2`: doubt, `[]`: doubt, `{}`: doubt, `"2"`: doubt,
		},
		"gib(flag(body.x, true) ? 2 : 1)": {`null`: 2, `false`: 1, `""`: 2},
		"mib(1024 * num(body.x, 1))":      {`2`: 2},
		"gib(body.x)":                     {`2`: 2, `"2"`: doubt, `null`: doubt, `true`: doubt},
		"gib(len(body.x))":                {`[1,2]`: 2, `"ab"`: 2, `{"a":1}`: 1, `null`: doubt, `2`: doubt},
		"gib(len(body.x ?? [1]))":         {`[1,2]`: 2, `null`: 1, `true`: doubt},
		`gib(has(body.x, "a") ? 2 : 1)`:   {`{"a":null}`: 2, `["a"]`: 2, `{}`: 1, `null`: 1},
	} {
		for value, want := range cases {
			bytes := admission.Bytes(want * float64(gib))
			if want == doubt {
				bytes = 34 * gib
			}
			if got := demand(t, expression, `{"x":`+value+`}`); got != bytes {
				t.Errorf("%s with %s: got %v, want %v", expression, value, got, bytes)
			}
		}
	}
}
