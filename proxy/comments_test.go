package proxy_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// commented is a box whose streams get a comment each millisecond while they wait, and
// whose backend answers by its path.
func commented(t *testing.T, dialect string) (b *box, arrived <-chan *http.Request, let chan<- struct{}) {
	came, gate := make(chan *http.Request, 10), make(chan struct{})
	b = open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- r
		select {
		case <-gate:
		case <-t.Context().Done():
		}
		switch r.Header.Get("X-Answer") {
		case "error":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(500)
			io.WriteString(w, "{\r\n \"error\": \"no\"\r\n}")
		case "json":
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{\"one\": 1}\n")
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("X-Own", "yes")
			io.WriteString(w, "data: one\n\n")
			w.(http.Flusher).Flush()
			io.WriteString(w, "data: [DONE]\n\n")
		}
	}), func(s *proxy.Setup) {
		for i := range s.Routing.Routes {
			s.Routing.Routes[i].WaitingComments = time.Millisecond
			s.Routing.Routes[i].Errors = dialect
		}
		s.Routing.Routes[1].WaitingComments = 0           // pass
		s.Routing.Routes[2].WaitingComments = time.Minute // slow: what goes there does not wait so long
		class(s, "light", func(c *routing.ClassConfig) { c.Slots = 1 })
	})
	return b, came, gate
}

// opened is an answer that is being read.
type opened struct {
	*http.Response
	lines *bufio.Reader
}

func (b *box) stream(body string, headers ...string) <-chan opened {
	return b.streamAt("/light/x", body, headers...)
}

func (b *box) streamAt(path, body string, headers ...string) <-chan opened {
	got := make(chan opened, 1)
	r := b.request(b.t.Context(), "POST", path, body, append(headers, "Content-Type", "application/json")...)
	go func() {
		res, err := b.client.Do(r)
		if err != nil {
			b.t.Error(err)
			close(got)
			return
		}
		got <- opened{res, bufio.NewReader(res.Body)}
	}()
	return got
}

// rest is what follows the comments.
func (o opened) rest(t *testing.T) string {
	t.Helper()
	all, err := io.ReadAll(o.lines)
	if err != nil {
		t.Error(err)
	}
	var rest []string
	for event := range strings.SplitAfterSeq(strings.TrimPrefix(string(all), "\n"), "\n\n") {
		if !strings.HasPrefix(event, ": waiting") {
			rest = append(rest, event)
		}
	}
	return strings.Join(rest, "")
}

const streamed = `{"stream": true}`

func TestAStreamThatWaitsGetsComments(t *testing.T) {
	for _, c := range []struct{ name, dialect, answer, want string }{
		{"a stream", "problem", "", "data: one\n\ndata: [DONE]\n\n"},
		{"an error", "problem", "error", "event: error\ndata: {\ndata:  \"error\": \"no\"\ndata: }\n\n"},
		{"an error for OpenAI's clients", "openai", "error", "data: {\ndata:  \"error\": \"no\"\ndata: }\n\n"},
		{"an answer in one piece", "problem", "json", "data: {\"one\": 1}\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, arrived, let := commented(t, c.dialect)
			first := b.streamAt("/slow/x", streamed)
			<-arrived
			second := <-b.stream(streamed, "X-Answer", c.answer, "Accept-Encoding", "gzip")
			if second.StatusCode != 200 || second.Header.Get("Content-Type") != "text/event-stream" || second.Header.Get("X-Anteroom-Class") != "light" {
				t.Errorf("while it waits it gets %s %v", second.Status, second.Header)
			}
			line := ""
			for !strings.HasPrefix(line, ": waiting, position 0") { // soon it is known
				var err error
				if line, err = second.lines.ReadString('\n'); err != nil || line != "\n" && !strings.HasPrefix(line, ": waiting") {
					t.Fatalf("while it waits it gets %q, %v", line, err)
				}
			}
			let <- struct{}{}
			if got := <-first; got.Header.Get("X-Own") != "yes" || got.rest(t) != "data: one\n\ndata: [DONE]\n\n" {
				t.Errorf("the first, which did not wait, got %v", got.Header)
			}
			if r := <-arrived; r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("the backend is offered %s, and the answer has begun without", r.Header.Get("Accept-Encoding"))
			}
			let <- struct{}{}
			if got := second.rest(t); got != c.want {
				t.Errorf("it got %q, want %q", got, c.want)
			}
		})
	}
}

// TestARefusalAfterCommentsIsAnEvent in what the client speaks.
func TestARefusalAfterCommentsIsAnEvent(t *testing.T) {
	for dialect, want := range map[string]string{"problem": "event: error\ndata: {\"type\":\"urn:anteroom:cancelled_by_operator\"",
		"openai": `data: {"error":{"message":`} {
		b, arrived, let := commented(t, dialect)
		first := b.stream(streamed)
		<-arrived
		second := <-b.stream(streamed)
		second.lines.ReadString('\n')
		b.controller.Cancel(b.controller.Queue(1)[0].ID)
		if got := second.rest(t); !strings.Contains(got, want) || !strings.Contains(got, "cancelled_by_operator") || !strings.HasSuffix(got, "}\n\n") {
			t.Errorf("%s: it got %q, want %q", dialect, got, want)
		}
		let <- struct{}{}
		io.Copy(io.Discard, (<-first).Body)
		eventually(t, "the log has the code", func() bool { return strings.Contains(b.logs.String(), `"code":"cancelled_by_operator"`) })
	}
}

// TestOnlyStreamsGetComments, and none where the route says nothing of them.
func TestOnlyStreamsGetComments(t *testing.T) {
	b, arrived, let := commented(t, "problem")
	first := b.stream(streamed)
	<-arrived
	second := b.stream(`{"stream": false}`, "X-Answer", "error")
	eventually(t, "it waits", func() bool { return b.waiting() == 1 })
	let <- struct{}{}
	io.Copy(io.Discard, (<-first).Body)
	<-arrived
	let <- struct{}{}
	if got := <-second; got.StatusCode != 500 || got.rest(t) != "{\r\n \"error\": \"no\"\r\n}" {
		t.Errorf("what asks for no stream got %s", got.Status)
	}
}
