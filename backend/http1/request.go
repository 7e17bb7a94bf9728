package http1

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// Empty is a body without bytes. Unlike a request without a body, a request with it is
// never sent a second time after a byte of it was sent.
type Empty struct{}

func (Empty) Read([]byte) (int, error) { return 0, io.EOF }
func (Empty) Close() error             { return nil }

const (
	// smallBody is the length up to which a body that is in memory is sent together with
	// its head, and mostAtOnce that of both. So much fits into a socket's buffer, so that a
	// server that answers before it reads does not keep the client from reading the answer.
	smallBody  = 16 << 10
	mostAtOnce = 32 << 10
)

// heads is a pool of buffers for heads.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// prepare writes the head of the request into memory, with its body if that is small.
func (x *exchange) prepare() error {
	if x.head != nil {
		return nil
	}
	x.head = heads.Get().(*[]byte)
	b, err := x.appendHead((*x.head)[:0])
	*x.head = b
	if err != nil {
		return err
	}
	req := x.req
	x.whole = len(b) <= mostAtOnce
	if req.Body == nil || x.expects {
		x.whole = x.whole && !x.expects
		return nil
	}
	if _, empty := req.Body.(Empty); x.chunked || x.length == 0 || empty {
		x.whole = x.whole && !x.chunked
		return nil
	}
	if x.whole = x.length > 0 && x.length <= smallBody && len(b)+int(x.length) <= mostAtOnce && isMemory(req.Body); !x.whole {
		return nil
	}
	b = slices.Grow(b, int(x.length))
	*x.head = b
	body := b[len(b) : len(b)+int(x.length)]
	if _, err := io.ReadFull(req.Body, body); err != nil {
		return fmt.Errorf("http1: the body is shorter than the request's ContentLength of %d: %w", x.length, err)
	}
	var one [1]byte
	if n, _ := req.Body.Read(one[:]); n > 0 {
		return fmt.Errorf("http1: the body is longer than the request's ContentLength of %d", x.length)
	}
	*x.head = b[:len(b)+len(body)]
	return nil
}

// drop gives the memory of the head back.
func (x *exchange) drop() {
	if x.head != nil && cap(*x.head) <= mostAtOnce {
		heads.Put(x.head)
	}
	x.head = nil
}

// outgoing is the length of a request's body, -1 where it is not known.
func outgoing(req *http.Request) int64 {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return 0
	case req.ContentLength != 0:
		return req.ContentLength
	}
	return -1
}

// appendHead writes the request line and the headers as http.Request.Write does.
func (x *exchange) appendHead(b []byte) ([]byte, error) {
	req := x.req
	method := cmp.Or(req.Method, http.MethodGet)
	target := req.URL.RequestURI()
	for _, c := range []byte(target) {
		if c < ' ' || c == 0x7f {
			return b, fmt.Errorf("http1: control character in the request's URL %q", target)
		}
	}
	host, err := httpguts.PunycodeHostPort(cmp.Or(req.Host, req.URL.Host))
	if err != nil {
		return b, err
	}
	if !httpguts.ValidHostHeader(host) {
		host = ""
	}
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, withoutZone(host)...)
	b = append(b, "\r\n"...)
	agent := "Go-http-client/1.1"
	if values, ok := req.Header["User-Agent"]; ok {
		agent = ""
		if len(values) > 0 {
			agent = values[0]
		}
	}
	if agent != "" {
		b = appendLine(b, "User-Agent", agent)
	}

	x.length, x.chunked = outgoing(req), false
	encoding := req.TransferEncoding
	if x.length < 0 && len(encoding) == 0 {
		x.chunked = true
	}
	if req.Body == nil {
		encoding = nil
	} else if len(encoding) > 0 && encoding[0] == "chunked" {
		x.chunked = true
	}
	if x.chunked {
		x.length = -1
	}
	x.expects = req.Body != nil && req.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(req.Header["Expect"], "100-continue")
	if x.closes() && !httpguts.HeaderValuesContainsToken(req.Header["Connection"], "close") {
		b = append(b, "Connection: close\r\n"...)
	}
	switch {
	case x.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendTrailerNames(b, req.Trailer)
	case x.length > 0, x.length == 0 && saysEmpty(method, encoding):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, x.length, 10)
		b = append(b, "\r\n"...)
	}
	return append(appendHeaders(b, req.Header), "\r\n"...), nil
}

// closes says that the connection is not to be used again.
func (x *exchange) closes() bool { return x.req.Close || x.transport.DisableKeepAlives }

// saysEmpty says that the head of a request without a body announces a length of 0.
func saysEmpty(method string, encoding []string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return true
	case http.MethodGet, http.MethodHead:
		return false
	}
	return len(encoding) == 1 && encoding[0] == "identity"
}

func withoutZone(host string) string {
	if !strings.HasPrefix(host, "[") {
		return host
	}
	end := strings.LastIndexByte(host, ']')
	if end < 0 {
		return host
	}
	zone := strings.LastIndexByte(host[:end], '%')
	if zone < 0 {
		return host
	}
	return host[:zone] + host[end:]
}

// names are for the order of headers.
var names = sync.Pool{New: func() any { s := make([]string, 0, 32); return &s }}

// appendHeaders writes headers in the order of their names, as net/http does.
func appendHeaders(b []byte, h http.Header) []byte {
	pooled := names.Get().(*[]string)
	sorted := (*pooled)[:0]
	for name := range h {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer": // their own lines
		default:
			sorted = append(sorted, name)
		}
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		for _, value := range h[name] {
			b = appendLine(b, name, value)
		}
	}
	clear(sorted)
	*pooled = sorted[:0]
	names.Put(pooled)
	return b
}

func appendTrailerNames(b []byte, trailer http.Header) []byte {
	if len(trailer) == 0 {
		return b
	}
	var all []string
	for name := range trailer {
		all = append(all, http.CanonicalHeaderKey(name))
	}
	slices.Sort(all)
	return appendLine(b, "Trailer", strings.Join(all, ","))
}

// appendLine writes one header. Its value has no line ends but those that were checked
// before.
func appendLine(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, strings.Trim(value, " \t")...)
	return append(b, "\r\n"...)
}

var (
	plainMemory  = reflect.TypeOf(io.NopCloser(nil))
	writerMemory = reflect.TypeOf(io.NopCloser(new(bytes.Reader)))
)

// isMemory says that a body is a reader of memory, with or without a Close that does
// nothing. Reading it does not block.
func isMemory(body io.Reader) bool {
	if t := reflect.TypeOf(body); t == plainMemory || t == writerMemory {
		body, _ = reflect.ValueOf(body).Field(0).Interface().(io.Reader)
	}
	switch body.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
