package proxy

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// TestHeadsFollowWhatNetHTTPReads: random requests in random pieces, as net/http's own
// reader frames them. What is odd is found in the head that has it, and in no other.
func TestHeadsFollowWhatNetHTTPReads(t *testing.T) {
	bodies := []string{"", "\n", "\n\n", "a\nb\r\n\r\n", "GET / HTTP/1.1\nHost: y\n\n", strings.Repeat("x\n", 3000)}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 7))
		var text strings.Builder
		var odd []bool
		for range 1 + random.IntN(6) {
			end := "\r\n"
			wrong := random.IntN(5) == 0
			if wrong {
				end = "\n"
			}
			body := bodies[random.IntN(len(bodies))]
			text.WriteString("POST /x HTTP/1.1\r\nHost: x" + end)
			if random.IntN(2) == 0 {
				text.WriteString("Transfer-Encoding: chunked\r\n\r\n")
				for rest := body; rest != ""; {
					n := 1 + random.IntN(len(rest))
					text.WriteString(strings.ToUpper(strconv.FormatInt(int64(n), 16)) + ";x=\"y\"\r\n" + rest[:n] + "\r\n")
					rest = rest[n:]
				}
				text.WriteString("0\r\n\r\n")
			} else {
				text.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
			}
			odd = append(odd, wrong)
		}
		h := new(heads)
		source := bufio.NewReaderSize(seen{h, pieces{strings.NewReader(text.String()), random}}, 4096)
		for i, want := range odd {
			r, err := http.ReadRequest(source)
			if err != nil {
				t.Fatalf("seed %d: request %d: %v", seed, i, err)
			}
			if got, lost := h.begin(r); (got != "") != want || lost {
				t.Fatalf("seed %d: request %d: odd %q, lost %v, want it odd: %v", seed, i, got, lost, want)
			}
			io.Copy(io.Discard, r.Body)
		}
	}
}

// seen looks at what is read.
type seen struct {
	h *heads
	r io.Reader
}

func (s seen) Read(p []byte) (int, error) { return read(s.r, s.h, p) }

// pieces reads in pieces.
type pieces struct {
	r      io.Reader
	random *rand.Rand
}

func (s pieces) Read(p []byte) (int, error) {
	if s.random.IntN(2) == 0 {
		p = p[:min(len(p), 1+s.random.IntN(40))]
	}
	return s.r.Read(p)
}

// BenchmarkHeads is what a request of the usual size takes.
func BenchmarkHeads(b *testing.B) {
	text := []byte("POST /v1/chat/completions HTTP/1.1\r\nHost: box:8080\r\nUser-Agent: OpenAI/Python 1.0\r\nAccept: " +
		"application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer 0123456789\r\nX-Stainless-Lang: " +
		"python\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	r := &http.Request{ProtoMajor: 1, ContentLength: 1024}
	h := new(heads)
	b.ReportAllocs()
	for b.Loop() {
		h.see(text)
		h.begin(r)
	}
}
