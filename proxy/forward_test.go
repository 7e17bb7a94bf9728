package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// data is the same pseudo-random bytes for the same seed.
func data(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

func TestWhatTheBackendAnswersIsWhatTheClientGets(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header()["X-Twice"] = []string{"a", "b"}
		w.Header().Set("Content-Type", "image/png")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %x", r.Method, r.URL.RequestURI(), sha256.Sum256(body))
	}))
	sent := data(1, 10<<20)
	for _, path := range []string{"/light/a", "/slow/a", "/pass/a"} {
		res, got := b.do("PUT", path+"?q=1", string(sent))
		if want := fmt.Sprintf("PUT %s?q=1 %x", path, sha256.Sum256(sent)); got != want || res.StatusCode != http.StatusTeapot {
			t.Errorf("%s: got %d %q, want 418 %q", path, res.StatusCode, got, want)
		}
		if got := res.Header["X-Twice"]; len(got) != 2 || res.Header.Get("Content-Type") != "image/png" {
			t.Errorf("%s: headers came as %v", path, res.Header)
		}
	}
}

func TestALargeDownloadComesWhole(t *testing.T) {
	want := data(2, 50<<20)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(want) }))
	for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
		_, got := b.do("GET", path, "")
		if !bytes.Equal([]byte(got), want) {
			t.Errorf("%s: got %d bytes, want the %d that were sent", path, len(got), len(want))
		}
	}
	eventually(t, "all grants are back", func() bool { return b.running() == 0 })
}

func TestTheQueryReachesTheBackendAsItWasWritten(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.RawQuery) }))
	for _, query := range []string{"a=1;n=50", "a=%zz", "n=1&n=2&", strings.Repeat("a&", 11000) + "z=1"} {
		if _, got := b.do("GET", "/light/x?"+query, ""); got != query {
			t.Errorf("got %.60q, want %.60q", got, query)
		}
	}
}

func TestHeadersThatAClientMayNotSay(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Write(w)
		fmt.Fprintf(w, "Host: %s\n", r.Host)
	})
	spoofed := []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Port", "6666", "Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6",
		"X_api_key", "under", "X-Anteroom-Class", "light", "Connection", "X-Forwarded-For, X-Foo", "X-Foo", "bar", "X-Kept", "yes"}
	t.Run("are dropped or replaced", func(t *testing.T) {
		b := open(t, echo)
		_, got := b.do("POST", "/light/x", "{}", spoofed...)
		for _, never := range []string{"6.6.6.6", "6666", "under", "X-Anteroom-Class", "X-Foo", b.url[len("http://"):] + "\n"} {
			if strings.Contains(strings.TrimPrefix(got, "X-Forwarded-Host: "+b.url[7:]), never) && never != b.url[7:]+"\n" {
				t.Errorf("%q reached the backend:\n%s", never, got)
			}
		}
		for _, want := range []string{"X-Forwarded-For: 127.0.0.1\r\n", "X-Real-Ip: 127.0.0.1\r\n", "X-Kept: yes\r\n", "X-Forwarded-Proto: http\r\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q did not reach the backend:\n%s", want, got)
			}
		}
	})
	t.Run("are believed of a trusted peer", func(t *testing.T) {
		b := open(t, echo, func(s *proxy.Setup) { s.Proxy.Trusted = []string{"127.0.0.0/8"} })
		_, got := b.do("POST", "/light/x", "{}", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Real-Ip", "6.6.6.6",
			"X-Anteroom-Class", "light")
		for _, want := range []string{"X-Forwarded-For: 6.6.6.6, 127.0.0.1\r\n", "X-Forwarded-Proto: https\r\n", "X-Real-Ip: 6.6.6.6\r\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q did not reach the backend:\n%s", want, got)
			}
		}
		if strings.Contains(got, "X-Anteroom-Class") {
			t.Errorf("an internal header reached the backend:\n%s", got)
		}
	})
	t.Run("the host is the backend's unless it is preserved", func(t *testing.T) {
		b := open(t, echo)
		if _, got := b.do("GET", "/light/x", ""); strings.Contains(got, "Host: "+b.url[7:]+"\n") && !strings.Contains(got, "X-Forwarded-Host: "+b.url[7:]) {
			t.Errorf("the client's host reached the backend:\n%s", got)
		}
		b = open(t, echo, func(s *proxy.Setup) { setBackend(s, "quick", func(c *backend.Config) { c.PreserveHost = true }) })
		if _, got := b.do("GET", "/light/x", ""); !strings.Contains(got, "\nHost: "+b.url[7:]+"\n") {
			t.Errorf("the client's host did not reach the backend:\n%s", got)
		}
	})
}

func TestEveryEventOfAStreamComesAsItIsSent(t *testing.T) {
	for _, contentType := range []string{"text/event-stream", "application/x-ndjson"} {
		for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
			t.Run(contentType+path, func(t *testing.T) {
				next := make(chan struct{})
				b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", contentType)
					for i := range 5 {
						fmt.Fprintf(w, "event %d\n", i)
						http.NewResponseController(w).Flush()
						select { // the backend is held until the client has read
						case <-next:
						case <-t.Context().Done():
						}
					}
				}))
				res, err := b.client.Do(b.request(t.Context(), "POST", path, "{}"))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				lines := bufio.NewScanner(res.Body)
				for i := range 5 {
					if !lines.Scan() || lines.Text() != fmt.Sprint("event ", i) {
						t.Fatalf("got %q, want event %d", lines.Text(), i)
					}
					next <- struct{}{}
				}
				if lines.Scan() || lines.Err() != nil {
					t.Errorf("after the last event: %q, %v", lines.Text(), lines.Err())
				}
			})
		}
	}
}

func TestTrailersAndInformationalAnswersPass(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</early>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	}))
	for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
		var hints []int
		r := b.request(t.Context(), "POST", path, "{}")
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if h.Get("Link") != "" {
					hints = append(hints, code)
				}
				return nil
			},
		}))
		res, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if len(hints) != 1 || hints[0] != http.StatusEarlyHints {
			t.Errorf("%s: informational answers %v, want one 103", path, hints)
		}
		if res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Late") != "43" {
			t.Errorf("%s: trailers came as %v", path, res.Trailer)
		}
	}
}

// raw speaks HTTP/1.1 by hand.
func (b *box) raw(text string) (net.Conn, *bufio.Reader) {
	b.t.Helper()
	scheme, address, isTCP := strings.Cut(b.url, "://")
	network := "tcp"
	if !isTCP {
		network, address, _ = strings.Cut(b.url, ":")
	}
	c, err := net.Dial(network, address)
	if err != nil {
		b.t.Fatal(err)
	}
	if scheme == "https" {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	b.t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		b.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func TestAnUpgradedConnectionIsTheirs(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, brw := upgraded(t, w)
		defer c.Close()
		io.Copy(c, brw)
		io.WriteString(c, "bye")
	})
	for path, want := range map[string]int{"/light/ws": 0, "/slow/ws": 0, "/pass/ws": 0, "/light/named": 0, "/light/held": 1} {
		b := open(t, echo, func(s *proxy.Setup) {
			named := s.Routing.Routes[len(s.Routing.Routes)-1]
			named.Name, named.Match = "named", routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/light/named"}}
			held := named
			held.Name, held.HoldSlot, held.Match = "held", true, routing.MatchConfig{Path: routing.Texts{"/light/held"}}
			s.Routing.Routes = append([]routing.RouteConfig{named, held}, s.Routing.Routes...)
		})
		c, r := b.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: got %v, %v, want 101", path, res, err)
		}
		io.WriteString(c, "ping")
		got := make([]byte, 4)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "ping" {
			t.Fatalf("%s: got %q, %v, want ping", path, got, err)
		}
		if got := b.running(); got != want {
			t.Errorf("%s: %d grants while it is open, want %d", path, got, want)
		}
		c.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "bye" {
			t.Errorf("%s: after the half-close got %q, %v, want bye", path, rest, err)
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}

func TestAnAnswerThatWasCutLooksCut(t *testing.T) {
	for name, cut := range map[string]string{
		"shorter than its length":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"much shorter":             "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf",
		"a chunk short":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"a chunk size that is not": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
	} {
		for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
			t.Run(name+path, func(t *testing.T) {
				b := openAt(t, rawBackend(t, cut))
				res, err := b.client.Do(b.request(t.Context(), "POST", path, "{}"))
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if err == nil {
					t.Errorf("the client saw a clean end")
				}
				eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			})
		}
	}
}

// unheard is where no server listens: a port that no process is given by chance.
const unheard = "http://127.0.0.1:1"

// rawBackend answers every connection with the same bytes and hangs up.
func rawBackend(t testing.TB, answer string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.WriteString(c, answer)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestABackendThatBreaksIsA502AndIsNotAskedAgain(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "garbage": "what is this\r\n\r\n", "an unasked 101": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
	} {
		for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
			t.Run(name+path, func(t *testing.T) {
				b := openAt(t, rawBackend(t, answer))
				res, body := b.do("POST", path, "{}")
				if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"code":"backend_protocol"`) {
					t.Errorf("got %d %s, want 502 backend_protocol", res.StatusCode, body)
				}
				eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			})
		}
	}
	t.Run("nothing listens", func(t *testing.T) {
		b := openAt(t, unheard)
		if res, body := b.do("POST", "/light/x", "{}"); res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "backend_unreachable") {
			t.Errorf("got %d %s, want 502 backend_unreachable", res.StatusCode, body)
		}
	})
}

// TestAConnectionServesOnAfterAnEarlyAnswer to a body that passes through and that the
// backend has not read.
func TestAConnectionServesOnAfterAnEarlyAnswer(t *testing.T) {
	for name, url := range map[string]string{
		"the backend's": rawBackend(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbad"),
		"ours":          unheard,
	} {
		b := openAt(t, url)
		c, r := b.raw("")
		for i := range 300 {
			io.WriteString(c, "POST /pass/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\n"+strings.Repeat("x", 4096))
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s answer: request %d: %v", name, i, err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode < 400 || res.Close {
				t.Fatalf("%s answer: request %d: got %s, closed %v", name, i, res.Status, res.Close)
			}
		}
	}
}

// TestTheRestOfABodyIsNeverARequest: a body whose rest comes long after an early answer
// may hold the text of one.
func TestTheRestOfABodyIsNeverARequest(t *testing.T) {
	const rest = "GET /pass/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, length := range []int{len(rest), 1 << 20} {
		b := openAt(t, rawBackend(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbad"))
		c, r := b.raw(fmt.Sprintf("POST /pass/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", length))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		// The request is over for the proxy when its line is in the log.
		eventually(t, "the request has ended", func() bool { return strings.Contains(b.logs.String(), `"status":400`) })
		io.WriteString(c, rest)
		c.(*net.TCPConn).CloseWrite()
		if left, _ := io.ReadAll(r); len(left) > 0 {
			t.Errorf("of %d bytes: got %q, want nothing", length, left)
		}
	}
}
