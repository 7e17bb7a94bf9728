package proxy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy/page"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// Operations are what the admin listener needs of the process around it.
type Operations struct {
	// Reload reads the configuration again and puts it in place.
	Reload func() error
	// Config is the configuration in force, without secrets, ready for JSON.
	Config func() any
	// Version is this program's; empty: not told.
	Version string
	// Compare plays what a history has under other rules; nil: that cannot be done here.
	Compare func(timeline.History) (any, error)
}

// Admin is the handler of the admin listener: health, metrics, and the controller's
// state and controls.
func Admin(h *Handler, c AdminConfig, o Operations) http.Handler {
	a := &admin{Handler: h, operations: o, started: time.Now()}
	rand.Read(a.salt[:])
	e := newEcho()
	e.HTTPErrorHandler = adminError
	e.Use(a.survive)
	e.GET("/livez", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", a.ready)

	keeper, own := newKeeper(c), e.Group("", ownHost(c), fresh)
	page.Register(own)
	a.sessions(own, c, keeper)
	guarded := own.Group("", keeper.demand(reads))
	if metrics := h.telemetry.MetricsHandler(); metrics != nil {
		guarded.GET("/metrics", echo.WrapHandler(metrics))
	}
	guarded.GET("/api/state", a.state)
	guarded.GET("/api/queue", a.queue)
	guarded.GET("/api/queue/:id", a.waiter)
	guarded.GET("/api/backends", a.backends)
	guarded.GET("/api/learned", a.learned)
	guarded.GET("/api/config", func(c echo.Context) error { return c.JSON(http.StatusOK, o.Config()) })

	kept := guarded.Group("", a.kept)
	kept.GET("/api/history", a.history)
	kept.GET("/api/decisions", a.decisions)
	kept.GET("/api/events", a.events)
	kept.GET("/api/record", a.record)
	kept.GET("/api/compare", a.compare)
	a.controls(own.Group("", sameOrigin, keeper.demand(controls)))
	return e
}

type admin struct {
	*Handler
	operations Operations
	started    time.Time
	salt       [16]byte // of the words for tenants
	sent       recent
	shown      board
	compared   comparison
}

// survive answers a handler's panic with a 500. What means to abort goes
// through.
func (a *admin) survive(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				a.log.Error("an admin handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				err = echo.NewHTTPError(http.StatusInternalServerError, "the proxy failed")
			}
		}()
		return next(c)
	}
}

// ownHost keeps a page out whose name was made to lead to this machine: where no
// token is asked for, the Host must be an address, localhost, or what the listener
// is called in the configuration. A page's own name is none of these.
func ownHost(c AdminConfig) echo.MiddlewareFunc {
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

// sameOrigin keeps a page of another site from steering the controller through an
// operator's browser.
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

// adminError answers every error as a problem.
func adminError(err error, c echo.Context) {
	status, detail := http.StatusInternalServerError, err.Error()
	if e, ok := errors.AsType[*echo.HTTPError](err); ok {
		status = e.Code
		detail, _ = e.Message.(string)
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/problem+json")
	c.JSON(status, map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail})
}

// ready says whether traffic should come here; ?verbose says which part is not
// ready.
func (a *admin) ready(c echo.Context) error {
	type check struct {
		Name  string `json:"name"`
		Ready bool   `json:"ready"`
		Note  string `json:"note,omitempty"`
	}
	spool := check{Name: "spool", Ready: true}
	if err := a.rules.Load().limits.CheckSpool(); err != nil {
		spool.Ready, spool.Note = false, err.Error()
	}
	checks := []check{{Name: "listening", Ready: true}, {Name: "config", Ready: true}, {Name: "draining", Ready: !a.Draining()}, spool}
	if _, verbose := c.QueryParams()["verbose"]; verbose {
		// Told, not judged: work that needs neither is served all the same.
		for _, g := range a.controller.Snapshot().GPUs {
			checks = append(checks, check{Name: "gpu " + g.Name, Ready: !g.Lost, Note: gpuNote(g)})
		}
		for name, states := range a.Breakers() {
			for i, state := range states {
				what := "backend " + name
				if len(states) > 1 {
					what += " replica " + strconv.Itoa(i)
				}
				checks = append(checks, check{Name: what, Ready: state != "open", Note: "breaker " + state})
			}
		}
	}
	status := http.StatusOK
	if a.Draining() || !spool.Ready {
		status = http.StatusServiceUnavailable
	}
	if _, verbose := c.QueryParams()["verbose"]; verbose {
		return c.JSON(status, map[string]any{"ready": status == http.StatusOK, "checks": checks})
	}
	if a.Draining() {
		return c.String(status, "draining\n")
	}
	if !spool.Ready {
		return c.String(status, "spool: "+spool.Note+"\n")
	}
	return c.String(status, "ok\n")
}

func gpuNote(g admission.GPUState) string {
	switch {
	case g.Lost:
		return "lost"
	case g.Err != "":
		return "the ledger alone: " + g.Err
	case g.Source == "":
		return "the ledger alone"
	}
	return "read by " + g.Source
}
