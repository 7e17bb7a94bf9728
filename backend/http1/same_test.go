package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend/http1"
)

// recorded is a connection that keeps what is written to it.
type recorded struct {
	net.Conn
	all *bytes.Buffer
}

func (r *recorded) Write(p []byte) (int, error) {
	r.all.Write(p)
	return r.Conn.Write(p)
}

// piped is a transport each of whose connections goes to a function.
func piped(each func(far net.Conn)) (*http.Transport, *bytes.Buffer) {
	kept := new(bytes.Buffer)
	return &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 1 << 16, DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go each(far)
		return &recorded{near, kept}, nil
	}}, kept
}

// TestARequestIsSentAsNetHTTPSendsIt to the byte.
func TestARequestIsSentAsNetHTTPSendsIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, bytes.Repeat([]byte("file"), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := func(text string) io.ReadCloser { return io.NopCloser(readerOf([]byte(text))) }
	for name, change := range map[string]func(r *http.Request){
		"nothing":     func(*http.Request) {},
		"NoBody":      func(r *http.Request) { r.Body = http.NoBody },
		"Empty":       func(r *http.Request) { r.Body, r.TransferEncoding = http1.Empty{}, []string{"identity"} },
		"in memory":   func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4 },
		"bytes":       func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(bytes.NewReader([]byte("body"))), 4 },
		"a buffer":    func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(bytes.NewBufferString("body")), 4 },
		"of a length": func(r *http.Request) { r.Body, r.ContentLength = unknown("body"), 4 },
		"20 KB in memory": func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 20_000))), 20_000
		},
		"100 KB":              func(r *http.Request) { r.Body, r.ContentLength = unknown(strings.Repeat("x", 100_000)), 100_000 },
		"a file":              func(r *http.Request) { r.Body, _ = os.Open(file); r.ContentLength = 40_000 },
		"chunked":             func(r *http.Request) { r.Body, r.TransferEncoding = unknown("body"), []string{"chunked"} },
		"chunked and nothing": func(r *http.Request) { r.Body, r.TransferEncoding = unknown(""), []string{"chunked"} },
		"chunked, with a trailer": func(r *http.Request) {
			r.Body, r.TransferEncoding, r.Trailer = unknown("body"), []string{"chunked"}, http.Header{"B": {"2"}, "A": {"1", "x"}, "C": nil}
		},
		"chunked, though NoBody": func(r *http.Request) { r.Body, r.TransferEncoding = http.NoBody, []string{"chunked"} },
		"a trailer alone":        func(r *http.Request) { r.Trailer = http.Header{"B": {"2"}} },
		"a host":                 func(r *http.Request) { r.Host = "other.example:8080" },
		"a wrong host":           func(r *http.Request) { r.Host = "a b" },
		"a host with a zone":     func(r *http.Request) { r.Host = "[fe80::1%en0]:80" },
		"a host in Chinese":      func(r *http.Request) { r.Host = "例え" },
		"without an agent":       func(r *http.Request) { r.Header["User-Agent"] = []string{""} },
		"with an agent":          func(r *http.Request) { r.Header["User-Agent"] = []string{" curl ", "x"} },
		"close":                  func(r *http.Request) { r.Close = true },
		"close, twice": func(r *http.Request) {
			r.Close = true
			r.Header.Set("Connection", "close, x")
		},
		"headers": func(r *http.Request) {
			r.Header = http.Header{"B": {"2", " 3 "}, "a": {"1"}, "C": {""}, "D": nil, "Content-Length": {"17"}, "Transfer-Encoding": {"x"},
				"Host": {"x"}, "Trailer": {"x"}, "Te": {"trailers"}, "X-Ü": nil, "É": {"é"}}
			delete(r.Header, "X-Ü")
			delete(r.Header, "É")
		},
		"a query":      func(r *http.Request) { r.URL.RawQuery = "a=1;b=%zz" },
		"opaque":       func(r *http.Request) { r.URL.Opaque = "/a%2Fb|c" },
		"asterisk":     func(r *http.Request) { r.URL.Path = "*" },
		"a long head":  func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 40_000)) },
		"HTTP/1.0 in":  func(r *http.Request) { r.Proto, r.ProtoMinor = "HTTP/1.0", 0 },
		"wrong header": func(r *http.Request) { r.Header["A B"] = []string{"x"} },
		"wrong value":  func(r *http.Request) { r.Header["A"] = []string{"x\r\nB: c"} },
		"wrong length": func(r *http.Request) { r.ContentLength = 3 },
	} {
		for _, method := range []string{"", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "WHAT", "A B"} {
			var sent [2]string
			var failed [2]bool
			for i := range sent {
				standard, kept := piped(func(far net.Conn) {
					defer far.Close()
					if r, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
						io.Copy(io.Discard, r.Body)
						io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				r, err := http.NewRequestWithContext(t.Context(), "GET", "http://box/path", nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Method = method
				change(r)
				defer standard.CloseIdleConnections()
				transport := http.RoundTripper(standard)
				if i == 1 {
					transport = http1.New(standard, "box")
				}
				res, err := transport.RoundTrip(r)
				if err == nil {
					res.Body.Close()
				}
				standard.CloseIdleConnections()
				sent[i], failed[i] = kept.String(), err != nil
			}
			if sent[0] != sent[1] || failed[0] != failed[1] {
				t.Errorf("%s %s: net/http sends, failed %v:\n%.600q\nhttp1, failed %v:\n%.600q", method, name, failed[0], sent[0], failed[1], sent[1])
			}
		}
	}
}

// outcome is all that can be seen of an answer.
type outcome struct {
	Failed, Cut            bool
	Status, Proto          string
	Header, Trailer, Hints http.Header
	Length                 int64
	Encoding               []string
	Close, Uncompressed    bool
	Body                   string
}

// outcomeOf sends a request to a server that answers with these bytes and then ends.
func outcomeOf(t testing.TB, method, answer string, lean bool) (o outcome) {
	standard, _ := piped(func(far net.Conn) {
		defer far.Close()
		if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
			io.WriteString(far, answer)
		}
	})
	defer standard.CloseIdleConnections()
	transport := http.RoundTripper(standard)
	if lean {
		transport = http1.New(standard, "box")
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://box/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body, r.TransferEncoding = http1.Empty{}, []string{"identity"} // sent once
	res, err := transport.RoundTrip(r)
	if err != nil {
		return outcome{Failed: true}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		res.Body.Close()
		return outcome{Status: res.Status} // it has a body only by http.Transport
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	return outcome{Cut: err != nil, Status: res.Status, Proto: res.Proto, Header: res.Header, Trailer: res.Trailer, Length: res.ContentLength,
		Encoding: res.TransferEncoding, Close: res.Close, Uncompressed: res.Uncompressed, Body: string(body)}
}

func sameOutcome(t testing.TB, method, answer string) {
	t.Helper()
	if want, got := outcomeOf(t, method, answer, false), outcomeOf(t, method, answer, true); !reflect.DeepEqual(got, want) {
		t.Errorf("%s %q:\ngot  %+v\nwant %+v", method, answer, got, want)
	}
}

const ok = "HTTP/1.1 200 OK\r\n"

var someAnswers = []string{
	"", "x", "\r\n", ok, ok + "\r\n", ok + "\r\nbody", fine, ok + "Content-Length: 0\r\n\r\n", ok + "Content-Length: 9\r\n\r\nfine",
	ok + "Content-Length: 4\r\nContent-Length: 4\r\n\r\nfine", ok + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nfine", ok + "Content-Length: +4\r\n\r\nfine",
	ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", ok + "Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n4;x=y\r\nfine\r\n0\r\nA: 1\r\nB: 2\r\n\r\n",
	ok + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\nfine\r\n0\r\n\r\n", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nfi",
	ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ok + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
	ok + "Transfer-Encoding: CHUNKED\r\n\r\n4\nfine\n0\n\n", "HTTP/1.0 200 OK\r\n\r\nfine", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nfine", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nfine",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + fine, "HTTP/1.1 100 Continue\r\n\r\n" + fine,
	"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/1.1 199 What\r\n\r\n", "HTTP/1.1 099 What\r\n\r\n",
	"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nfine", "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nfine", "HTTP/1.1  200  OK \r\n\r\n", "http/1.1 200 OK\r\n\r\n",
	"HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 4\n\nfine", ok + "A: 1\r\n b\r\n\tc\r\nB : 2\r\n\r\n", ok + " A: 1\r\n\r\n", ok + "A\r\n\r\n", ok + ": 1\r\n\r\n",
	ok + "a: 1\r\nA: 2\r\nx_y: 3\r\nÜ: 4\r\n\r\n", ok + "A: b\x00c\r\n\r\n", ok + "A: \x80\r\nContent-Length: 4\r\n\r\nfine", ok + "Connection: close\r\nContent-Length: 4\r\n\r\nfine",
	ok + "Connection: Close, x\r\nKeep-Alive: timeout=5\r\n\r\n", ok + "Pragma: no-cache\r\nContent-Length: 0\r\n\r\n", ok + "X: " + strings.Repeat("x", 70_000) + "\r\n\r\n",
	ok + strings.Repeat("X: y\r\n", 20_000) + "\r\n", strings.Repeat("HTTP/1.1 103 E\r\nA: b\r\n\r\n", 5000) + fine, fine + fine, ok + "A:\r\nB:  \r\nC: \t d \t\r\nContent-Length: 4 \r\n\r\nfine",
	ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + strings.Repeat("x", 9000) + "\r\n\r\n", ok + "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
	ok + "Content-Length: 4\r\nA: 1\r\r\nB: 2\r\n\r\nfine", ok + "Content-Length:\r\n\r\nfine", "HTTP/1.1 -20 OK\r\n\r\n", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}

var methods = []string{"GET", "HEAD", "POST"}

// FuzzAnswers compares with http.Transport what comes of any bytes.
func FuzzAnswers(f *testing.F) {
	log.SetOutput(io.Discard) // net/http tells of what comes unasked
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
	for i := range methods {
		for _, answer := range someAnswers {
			f.Add(byte(i), answer)
		}
	}
	f.Fuzz(func(t *testing.T, method byte, answer string) {
		if len(answer) < 1<<20 {
			sameOutcome(t, methods[int(method)%len(methods)], answer)
		}
	})
}

// TestAnswersAreReadAsNetHTTPReadsThem changes some answers in thousands of ways, by a
// seed that is printed.
func TestAnswersAreReadAsNetHTTPReadsThem(t *testing.T) {
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	pieces := []string{"\r\n", "\n", "\r", ":", " ", "\t", "0", "1", "4", "-", ",", ";", "\x00", "\x7f", "é", "HTTP/1.1", "HTTP/1.0", "200", "100", "204", "304",
		"Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n", "Trailer: A\r\n", "A: b\r\n", " folded\r\n", "\r\n\r\n", "0\r\n\r\n", "4\r\nfine\r\n"}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		answer := someAnswers[random.IntN(len(someAnswers))]
		if len(answer) > 5000 {
			continue
		}
		for range 1 + random.IntN(4) {
			at := random.IntN(len(answer) + 1)
			end := min(len(answer), at+random.IntN(6))
			switch piece := pieces[random.IntN(len(pieces))]; random.IntN(4) {
			case 0:
				answer = answer[:at] + answer[end:]
			case 1:
				answer = answer[:at] + piece + answer[end:]
			case 2:
				answer = answer[:at] + answer[at:end] + answer[at:]
			default:
				answer = answer[:at] + piece + answer[at:]
			}
		}
		sameOutcome(t, methods[random.IntN(len(methods))], answer)
		if t.Failed() {
			t.Fatal(fmt.Sprintf("the seed is %d", seed))
		}
	}
}
