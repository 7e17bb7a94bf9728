package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// CORSConfig names the origins whose pages may read the proxy's own refusals. What
// a backend answers has the headers that the backend sends.
type CORSConfig struct {
	Origins []string `koanf:"origins"` // such as https://app.example.com; *: any
}

func (c CORSConfig) check(report func(path, problem string)) {
	for i, origin := range c.Origins {
		u, err := url.Parse(origin)
		if origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
			report(fmt.Sprintf("origins[%d]", i), fmt.Sprintf("%q: not an origin: want one such as https://app.example.com, or *", origin))
		}
	}
}

// allows gives the origin to name to a request's page; empty: none.
func (c CORSConfig) allows(r *http.Request) string {
	origin := r.Header.Get("Origin")
	switch {
	case origin == "" || len(c.Origins) == 0:
		return ""
	case slices.ContainsFunc(c.Origins, func(o string) bool { return strings.EqualFold(o, origin) }):
		return origin
	case slices.Contains(c.Origins, "*"):
		return "*"
	}
	return ""
}

// told are the headers of refusals that a page may read.
const told = "Retry-After, Retry-After-Ms, X-Should-Retry, X-Anteroom-Class, X-Anteroom-Request-Id, X-Anteroom-Position, Server-Timing"

func allowOrigin(header http.Header, origin string) {
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Expose-Headers", told)
	if origin != "*" {
		header.Set("Access-Control-Allow-Credentials", "true")
		header.Add("Vary", "Origin")
	}
}

// isPreflight says that a browser asks whether a page may send a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

func allowPreflight(w http.ResponseWriter, r *http.Request, origin string) {
	header := w.Header()
	allowOrigin(header, origin)
	header.Set("Access-Control-Allow-Methods", r.Header.Get("Access-Control-Request-Method"))
	if names := r.Header.Get("Access-Control-Request-Headers"); names != "" {
		header.Set("Access-Control-Allow-Headers", names)
	}
	w.WriteHeader(http.StatusNoContent)
}
