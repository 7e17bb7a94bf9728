package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// The controls of the admin listener. Each action writes a log line and an entry in the
// history with the operator, the action and the reason. The reason is ?reason=, and the
// operator's name is the header X-Anteroom-By. Both are written as they were given.

// controls registers the actions.
func (a *api) controls(g *echo.Group) {
	h, controller := a.Proxy, a.Controller
	add := func(action, path string, do echo.HandlerFunc) { g.POST(path, a.noted(action, do)) }
	add("pause", "/api/classes/:name/pause", named("class", controller.Pause))
	add("resume", "/api/classes/:name/resume", named("class", controller.Resume))
	add("drain", "/api/backends/:name/drain", named("backend", func(name string) bool { return controller.SetBackendDraining(name, true) }))
	add("resume", "/api/backends/:name/resume", named("backend", func(name string) bool { return controller.SetBackendDraining(name, false) }))
	add("unload", "/api/backends/:name/reclaim", asked(controller.UnloadByHand))
	add("wake", "/api/backends/:name/wake", asked(controller.WakeByHand))
	for _, word := range [...]string{"close", "reset"} {
		add("close breaker", "/api/backends/:name/breaker/"+word, named("backend", h.CloseBreaker))
	}
	add("forget", "/api/learned/:name/forget", named("route", h.Forget))
	add("cancel", "/api/queue/:id/cancel", numbered("waiting request", controller.Cancel))
	add("release", "/api/grants/:id/release", numbered("grant", h.ReleaseGrant))
	add("reload", "/api/reload", a.reload)
}

// maxWord bounds what an operator may write into the log, in bytes.
const maxWord = 256

func word(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxWord)], "\uFFFD")
}

// noted does an action and writes its log line.
func (a *api) noted(action string, do echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := do(c)
		d := timeline.Decision{At: time.Now(), Kind: timeline.Control, Action: action, Position: -1,
			By: word(c.Request().Header.Get("X-Anteroom-By")), Note: word(c.QueryParam("reason"))}
		line := []any{"action", action}
		switch path := c.Path(); {
		case strings.HasPrefix(path, "/api/classes/"):
			d.Class = word(c.Param("name"))
			line = append(line, "class", d.Class)
		case strings.HasPrefix(path, "/api/backends/"):
			d.Backend = word(c.Param("name"))
			line = append(line, "backend", d.Backend)
		case strings.HasPrefix(path, "/api/learned/"):
			d.Resource = word(c.Param("name"))
			line = append(line, "route", d.Resource)
		case c.Param("id") != "":
			d.Grant, _ = strconv.ParseUint(c.Param("id"), 10, 64)
			line = append(line, "grant", d.Grant)
		}
		line = append(line, "by", d.By, "from", c.Request().RemoteAddr, "reason", d.Note)
		if err != nil {
			d.Failed = true
			problem := err.Error()
			if said, ok := errors.AsType[*echo.HTTPError](err); ok {
				problem = fmt.Sprint(said.Message)
			}
			a.Telemetry.Log().Warn("an operator's action was refused", append(line, "error", problem)...)
		} else {
			a.Telemetry.Log().Info("an operator acted", line...)
		}
		a.Telemetry.History.AddDecision(d)
		return err
	}
}

// named is a call on something that has a name.
func named(what string, do func(name string) bool) echo.HandlerFunc {
	return func(c echo.Context) error {
		name, err := url.PathUnescape(c.Param("name"))
		if err != nil || !do(name) {
			return echo.NewHTTPError(http.StatusNotFound, "there is no "+what+" "+strconv.Quote(c.Param("name")))
		}
		return c.NoContent(http.StatusNoContent)
	}
}

// numbered is a call on something that has a number.
func numbered(what string, do func(id uint64) bool) echo.HandlerFunc {
	return func(c echo.Context) error {
		id, err := strconv.ParseUint(c.Param("id"), 10, 64)
		if err != nil || !do(id) {
			return echo.NewHTTPError(http.StatusNotFound, "there is no "+what+" "+strconv.Quote(c.Param("id")))
		}
		return c.NoContent(http.StatusNoContent)
	}
}

// asked is a call on a backend that the controller may refuse. 202 means that it is under
// way; the backend's state shows the result.
func asked(do func(backend string) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		name, err := url.PathUnescape(c.Param("name"))
		if err == nil {
			err = do(name)
		}
		status := http.StatusConflict
		if errors.Is(err, admission.ErrNoBackend) {
			status = http.StatusNotFound
		}
		if err != nil {
			return echo.NewHTTPError(status, strings.TrimPrefix(err.Error(), "admission: "))
		}
		return c.NoContent(http.StatusAccepted)
	}
}

func (a *api) reload(c echo.Context) error {
	if err := a.Reload(); err != nil {
		return echo.NewHTTPError(http.StatusUnprocessableEntity, err.Error())
	}
	return c.NoContent(http.StatusNoContent)
}
