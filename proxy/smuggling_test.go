package proxy_test

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// wire is a backend that keeps every byte that it gets, and answers each request in
// the strictest reading.
type wire struct {
	url string
	mu  sync.Mutex
	got []string // guarded by mu; what came on each connection
}

func newWire(t *testing.T) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{url: "http://" + l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			at := len(w.got)
			w.got = append(w.got, "")
			w.mu.Unlock()
			go func() {
				defer c.Close()
				in := bufio.NewReader(io.TeeReader(c, writer(func(p []byte) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.got[at] += string(p)
				})))
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	return w
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// take gives what came since the last call.
func (w *wire) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Join(w.got, "")
	for i := range w.got {
		w.got[i] = ""
	}
	return all
}

const hidden = "GET /light/hidden HTTP/1.1\r\nHost: x\r\n\r\n"

// framings are requests whose end two servers may see at different places, by the
// kind of doubt. One of the readings has the request `hidden` behind the first.
func framings() map[string][]string {
	request := func(headers, body string) string {
		return "POST /light/x HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body
	}
	end := "0\r\n\r\n" + hidden
	length := fmt.Sprintf("Content-Length: %d\r\n", len(end))
	all := map[string][]string{}
	add := func(kind string, requests ...string) { all[kind] = append(all[kind], requests...) }
	for c := range 256 {
		if c == '\n' {
			continue
		}
		b := string([]byte{byte(c)})
		for _, te := range []string{
			b + "Transfer-Encoding: chunked", "Transfer-Encoding" + b + ": chunked", "Transfer-Encoding:" + b + "chunked", "Transfer-Encoding: chunked" + b,
			"Transfer" + b + "Encoding: chunked", "Transfer-Encoding: " + b + "chunked", "Transfer-Encoding: chun" + b + "ked", "X: y\r" + b +
				"Transfer-Encoding: chunked",
		} {
			add("a transfer encoding with an odd byte", request(length+te+"\r\n", end), request(te+"\r\n"+length, end))
		}
		for _, cl := range []string{
			b + "Content-Length: %d", "Content-Length" + b + ": %d", "Content-Length:" + b + "%d", "Content-Length: %d" + b, "Content-Length: " +
				b + "%d", "Content" + b + "Length: %d",
		} {
			if '0' <= c && c <= '9' {
				break // it is another length
			}
			// As a length it hides the second request; without it there are two.
			add("a length with an odd byte", request(fmt.Sprintf(cl, len(hidden))+"\r\n", hidden))
		}
		if strings.Contains("0123456789abcdefABCDEF", b) {
			continue // it is another size
		}
		add("a chunk size with an odd byte", request("Transfer-Encoding: chunked\r\n", "1"+b+"\r\nx\r\n"+end),
			request("Transfer-Encoding: chunked\r\n", b+"1\r\nx\r\n"+end),
			request("Transfer-Encoding: chunked\r\n", "1;a"+b+"\r\nx\r\n"+end), request("Transfer-Encoding: chunked\r\n", "1\r\nx"+b+"\n"+end))
	}
	for _, te := range []string{"chunked, identity", "identity, chunked", "chunked, chunked", "xchunked", "gzip, chunked", "\"chunked\"",
		"chunked;q=1", "", "identity", "CHUNKED", "chunked, ", ", chunked", "chunked\r\nTransfer-Encoding: identity",
		"identity\r\nTransfer-Encoding: chunked", "\r\n chunked", "x\r\n\tchunked"} {
		add("another transfer encoding", request(length+"Transfer-Encoding: "+te+"\r\n", end),
			request("Transfer-Encoding: "+te+"\r\n"+length, end), request("Transfer-Encoding: "+te+"\r\n", end))
	}
	for _, cl := range []string{"+%d", "-%d", "0x%x", "%d,%[1]d", "%d, 0", "0, %d", "0%d", "%d.0", "%de0", "1_%d", "'%d'",
		"99999999999999999999%d", "%d\r\nContent-Length: 0", "0\r\nContent-Length: %d", "\r\n %d", "%d\r\n ", "%d;x=1"} {
		add("another length", request("Content-Length: "+fmt.Sprintf(cl, len(hidden))+"\r\n", hidden))
	}
	for _, size := range []string{"0x1", "+1", "-1", "1_", "00000000000000001", "fffffffffffffffff", "1 ", " 1", "1;", "1 ;a=b", "1,", "", "g"} {
		add("another chunk size", request("Transfer-Encoding: chunked\r\n", size+"\r\nx\r\n"+end))
	}
	for _, name := range []string{"Transfer_Encoding", "transfer-encoding", "TRANSFER-ENCODING", "Transfer-Encoding\x00", "Transfer-Ending",
		"Content_Length"} {
		add("a name like it", request(length+name+": chunked\r\n", end))
	}
	return all
}

// oddHeads are requests that net/http takes and the proxy does not, by what it says.
var oddHeads = map[string][]string{
	"a line feed alone": {
		"POST /light/x HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
		"POST /light/x HTTP/1.1\r\nHost: x\nContent-Length: 2\r\n\r\n{}",
		"POST /light/x HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 2\r\n\r\n{}",
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\n{}",
		"GET /pass/x HTTP/1.1\nHost: x\r\n\r\n",
	},
	"goes on in a second line": {
		"POST /light/x HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\t2\r\n\r\n{}",
		"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	},
	"both a Content-Length and a Transfer-Encoding": {
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST /light/x HTTP/1.1\r\nHost: x\r\ntransfer-encoding: Chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
	},
}

// ordinary are requests that may come before another on its connection.
var ordinary = map[string]string{
	"no other":           "",
	"one without a body": "GET /light/x HTTP/1.1\r\nHost: x\r\n\r\n",
	"one with a length":  "POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na\nb\n\n",
	"a large one":        "POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 87500\r\n\r\n" + strings.Repeat("\nx\r\n\r\n ", 12500),
	"one that passes":    "POST /pass/x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n\n\n\n\n\n\n",
	"one in chunks": "POST /light/x HTTP/1.1\r\nHost: x\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
}

// TestAHeadThatCanBeReadInTwoWaysIsRefused, whatever comes before it, and however it is
// cut into packets.
func TestAHeadThatCanBeReadInTwoWaysIsRefused(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testOddHeads(t, false) })
	t.Run("within TLS", func(t *testing.T) { testOddHeads(t, true) })
}

func testOddHeads(t *testing.T, secure bool) {
	w := newWire(t)
	b := openSecure(t, w.url, secure)
	for before, first := range ordinary {
		for says, requests := range oddHeads {
			for _, request := range requests {
				for _, piece := range []int{1 << 20, 1, 7} {
					if piece <= 7 && len(first) > 1000 {
						continue
					}
					c, in := b.raw("")
					go func() {
						for rest := first + request + last; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
							if _, err := io.WriteString(c, rest[:min(piece, len(rest))]); err != nil {
								return
							}
						}
					}()
					if first != "" {
						if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusOK {
							t.Errorf("behind %s: got %v, %v for that, want 200", before, res, err)
							continue
						} else {
							io.Copy(io.Discard, res.Body)
						}
					}
					res, err := http.ReadResponse(in, nil)
					if err != nil {
						t.Errorf("behind %s: %q: %v", before, request, err)
						continue
					}
					body, _ := io.ReadAll(res.Body)
					if res.StatusCode != http.StatusBadRequest || !res.Close || !strings.Contains(string(body), says) {
						t.Errorf("behind %s: %q: got %s, closed %v, %s, want 400 that says %s", before, request, res.Status, res.Close, body, says)
					}
					c.Close()
				}
			}
		}
	}
}

// last is what ends a connection that is kept.
const last = "GET /light/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// TestOrdinaryRequestsAreNotRefused in any order on one connection, in any pieces.
func TestOrdinaryRequestsAreNotRefused(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testOrdinaryHeads(t, false) })
	t.Run("within TLS", func(t *testing.T) { testOrdinaryHeads(t, true) })
}

func testOrdinaryHeads(t *testing.T, secure bool) {
	w := newWire(t)
	b := openSecure(t, w.url, secure)
	for _, piece := range []int{1 << 20, 3, 1000} {
		c, in := b.raw("")
		var all strings.Builder
		var want int
		for range 4 {
			for _, request := range ordinary {
				if request == "" || piece == 3 && len(request) > 1000 {
					continue
				}
				all.WriteString(request)
				want++
			}
		}
		go func() {
			for rest := all.String() + last; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
				io.WriteString(c, rest[:min(piece, len(rest))])
			}
		}()
		for i := range want + 1 {
			res, err := http.ReadResponse(in, nil)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("in pieces of %d: answer %d: got %v, %v, want 200", piece, i, res, err)
			}
			io.Copy(io.Discard, res.Body)
		}
	}
}

// TestARequestHasOneEnd: what the backend gets has one length that every server reads
// alike, and what the proxy took for a body of one request is no request of its own.
func TestARequestHasOneEnd(t *testing.T) {
	w := newWire(t)
	b := openAt(t, w.url)
	total, refused, passed := 0, 0, 0
	for kind, requests := range framings() {
		for _, request := range requests {
			total++
			statuses := exchanged(t, b, request+last)
			got := w.take()
			if len(statuses) == 0 || statuses[0] == http.StatusBadRequest || statuses[0] == http.StatusNotImplemented {
				if refused++; got != "" {
					t.Errorf("%s: %q: refused with %v, and the backend got %q", kind, request, statuses, got)
				}
				continue
			}
			passed++
			var lengths []string
			head, _, _ := strings.Cut(got, "\r\n\r\n")
			for line := range strings.SplitSeq(head, "\r\n") {
				if aLength.MatchString(line) {
					lengths = append(lengths, line)
				}
			}
			if len(lengths) != 1 || !oneLength.MatchString(lengths[0]) {
				t.Errorf("%s: %q: the backend got the lengths %q, want one", kind, request, lengths)
			}
			// Where a length and anything like an encoding stand beside each other,
			// the request behind is one or none by the length alone.
			if lower := strings.ToLower(request); strings.Contains(lower, "chunked") && strings.Contains(lower, "content-length") &&
				strings.HasPrefix(lengths[0], "Transfer") {
				t.Errorf("%s: %q: the backend got %q beside a length", kind, request, lengths)
			}
		}
	}
	t.Logf("%d requests: %d refused, %d forwarded with one length", total, refused, passed)
	if refused == 0 || passed == 0 {
		t.Error("want some of both")
	}
}

var (
	// aLength is a header that some server takes for one of these: Python's read an
	// underscore as a dash.
	aLength = regexp.MustCompile(`(?i)^[^a-z!#$%&'*+.^|~` + "`" + `0-9-]*(transfer[-_ ]?encoding|content[-_ ]?length)[^a-z!#$%&'*+.^|~` +
		"`" + `0-9-]*:`)
	oneLength = regexp.MustCompile(`^(Content-Length: [0-9]+|Transfer-Encoding: chunked)$`)
)

// exchanged sends bytes and gives the statuses of all answers.
func exchanged(t *testing.T, b *box, request string) (statuses []int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, request)
	for in := bufio.NewReader(c); ; {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		io.Copy(io.Discard, res.Body)
		statuses = append(statuses, res.StatusCode)
	}
}

// openSecure opens a proxy with TLS or without.
func openSecure(t *testing.T, url string, secure bool) *box {
	if !secure {
		return openAt(t, url)
	}
	return openAt(t, url, secureSetup(t))
}

func secureSetup(t *testing.T) func(*proxy.Setup) {
	cert, key := certificate(t)
	return func(s *proxy.Setup) { s.Proxy.TLS = proxy.TLSConfig{Cert: cert, Key: key} }
}

// certificate is one of httptest's, in files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	server.Close()
	own := server.TLS.Certificates[0]
	private, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", own.Certificate[0]), write("key.pem", "PRIVATE KEY", private)
}
