package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/routing/body"
)

// Call is a request of the proxy's own to an engine: to free its memory, to wake it, to ask
// for its state, to follow its work or to cancel it.
type Call struct {
	Method string
	Target string // path and query
	Body   string // JSON or a form; empty: none
	// Without are keys of the answer that are not needed, at any depth below its root.
	// Their values are left out of the answer, because they may be large.
	Without []string

	// repeat says that the call changes nothing, so that it may be sent a second
	// time on a new connection where an old one turns out to be closed.
	repeat bool
}

const (
	// maxCallAnswer bounds the length of the answer to a call.
	maxCallAnswer = 16 << 20
	// mostAnswer is how many bytes are read of the answer to an order or a probe.
	mostAnswer = 1 << 20
)

// Ask makes a call of the proxy's own. The breaker neither stops nor counts it. host and
// header may be empty; header is not changed. It fails as RoundTrip does; an answer of any
// status is no error.
func (b *Server) Ask(ctx context.Context, c Call, host string, header http.Header) (status int, answer []byte, err error) {
	res, answer, err := b.send(ctx, c, host, header, maxCallAnswer+1)
	if res != nil {
		status = res.StatusCode
	}
	if err == nil && len(answer) > maxCallAnswer {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return status, nil, fmt.Errorf("backend: %s: %s %s: %w", b.Name, c.Method, c.Target, err)
	}
	return status, answer, nil
}

// send makes a call on the backend's connections and reads its answer, up to most
// bytes. The breaker neither counts it nor stops it. It is sent once. The response's
// body is closed; the response is nil where no head came. Errors are those of
// RoundTrip.
func (b *Server) send(ctx context.Context, c Call, host string, header http.Header, most int64) (*http.Response, []byte, error) {
	out, err := http.NewRequestWithContext(ctx, c.Method, b.base.String()+c.Target, nil)
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		out.Header[name] = values
	}
	out.Host = host
	if c.Body != "" {
		out.Body, out.ContentLength = io.NopCloser(strings.NewReader(c.Body)), int64(len(c.Body))
		out.Header.Set("Content-Type", contentType(c.Body))
	}
	var sent *upload
	if !c.repeat {
		sent = b.sendOnce(out)
	}
	res, err := b.transport.Load().RoundTrip(out)
	if err != nil {
		return nil, nil, b.blame(ctx, sent, err)
	}
	defer res.Body.Close()
	if len(c.Without) > 0 && res.StatusCode/100 == 2 {
		answer, err := body.ReadWithout(res.Body, c.Without)
		return res, answer, err
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, most))
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		// The process died after it had sent the head of its answer.
		err = fmt.Errorf("%s, then: %w: %v", res.Status, ErrProtocol, err)
	}
	return res, answer, err
}

// contentType is that of JSON if the body is JSON, else that of a form.
func contentType(body string) string {
	if json.Valid([]byte(body)) {
		return "application/json"
	}
	return "application/x-www-form-urlencoded"
}
