package backend_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
)

// sentBy is a client that sent that.
type sentBy string

func (c sentBy) Sent(words string) bool { return strings.Contains(string(c), words) }

func TestOutOfMemoryIsNoFailureOfTheBackend(t *testing.T) {
	const says = `{"detail":"cuDNN error: CUDNN_STATUS_ALLOC_FAILED"}`
	for name, c := range map[string]struct {
		status, body string
		client       backend.Client
		isMemory     bool
		failures     int
	}{
		"500":                    {"500 X", says, nil, true, 0},
		"502":                    {"502 X", says, nil, true, 0},
		"400":                    {"400 X", says, nil, true, 0},
		"another 500":            {"500 X", `{"detail":"division by zero"}`, nil, false, 1},
		"not sent by a client":   {"500 X", says, sentBy("a cat"), true, 0},
		"sent by a client":       {"500 X", says, sentBy("CUDNN_STATUS_ALLOC_FAILED"), false, 1},
		"200":                    {"200 OK", says, nil, false, 0},
		"a pattern of one's own": {"500 X", `{"detail":"device full"}`, nil, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendAt(t, answered(t, fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				c.status, len(c.body), c.body)),
				func(c *backend.Config) { c.OOMPatterns = []string{"device full"} })
			res, err := b.Send(newRequest(t, b, "POST", "/", strings.NewReader("x")), c.client)
			if err != nil {
				t.Fatal(err)
			}
			if got := backend.OutOfMemory(res.Body); got != nil {
				t.Error("it is known before its end")
			}
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(text) != c.body {
				t.Errorf("got %q, %v", text, err)
			}
			if got := backend.OutOfMemory(res.Body); (got != nil) != c.isMemory {
				t.Errorf("got %+v, want one: %v", got, c.isMemory)
			}
			if failed, _ := b.Failures(); failed != c.failures {
				t.Errorf("the breaker counts %d failures, want %d", failed, c.failures)
			}
		})
	}
}
