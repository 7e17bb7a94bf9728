package proxy

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// forward sends the request to its backend and the answer to the client.
func (x *exchange) forward(grant *admission.Grant) error {
	x.try.grant, x.try.trace = grant, x.trace
	if grant == nil {
		now := time.Now()
		x.places.moved(x.place, now, now)
	}
	if x.try.to = x.server(grant); x.try.to == nil {
		return refuse(admission.CodeBackendUnavailable, "the replica of %s that had room was taken out of the configuration", x.route.Backend)
	}
	if x.route.Completion.Applies(x.in) && !x.free {
		x.try.completion = x.route.Completion
	}
	// Only the answer shows whether a job was begun. A GET that begins no job ends with its
	// connection, for every backend.
	x.try.detached = grant != nil && (x.try.to.Config.Cancel != "aborts" && x.in.Method != http.MethodGet || x.try.completion != nil)
	x.ctx, x.cancel = x.limited(x.ctx)
	in := x.in.WithContext(x.ctx)
	if x.body != nil {
		in.Body, in.ContentLength = http.NoBody, 0 // RoundTrip puts it back
	} else if in.ContentLength != 0 && in.ProtoMajor == 1 {
		// Otherwise net/http closes the body while the transport reads it when a backend
		// answers early, and cuts the answer.
		http.NewResponseController(x.out.ResponseWriter).EnableFullDuplex()
		x.upload = &upload{ReadCloser: in.Body}
		in.Body = x.upload
	}
	reverse := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.decorate,
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { x.failed = err },
		BufferPool:     copyBuffers{},
		ErrorLog:       silent,
	}
	reverse.ServeHTTP(&x.out, in)
	return x.failed
}

// upload is a body that passes through while the answer comes.
type upload struct {
	io.ReadCloser
	over atomic.Bool // it was read to its end
}

func (s *upload) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF {
		s.over.Store(true)
	}
	return n, err
}

const (
	// restSoon bounds the wait for what is left of a streamed body, and mostRest how
	// much that may be, as net/http does.
	restSoon = time.Second
	mostRest = 256 << 10
)

// readRest reads the part of a streamed body that a backend has not read because it
// answered early. In full duplex, net/http would read that part after the handler has
// ended, and then cancel the client's next request. If too much is left, or it does not
// come at once, the connection ends.
func (x *exchange) readRest() {
	if x.upload == nil || x.upload.over.Load() {
		return
	}
	control := http.NewResponseController(x.out.ResponseWriter)
	control.Flush() // a client may wait for the answer before it sends the rest
	control.SetReadDeadline(time.Now().Add(restSoon))
	io.CopyN(io.Discard, x.upload, mostRest)
	control.SetReadDeadline(time.Time{})
}

// silent is the logger of httputil.ReverseProxy, which discards all: the request's own log
// line has the same facts.
var silent = log.New(io.Discard, "", 0)

// rewrite turns the client's request into the backend's. httputil has removed the
// hop-by-hop headers before, so no `Connection: X-Foo` can remove a header that is set
// here.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	backend, out := x.try.to, p.Out
	base := backend.Base()
	out.URL.Scheme, out.URL.Host = base.Scheme, base.Host
	// The query stays as it came: httputil drops parameters that it cannot parse, and a
	// backend may be able to parse them.
	out.URL.RawQuery = p.In.URL.RawQuery
	raw := rawPath(x.in)
	path := x.route.Rewrite.Path(raw)
	if path != raw {
		out.URL.Path, out.URL.RawPath = path, path
		if decoded, err := url.PathUnescape(path); err == nil {
			out.URL.Path = decoded
		}
	}
	if path != out.URL.EscapedPath() && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path // not in another encoding
	}
	if !backend.Config.PreserveHost {
		out.Host = ""
	}
	x.rules.cleanHeader(p)
	x.route.Rewrite.Header(out.Header)
	if x.body != nil {
		out.Header.Del("Expect") // the body is here
	}
	if x.try.completion != nil || x.rules.watched != nil || x.out.committed {
		x.askPlain(out.Header)
	}
	x.now = time.Now()
	x.trace.Execute(x.now, backend.Config.URL, out.URL.EscapedPath(), out.Header)
}

// rawPath is the path as the client wrote it.
func rawPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if _, rest, ok := strings.Cut(path, "://"); ok && path[0] != '/' {
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			return "/"
		}
		path = rest[slash:]
	}
	return path
}

// cleanHeader removes the headers that no client may send to a backend, and adds those that
// name the client.
func (s *rules) cleanHeader(p *httputil.ProxyRequest) {
	header, trusted := p.Out.Header, s.trusts(p.In.RemoteAddr)
	withoutCookie(header)
	_, realIP := header["X-Real-Ip"]
	for name := range header {
		switch {
		case strings.IndexByte(name, '_') >= 0:
			// Python's servers read X_Y as X-Y, and so as another header.
			delete(header, name)
		case strings.HasPrefix(name, "X-Anteroom-"):
			delete(header, name)
		case !trusted && (strings.HasPrefix(name, "X-Forwarded-") || name == s.tenantHeader):
			delete(header, name)
		}
	}
	if !trusted {
		p.SetXForwarded()
		if realIP {
			header.Del("X-Real-Ip")
			if host, _, err := net.SplitHostPort(p.In.RemoteAddr); err == nil {
				header.Set("X-Real-Ip", host)
			}
		}
		return
	}
	for _, name := range []string{"X-Forwarded-For", "Forwarded"} {
		if v := p.In.Header[name]; v != nil {
			header[name] = v
		}
	}
	p.SetXForwarded()
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := p.In.Header[name]; v != nil {
			header[name] = v
		}
	}
}

// trusts says whether the headers of a peer count that name the client.
func (s *rules) trusts(peer string) bool {
	if len(s.trusted) == 0 {
		return false
	}
	address, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	ip := address.Addr().Unmap()
	for _, prefix := range s.trusted {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// decorate adds Anteroom's headers to the backend's answer, and gives all headers to the
// client.
func (x *exchange) decorate(res *http.Response) error {
	more := &headers{to: res.Header}
	x.describe(more)
	x.out.flush = x.try.slowly || x.out.committed
	if x.out.committed {
		x.fitComments(res)
	}
	x.switched = res.StatusCode == http.StatusSwitchingProtocols
	if _, ok := res.Header["Content-Type"]; !ok {
		x.out.Header()["Content-Type"] = nil // else net/http makes one up
	}
	var room [96]byte
	timing := room[:0]
	if grant := x.try.grant; grant != nil {
		position, waited := grant.Position(), grant.Waited()
		if x.first != nil {
			position, waited = x.first.position, waited+x.first.waited
		}
		more.set("X-Anteroom-Position", strconv.Itoa(position))
		timing = appendTiming(timing, "wait", waited)
	}
	if x.try.ended.Load() {
		timing = appendTiming(timing, "execute", time.Since(x.now))
	}
	if len(timing) > 0 {
		res.Header.Add("Server-Timing", string(timing))
	}
	if !x.switched && !x.out.committed && x.try.rpc == nil && !isEvents(res.Header) {
		// httputil would copy them one by one. It looks at those of a stream, and the
		// status of a call is read from them later.
		client := x.out.Header()
		for name, values := range res.Header {
			if before := client[name]; len(before) > 0 {
				values = append(before[:len(before):len(before)], values...)
			}
			client[name] = values
		}
		res.Header = nil
	}
	return nil
}

// headers sets headers that have one value each. Their values share their memory.
type headers struct {
	to   http.Header
	room [4]string
	n    int
}

// set is http.Header's Set for a canonical name.
func (h *headers) set(name, value string) {
	if h.n == len(h.room) {
		h.to[name] = []string{value}
		return
	}
	h.room[h.n] = value
	h.to[name] = h.room[h.n : h.n+1 : h.n+1]
	h.n++
}

// appendTiming adds a metric in milliseconds to a Server-Timing value.
func appendTiming(b []byte, name string, d time.Duration) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(b, name...)
	b = append(b, ";dur="...)
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', -1, 64)
}
