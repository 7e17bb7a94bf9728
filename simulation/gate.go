package simulation

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// The gates are what people put in front of model servers today, to compare
// with. They know slots and order of arrival, and nothing of memory. A caller
// that leaves gives its slot back at once, whatever the engine does.

// FIFO is one queue for everything, one request at a time.
func FIFO(clock Clock, heavy, light http.Handler) http.Handler {
	one := make(chan struct{}, 1)
	return gate(lane{clock, heavy, one}, lane{clock, light, one})
}

// Static gives heavy and light requests slots of their own, one queue each.
func Static(clock Clock, heavy, light http.Handler, heavies, lights int) http.Handler {
	return gate(lane{clock, heavy, make(chan struct{}, heavies)}, lane{clock, light, make(chan struct{}, lights)})
}

// lane is the way to an engine. Its waiters are served in the order in which they
// came.
type lane struct {
	clock Clock
	to    http.Handler
	slots chan struct{}
}

func gate(heavy, light lane) http.Handler {
	var routes http.ServeMux
	routes.Handle("POST "+heavyPath, heavy.handler())
	routes.Handle("/", light.handler())
	return &routes
}

func (l lane) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.clock.Take(r.Context(), l.slots) != nil {
			return
		}
		defer func() { <-l.slots }()
		l.to.ServeHTTP(w, r)
	})
}

// Forward sends every request to the server at an address.
func Forward(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to) },
		Transport: newTransport(),
		ErrorLog:  log.New(io.Discard, "", 0), // callers see 502
	}
}

// newTransport keeps as many idle connections as there are callers at once, so
// that connecting does not count as waiting.
func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
}
