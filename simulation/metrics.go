package simulation

import (
	"fmt"
	"net/http"
	"strings"
)

// atWork is how many runs are on m, or wait for its weights.
func (e *Engine) atWork(m *model) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.runs
}

// metrics adds /metrics in Prometheus's format. The first gauge is how much waits in the
// engine, which is nothing where it bounds nothing; the last one is how much runs.
func metrics(e *Engine, routes *Routes, names ...string) {
	routes.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var b strings.Builder
		for i, name := range names {
			fmt.Fprintf(&b, "# TYPE %s gauge\n", name)
			for _, m := range e.models {
				n := 0
				if i == len(names)-1 {
					n = e.atWork(m)
				}
				fmt.Fprintf(&b, "%s{model_name=%q} %d\n", name, m.Name, n)
			}
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		fmt.Fprint(w, b.String())
	})
}
