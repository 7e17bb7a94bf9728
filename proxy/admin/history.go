package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// longest is the longest time that may be asked for.
const longest = 24 * time.Hour

// since reads ?for=10m; nothing said is all that there is.
func since(c echo.Context, now time.Time) (time.Time, error) {
	text := c.QueryParam("for")
	if text == "" {
		return now.Add(-longest), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > longest {
		return now, echo.NewHTTPError(http.StatusBadRequest, "for "+strconv.Quote(text)+": want a duration of up to 24h, such as 10m")
	}
	return now.Add(-d), nil
}

// kept refuses where nothing is kept.
func (a *api) kept(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if a.Telemetry.History == nil {
			return echo.NewHTTPError(http.StatusNotFound, "no history is kept: want telemetry.history.for above 0s")
		}
		return next(c)
	}
}

func (a *api) history(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, a.Telemetry.History.Since(from, now))
}

func (a *api) decisions(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	all, complete := a.Telemetry.History.Decisions(from, now)
	return c.JSON(http.StatusOK, map[string]any{"complete_since": complete, "until": now, "decisions": all})
}

// record writes a trace for `anteroom simulate`, or for a trace viewer.
func (a *api) record(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	h := a.Telemetry.History.Since(from, now)
	switch c.QueryParam("tenants") {
	case "", "hashed":
		hideTenants(h.Requests, a.salt[:])
	case "plain":
	default:
		return echo.NewHTTPError(http.StatusBadRequest, "tenants "+strconv.Quote(c.QueryParam("tenants"))+": want hashed or plain")
	}
	w := c.Response()
	switch format := c.QueryParam("format"); format {
	case "", "csv":
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.WriteHeader(http.StatusOK)
		timeline.WriteCSV(w, h) // a client that is gone needs no error
	case "trace":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		timeline.WriteTrace(w, h)
	default:
		return echo.NewHTTPError(http.StatusBadRequest, "format "+strconv.Quote(format)+": want csv or trace")
	}
	return nil
}

// hideTenants replaces each tenant's name by a word, which stays the same as long as the
// process runs.
func hideTenants(requests []timeline.Request, salt []byte) {
	words := make(map[string]string)
	for i := range requests {
		name := requests[i].Tenant
		if name == "" {
			continue
		}
		if words[name] == "" {
			sum := sha256.Sum256(append(salt[:len(salt):len(salt)], name...))
			words[name] = "t-" + hex.EncodeToString(sum[:6])
		}
		requests[i].Tenant = words[name]
	}
}
