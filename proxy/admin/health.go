package admin

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
)

// ready says whether traffic should come here; ?verbose says which part is not
// ready.
func (a *api) ready(c echo.Context) error {
	type check struct {
		Name  string `json:"name"`
		Ready bool   `json:"ready"`
		Note  string `json:"note,omitempty"`
	}
	spool := check{Name: "spool", Ready: true}
	if err := a.Proxy.Config().Limits.CheckSpool(); err != nil {
		spool.Ready, spool.Note = false, err.Error()
	}
	checks := []check{{Name: "listening", Ready: true}, {Name: "config", Ready: true}, {Name: "draining", Ready: !a.Proxy.Draining()}, spool}
	if _, verbose := c.QueryParams()["verbose"]; verbose {
		// These parts are shown, but do not make the proxy unready: work that needs neither
		// is still served.
		for _, g := range a.Controller.Snapshot().GPUs {
			checks = append(checks, check{Name: "gpu " + g.Name, Ready: !g.Lost, Note: gpuNote(g)})
		}
		for name, states := range a.Proxy.Breakers() {
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
	if a.Proxy.Draining() || !spool.Ready {
		status = http.StatusServiceUnavailable
	}
	if _, verbose := c.QueryParams()["verbose"]; verbose {
		return c.JSON(status, map[string]any{"ready": status == http.StatusOK, "checks": checks})
	}
	if a.Proxy.Draining() {
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
