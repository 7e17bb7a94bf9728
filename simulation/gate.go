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
func FIFO(heavy, light *url.URL) http.Handler {
	one := make(chan struct{}, 1)
	return gate(lane{heavy, one}, lane{light, one})
}

// Static gives heavy and light requests slots of their own, one queue each.
func Static(heavy, light *url.URL, heavies, lights int) http.Handler {
	return gate(lane{heavy, make(chan struct{}, heavies)}, lane{light, make(chan struct{}, lights)})
}

// lane is the way to an engine. Go's channels serve their waiters in the order
// in which they came.
type lane struct {
	to    *url.URL
	slots chan struct{}
}

func gate(heavy, light lane) http.Handler {
	var routes http.ServeMux
	routes.Handle("POST "+heavyPath, heavy.handler())
	routes.Handle("/", light.handler())
	return &routes
}

func (l lane) handler() http.Handler {
	next := &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(l.to) },
		Transport: newTransport(),
		ErrorLog:  log.New(io.Discard, "", 0), // callers see 502
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case l.slots <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		defer func() { <-l.slots }()
		next.ServeHTTP(w, r)
	})
}

// newTransport keeps as many idle connections as there are callers at once, so
// that connecting does not count as waiting.
func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
}
