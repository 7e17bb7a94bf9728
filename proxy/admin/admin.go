package admin

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin/page"
	"github.com/anteroom-gpu/anteroom/telemetry"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// Process has the functions of the process that the admin listener calls.
type Process struct {
	Proxy      *proxy.Handler
	Controller *admission.Controller // that of the handler
	Telemetry  *telemetry.Telemetry
	// Reload reads the configuration again and puts it in place.
	Reload func() error
	// Config is the configuration in force, without secrets, ready for JSON.
	Config func() any
	// Version is this program's; empty: not told.
	Version string
	// Compare plays what a history has under other rules; nil: that cannot be done here.
	Compare func(timeline.History) (any, error)
}

// New makes the handler of the admin listener: health, metrics, and the controller's
// state and controls.
func New(c proxy.AdminConfig, p Process) http.Handler {
	a := &api{Process: p, started: time.Now()}
	rand.Read(a.salt[:])
	e := echo.New()
	e.HTTPErrorHandler = asProblem
	e.Use(a.survive)
	e.GET("/livez", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", a.ready)

	keeper, own := newKeeper(c), e.Group("", ownHost(c), fresh)
	page.Register(own)
	a.sessions(own, c, keeper)
	guarded := own.Group("", keeper.demand(reads))
	if metrics := p.Telemetry.MetricsHandler(); metrics != nil {
		guarded.GET("/metrics", echo.WrapHandler(metrics))
	}
	guarded.GET("/api/state", a.state)
	guarded.GET("/api/queue", a.queue)
	guarded.GET("/api/queue/:id", a.waiter)
	guarded.GET("/api/backends", a.backends)
	guarded.GET("/api/learned", a.learned)
	guarded.GET("/api/config", func(c echo.Context) error { return c.JSON(http.StatusOK, p.Config()) })

	kept := guarded.Group("", a.kept)
	kept.GET("/api/history", a.history)
	kept.GET("/api/decisions", a.decisions)
	kept.GET("/api/events", a.events)
	kept.GET("/api/record", a.record)
	kept.GET("/api/compare", a.compare)
	a.controls(own.Group("", sameOrigin, keeper.demand(controls)))
	return e
}

type api struct {
	Process
	started  time.Time
	salt     [16]byte // of the words for tenants
	sent     recent
	shown    board
	compared comparison
}

// survive answers a handler's panic with a 500. http.ErrAbortHandler goes through.
func (a *api) survive(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				a.Telemetry.Log().Error("an admin handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				err = echo.NewHTTPError(http.StatusInternalServerError, "the proxy failed")
			}
		}()
		return next(c)
	}
}

// ownHost protects against DNS rebinding: a page of another site whose name resolves to
// this machine. If no token is asked for, the Host must be an address, localhost, or the
// listener's name in the configuration.
func ownHost(c proxy.AdminConfig) echo.MiddlewareFunc {
	own, _, _ := net.SplitHostPort(c.Listen)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(e echo.Context) error {
			host := e.Request().Host
			if name, _, err := net.SplitHostPort(host); err == nil {
				host = name
			}
			host = strings.TrimSuffix(host, ".")
			_, err := netip.ParseAddr(strings.Trim(host, "[]"))
			if c.Token == "" && !strings.HasPrefix(c.Listen, "unix:") && err != nil &&
				!strings.EqualFold(host, "localhost") && !strings.EqualFold(host, own) {
				return echo.NewHTTPError(http.StatusForbidden, "the Host is not this listener's: want localhost, an address, or a token in the configuration")
			}
			return next(e)
		}
	}
}

// fresh keeps answers out of caches, and scripts of other types from being run.
func fresh(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		return next(c)
	}
}

// sameOrigin refuses control calls that a page of another site makes through an operator's
// browser.
func sameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
			return echo.NewHTTPError(http.StatusForbidden, "the call comes from another site")
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
				return echo.NewHTTPError(http.StatusForbidden, "the call comes from another origin")
			}
		}
		return next(c)
	}
}

// asProblem answers every error as a problem.
func asProblem(err error, c echo.Context) {
	status, detail := http.StatusInternalServerError, err.Error()
	if e, ok := errors.AsType[*echo.HTTPError](err); ok {
		status = e.Code
		detail, _ = e.Message.(string)
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/problem+json")
	c.JSON(status, map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail})
}
