package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/telemetry"
)

// The numbers of tokens are at the end of a model's answer: in the object `usage` of
// OpenAI's and Anthropic's APIs, also in the last event of a stream (where the client has
// asked for it), and in the last line of Ollama's.

// tailLength is how much of an answer's end is kept.
const tailLength = 1 << 10

// tail keeps the end of an answer as it is read.
type tail struct {
	io.ReadCloser
	streamed bool
	end      []byte
}

// keepTail keeps the end of an answer that may say something of a model's use.
func keepTail(res *http.Response) *tail {
	if res.StatusCode/100 != 2 || res.Body == http.NoBody || res.Header.Get("Content-Encoding") != "" {
		return nil
	}
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	streamed := isEvents(res.Header)
	if !streamed && !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return nil
	}
	t := &tail{ReadCloser: res.Body, streamed: streamed}
	res.Body = t
	return t
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if read := p[:n]; len(read) >= tailLength {
		t.end = append(t.end[:0], read[len(read)-tailLength:]...)
	} else {
		if over := len(t.end) + len(read) - tailLength; over > 0 {
			t.end = append(t.end[:0], t.end[over:]...)
		}
		t.end = append(t.end, read...)
	}
	return n, err
}

// use is what the answer says about tokens, once it has been read; nil: the answer was not
// looked at.
func (t *tail) use() *telemetry.ModelUse {
	if t == nil {
		return nil
	}
	u := &telemetry.ModelUse{Input: -1, Output: -1, Streamed: t.streamed}
	// Quotes within a text are escaped, so a text that a model wrote cannot contain this.
	if i := bytes.LastIndex(t.end, []byte(`"usage"`)); i >= 0 {
		var said struct {
			Prompt     *int `json:"prompt_tokens"`
			Completion *int `json:"completion_tokens"`
			Input      *int `json:"input_tokens"`
			Output     *int `json:"output_tokens"`
		}
		if value, ok := bytes.CutPrefix(bytes.TrimLeft(t.end[i+len(`"usage"`):], " \t\r\n"), []byte(":")); ok &&
			json.NewDecoder(bytes.NewReader(value)).Decode(&said) == nil {
			u.Input, u.Output = either(said.Prompt, said.Input), either(said.Completion, said.Output)
		}
		return u
	}
	u.Input, u.Output = t.number(`"prompt_eval_count"`), t.number(`"eval_count"`)
	return u
}

func either(a, b *int) int {
	switch {
	case a != nil && *a >= 0:
		return *a
	case b != nil && *b >= 0:
		return *b
	}
	return -1
}

// number is the value of the last member of that name; -1: there is none.
func (t *tail) number(name string) int {
	i := bytes.LastIndex(t.end, []byte(name))
	if i < 0 {
		return -1
	}
	var n int
	value, ok := bytes.CutPrefix(bytes.TrimLeft(t.end[i+len(name):], " \t\r\n"), []byte(":"))
	if !ok || json.NewDecoder(bytes.NewReader(value)).Decode(&n) != nil || n < 0 {
		return -1
	}
	return n
}
