package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"
)

// client asks the admin listener of a running proxy.
type client struct {
	http  http.Client
	base  string
	token string
}

// errAnswer is an answer with a status other than 2xx.
type errAnswer struct {
	status int
	detail string
}

func (e *errAnswer) Error() string {
	if e.detail == "" {
		return fmt.Sprintf("it answers %d %s", e.status, http.StatusText(e.status))
	}
	return e.detail
}

// clientFlags adds the flags that say which proxy is asked. The function it returns is
// called after fs.Parse.
func clientFlags(fs *flag.FlagSet) func() *client {
	admin := fs.String("admin", "http://127.0.0.1:9090", "ask the proxy whose admin listener is at `URL`, or unix:/path")
	token := fs.String("token", os.Getenv("ANTEROOM_ADMIN__TOKEN"), "the admin listener's `TOKEN`; better ANTEROOM_ADMIN__TOKEN")
	return func() *client { return newClient(*admin, *token) }
}

func newClient(admin, token string) *client {
	c := &client{base: strings.TrimSuffix(admin, "/"), token: token, http: http.Client{Timeout: 30 * time.Second}}
	if path, ok := strings.CutPrefix(admin, "unix:"); ok {
		c.base = "http://localhost"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	} else if !strings.Contains(c.base, "://") {
		c.base = "http://" + c.base
	}
	return c
}

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 256 << 20

// do makes a call and returns the answer's body, which the caller closes. A status other
// than 2xx is an *errAnswer.
func (c *client) do(method, path string) (io.ReadCloser, error) {
	return c.doWith(context.Background(), method, path, nil)
}

// doWith is do until ctx ends, with more headers.
func (c *client) doWith(ctx context.Context, method, path string, header http.Header) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, header)
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if method == http.MethodPost {
		r.Header.Set("X-Anteroom-By", operator())
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: want --admin with the address of a running proxy's admin listener", err)
	}
	if res.StatusCode < 300 {
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxAnswer), res.Body}, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var problem struct{ Detail string }
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		problem.Detail = fmt.Sprintf("%s answers %s, and not as Anteroom does: want --admin with the address of a running proxy's admin listener",
			c.base, res.Status)
	} else if json.Unmarshal(text, &problem) != nil {
		problem.Detail = strings.TrimSpace(string(text))
	}
	return nil, &errAnswer{res.StatusCode, problem.Detail}
}

// get asks for JSON and decodes it.
func (c *client) get(path string, into any) error {
	body, err := c.do(http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("%s does not answer as Anteroom does: %w", c.base, err)
	}
	return nil
}

// post makes a control call.
func (c *client) post(path, reason string) error {
	if reason != "" {
		path += "?" + url.Values{"reason": {reason}}.Encode()
	}
	body, err := c.do(http.MethodPost, path)
	if err != nil {
		return err
	}
	return body.Close()
}

// isNotFound says that the admin listener answered 404: there is nothing of that name.
func isNotFound(err error) bool {
	answer, ok := errors.AsType[*errAnswer](err)
	return ok && answer.status == http.StatusNotFound
}

// operator is the user who runs the command: user@host.
func operator() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}
