package routing_test

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// A rule looks at the body for how much memory a request takes.
func Example() {
	table, err := routing.NewTable(routing.Config{
		Classes:  map[string]routing.ClassConfig{"images": {Slots: 1, VRAM: routing.VRAM{Amount: 20 * admission.GiB}}},
		Backends: map[string]backend.Config{"flux": {URL: "http://127.0.0.1:8001", GPU: "gpu0"}},
		Routes: []routing.RouteConfig{{
			Match: routing.MatchConfig{Path: routing.Texts{"/v1/images/generations"}},
			Class: "images", Backend: "flux", VRAM: "gib(18) + gib(4) * num(body.n, 1)",
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	text := `{"prompt": "a lighthouse", "n": 2}`
	r, _ := http.NewRequest("POST", "/v1/images/generations", strings.NewReader(text))
	r.Header.Set("Content-Type", "application/json")

	rules, err := table.Find(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	decision, err := rules.Decide(r, routing.Body{Prefix: []byte(text), Size: int64(len(text))})
	fmt.Println(decision.Route.ClassName, decision.Route.Backend, decision.VRAM, err)
	// Output:
	// images flux 26GiB <nil>
}
