package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// sampleEvery is how often the state is sampled.
const sampleEvery = time.Second

// sample adds the state to a history each second, until ctx ends. Nil: there is none.
func (h *Handler) sample(ctx context.Context, history *timeline.Store) {
	if history == nil {
		return
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		history.AddSample(sampleOf(h.controller.Snapshot(), time.Now()))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sampleOf is what the history keeps of a state.
func sampleOf(s admission.Snapshot, now time.Time) timeline.Sample {
	x := timeline.Sample{At: now, Classes: make([]timeline.ClassSample, len(s.Classes)), GPUs: make([]timeline.GPUSample, len(s.GPUs))}
	for i, c := range s.Classes {
		x.Classes[i] = timeline.ClassSample{Name: c.Name, Queued: c.Queued, Running: c.Running, Slots: c.Slots, Oldest: c.OldestWait.Seconds(),
			Paused: c.Paused}
	}
	for i, g := range s.GPUs {
		x.GPUs[i] = timeline.GPUSample{Name: g.Name, Capacity: int64(g.Capacity), Reserve: int64(g.Reserve), Unmanaged: int64(g.Unmanaged),
			Unattributed: int64(g.Unattributed), Available: int64(g.Available), Observed: int64(g.Observed), Owners: []timeline.OwnerSample{}}
		for _, b := range s.Backends {
			for _, a := range b.Accounts {
				if a.GPU == g.Name && a.Booked > 0 {
					x.GPUs[i].Owners = append(x.GPUs[i].Owners, timeline.OwnerSample{Backend: b.Name, Replica: a.Replica, Booked: int64(a.Booked),
						Retained: int64(a.Retained)})
				}
			}
		}
	}
	return x
}

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
func (a *admin) kept(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if a.telemetry.History == nil {
			return echo.NewHTTPError(http.StatusNotFound, "no history is kept: want telemetry.history.for above 0s")
		}
		return next(c)
	}
}

func (a *admin) history(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, a.telemetry.History.Since(from, now))
}

func (a *admin) decisions(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	all, complete := a.telemetry.History.Decisions(from, now)
	return c.JSON(http.StatusOK, map[string]any{"complete_since": complete, "until": now, "decisions": all})
}

// record writes a trace for `anteroom simulate`, or for a trace viewer.
func (a *admin) record(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	h := a.telemetry.History.Since(from, now)
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

// hideTenants puts a word of its own in the place of each tenant's name, the same for
// as long as the process runs.
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
