package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// Server is a handler behind its two listeners.
type Server struct {
	handler       *Handler
	public, admin *http.Server
	listener      net.Listener // the public one
	adminListener net.Listener // nil: there is none
	tls           TLSConfig
}

// Listen opens the listeners of a configuration that Check accepts, the admin
// one for the given handler, and serves nothing yet.
func Listen(c Config, h *Handler, admin http.Handler) (*Server, error) {
	s := &Server{handler: h, tls: c.TLS}
	if c.TLS.Cert != "" {
		if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
			return nil, fmt.Errorf("proxy: tls: %w", err)
		}
	}
	listener, err := listen(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("proxy: listen: %w", err)
	}
	// One connection more than the limit waits in the kernel: Accept sleeps.
	s.listener = limit(listener, c.Limits.Connections, c.TLS.Cert == "", h.telemetry.Malformed)
	s.public = newServer(c.Limits, edge(h), h.log)
	s.public.ConnContext = withConnection
	s.public.Protocols.SetUnencryptedHTTP2(c.TLS.Cert == "")
	s.public.Protocols.SetHTTP2(c.TLS.Cert != "")
	if c.Admin.Listen != "" {
		if s.adminListener, err = listen(c.Admin.Listen); err != nil {
			listener.Close()
			return nil, fmt.Errorf("proxy: admin listen: %w", err)
		}
		s.admin = newServer(c.Limits, admin, h.log)
	}
	return s, nil
}

// newServer bounds what a client can make a listener hold. There is no timeout
// for a whole request or answer: a model may take minutes. Bodies and writes
// have deadlines that move with their progress.
func newServer(l LimitsConfig, handler http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: handler,
		// OPTIONS * is a request like any other.
		DisableGeneralOptionsHandler: true,

		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: l.Streams},
		MaxHeaderBytes:    int(l.Header),
		ReadHeaderTimeout: l.ReadHeader,
		IdleTimeout:       l.Idle,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// edge is the public face: one catch-all, nothing of our own beside it.
func edge(h *Handler) *echo.Echo {
	e := newEcho()
	// The inner writer: echo's own hides what the copy needs.
	serve := func(c echo.Context) error {
		h.ServeHTTP(c.Response().Writer, c.Request())
		return nil
	}
	// Not Any: that would answer methods it does not know by itself.
	e.RouteNotFound("/*", serve)
	e.HTTPErrorHandler = func(_ error, c echo.Context) { serve(c) } // no path at all
	return e
}

func newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect() // nobody's X-Forwarded-For is believed
	return e
}

// listen opens host:port or unix:/path. A socket file that nobody listens on
// is left over from a process that died, and is replaced.
func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	listener, err := net.Listen("unix", path)
	if err == nil {
		return listener, nil
	}
	if c, dialErr := net.DialTimeout("unix", path, time.Second); dialErr == nil {
		c.Close()
		return nil, err
	}
	if info, statErr := os.Lstat(path); statErr != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Serve serves until Shutdown or Close, and returns what ended it otherwise.
func (s *Server) Serve() error {
	failed := make(chan error, 2)
	if s.admin != nil {
		go func() { failed <- s.admin.Serve(s.adminListener) }()
	}
	go func() {
		if s.tls.Cert != "" {
			failed <- s.public.ServeTLS(s.listener, s.tls.Cert, s.tls.Key)
			return
		}
		failed <- s.public.Serve(s.listener)
	}()
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("proxy: serve: %w", err)
	}
	return nil
}

// Shutdown takes no new connections and waits for what is being answered until
// ctx ends; what is left then is cut. Streams and WebSockets that hold no grant
// are not waited for: they are cut when nothing else is left. The admin listener
// stays open until the end, so that the end can be watched.
func (s *Server) Shutdown(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.handler.open.wait(ctx)
	}()
	err := s.public.Shutdown(ctx)
	<-ended
	s.Close()
	return err
}

// Close cuts everything at once.
func (s *Server) Close() {
	s.public.Close()
	if s.admin != nil {
		s.admin.Close()
	}
}

// URL is where clients reach the public listener; AdminURL where operators
// reach the admin listener, empty where there is none.
func (s *Server) URL() string {
	if s.tls.Cert != "" {
		return address("https", s.listener)
	}
	return address("http", s.listener)
}

func (s *Server) AdminURL() string {
	if s.adminListener == nil {
		return ""
	}
	return address("http", s.adminListener)
}

func address(scheme string, l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return scheme + "://" + l.Addr().String()
}
