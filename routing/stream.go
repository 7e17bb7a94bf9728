package routing

import (
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/routing/body"
)

// streaming is the key by which the bodies of language models ask for a stream.
var streaming = func() *body.Names {
	n := new(body.Names)
	n.Add([]string{"stream"}, nil, false)
	return n
}()

// session is the key by which a request to join Gradio's queue names its session.
var session = func() *body.Names {
	n := new(body.Names)
	n.Add([]string{"session_hash"}, nil, false)
	return n
}()

// GradioSession is the session that a request to join Gradio's queue names; empty: it
// names none, or cannot be read.
func GradioSession(r *http.Request, b Body) string {
	read := body.Read(r, &b, session)
	object, _ := read.Body.(map[string]any)
	name, _ := object["session_hash"].(string)
	return name
}

// AsksForStream says that a request is to be answered piece by piece: by the key
// of OpenAI's, Anthropic's and Ollama's bodies, by what it accepts, or by Gemini's
// path. Ollama streams unless it is told not to.
func AsksForStream(r *http.Request, b Body) bool {
	for _, accept := range r.Header["Accept"] {
		if strings.HasPrefix(strings.TrimSpace(accept), "text/event-stream") {
			return true
		}
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	if strings.HasSuffix(path, ":streamGenerateContent") {
		return true
	}
	read := body.Read(r, &b, streaming)
	if object, ok := read.Body.(map[string]any); ok && read.Err == nil {
		if v, said := object["stream"]; said {
			return v == true
		}
	}
	return strings.HasSuffix(path, "/api/chat") || strings.HasSuffix(path, "/api/generate")
}
