package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"syscall"

	"github.com/labstack/echo/v4"
)

// Server is a handler behind its listeners.
type Server struct {
	handler       *Handler
	public        []door // the main one first
	admin         *http.Server
	adminListener net.Listener     // nil: there is none
	certificate   *tls.Certificate // nil: without TLS
}

// door is a listener for clients.
type door struct {
	*http.Server
	net.Listener
	limited *limited
	leave   func() // stops accepting on a socket that outlives this process; nil: the socket does not outlive it
}

// Listen opens the listeners of a configuration that Check accepts, and serves nothing yet.
// The admin listener is for the given handler. If the process was started with sockets for
// some of the addresses, Listen takes those. A socket for an address that the configuration
// does not have is an error.
func Listen(c Config, h *Handler, admin http.Handler, inherited ...net.Listener) (*Server, error) {
	s := &Server{handler: h}
	from := &sockets{inherited}
	if c.TLS.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("proxy: tls: %w", err)
		}
		s.certificate = &certificate
	}
	if err := s.open(c, from, c.Listen, h); err != nil {
		return nil, fmt.Errorf("proxy: listen: %w", taken(err, "listen"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		if err := s.open(c, from, c.Listeners[name].Listen, h.On(name)); err != nil {
			s.Close()
			return nil, fmt.Errorf("proxy: listen for listeners.%s: %w", name, taken(err, "listeners."+name+".listen"))
		}
	}
	if c.Admin.Listen != "" {
		var err error
		if s.adminListener, _, err = from.listen(c.Admin.Listen); err != nil {
			s.Close()
			return nil, fmt.Errorf("proxy: admin listen: %w", taken(err, "admin.listen"))
		}
		s.admin = newServer(c.Limits, admin, h.log)
	}
	if err := from.left(); err != nil {
		s.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return s, nil
}

// taken adds the cure where another program has the address that a key names.
func taken(err error, key string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: want another %s, or the program that has it ended", err, key)
	}
	return err
}

// open opens a listener for clients.
func (s *Server) open(c Config, from *sockets, address string, h http.Handler) error {
	listener, inherited, err := from.listen(address)
	if err != nil {
		return err
	}
	server := newServer(c.Limits, edge(h), s.handler.log)
	server.ConnContext = withConnection
	plain, malformed := s.certificate == nil, s.handler.telemetry.Malformed
	server.Protocols.SetUnencryptedHTTP2(plain)
	server.Protocols.SetHTTP2(!plain)
	// One connection more than the limit waits in the kernel: Accept sleeps.
	limited := limit(listener, c.Limits.Connections, plain, malformed)
	d := door{Server: server, Listener: limited, limited: limited}
	if !plain {
		d.Listener = secure(limited, *s.certificate, c.Limits.ReadHeader, malformed)
	}
	if inherited {
		d.leave = limited.leave
	}
	s.public = append(s.public, d)
	return nil
}

// newServer bounds the memory that a client can make a listener hold. There is no timeout
// for a whole request or answer: a model may take minutes. Bodies and writes have deadlines
// that move with their progress.
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

// edge is the server for clients: one route for all requests, and no other.
func edge(h http.Handler) *echo.Echo {
	e := newEcho()
	// The inner writer: echo's own hides methods that copying an answer needs.
	serve := func(c echo.Context) error {
		h.ServeHTTP(c.Response().Writer, c.Request())
		return nil
	}
	// Not Any: echo would answer unknown methods itself.
	e.RouteNotFound("/*", serve)
	e.HTTPErrorHandler = func(_ error, c echo.Context) { serve(c) } // no path at all
	return e
}

func newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect() // X-Forwarded-For of clients is ignored
	return e
}

// Serve serves until Shutdown or Close, and returns what ended it otherwise.
func (s *Server) Serve() error {
	failed := make(chan error, 1+len(s.public))
	if s.admin != nil {
		go func() { failed <- s.admin.Serve(s.adminListener) }()
	}
	for _, d := range s.public {
		go func() { failed <- d.Serve(d.Listener) }()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("proxy: serve: %w", err)
	}
	return nil
}

// Leave accepts no more connections on sockets that the process was started with: a client
// that connects from now on waits for the process that gets the sockets next. Other
// listeners stay open, so that their clients get 503 draining.
func (s *Server) Leave() {
	for _, d := range s.public {
		if d.leave != nil {
			d.leave()
		}
	}
}

// Shutdown accepts no new connections. It waits until ctx ends for requests that are being
// answered, and for refused clients that still send. Requests that are left are cut.
// Streams and WebSockets that hold no grant are not waited for: they are cut when nothing
// else is left. The admin listener stays open until the end, so that an operator can watch
// the drain.
func (s *Server) Shutdown(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.handler.open.wait(ctx)
	}()
	ends := make(chan error, len(s.public))
	for _, d := range s.public {
		go func() {
			err := d.Shutdown(ctx)
			d.limited.linger(ctx)
			ends <- err
		}()
	}
	var err error
	for range s.public {
		err = errors.Join(err, <-ends)
	}
	<-ended
	s.Close()
	return err
}

// Close cuts everything at once.
func (s *Server) Close() {
	for _, d := range s.public {
		d.Server.Close()
		d.Listener.Close() // it may not be served yet
	}
	if s.admin != nil {
		s.admin.Close()
	}
}

// URL is where clients reach the public listener; AdminURL where operators
// reach the admin listener, empty where there is none.
func (s *Server) URL() string {
	if s.certificate != nil {
		return address("https", s.public[0].Listener)
	}
	return address("http", s.public[0].Listener)
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
