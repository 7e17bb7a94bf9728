package admission

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// 11: two tenants with work waiting all the time differ in service ÷ weight by
// at most two largest charges. Estimates are arbitrary; what counts is how long
// the work really took, and the price of one is its share of the resources.
func TestTenantsThatAlwaysWaitGetTheirShares(t *testing.T) {
	for seed := range uint64(race.Some(100)) {
		n := rand.New(rand.NewPCG(seed, 11)).IntN
		names := []string{"a", "b", "c"}[:2+n(2)]
		cfg := benchConfig(1, 64)
		cfg.Tenants.Weights = map[string]float64{"a": float64(1 + n(4)), "b": float64(1+n(8)) / 2}
		w := newWorld(cfg, n)
		service, queued, largest := map[string]float64{}, map[string]int{}, 0.0
		more := func(tenant string) {
			for queued[tenant] < 4 { // one runs, one is the head, and there is a next
				w.submit(Request{Class: "heavy", Backend: "flux", VRAM: 34 * GiB, Tenant: tenant,
					Estimate: Estimate{P50: time.Duration(1+n(60)) * time.Second, P95: time.Duration(1+n(60)) * time.Second}})
				queued[tenant]++
			}
		}
		for _, name := range names {
			more(name)
		}
		for range 300 {
			x := w.s.running[0]
			tenant := x.Tenant.Name()
			took := time.Duration(1+n(60)) * time.Second
			w.advance(took)
			w.end(x)
			price := took.Seconds() / x.Tenant.Weight()
			service[tenant] += price
			largest = max(largest, price)
			queued[tenant]--
			more(tenant)
			if w.broken != nil {
				t.Fatal(w.broken)
			}
			least, most := math.Inf(1), 0.0
			for _, name := range names {
				least, most = min(least, service[name]), max(most, service[name])
			}
			if most-least > 2*largest {
				t.Fatalf("11: seed %d: services ÷ weights are %v after %v, want them within two times %v\n%s", seed, service, w.now, largest, w.state())
			}
		}
	}
}

// A tenant that was away comes back at the time of those that stayed: what it did
// not use is not credit.
func TestIdleTimeIsNoCredit(t *testing.T) {
	w := newWorld(benchConfig(1, 64), nil)
	ask := func(tenant string) *Ticket {
		return w.submit(Request{Class: "heavy", Backend: "flux", VRAM: 34 * GiB, Tenant: tenant,
			Estimate: Estimate{P50: 10 * time.Second, P95: 10 * time.Second}})
	}
	for range 10 {
		ask("stays")
	}
	for range 50 {
		w.advance(10 * time.Second)
		w.end(w.s.running[0])
		w.must(t)
		ask("stays")
	}
	for range 10 {
		ask("away")
	}
	order := ""
	for range 8 {
		w.advance(10 * time.Second)
		x := w.s.running[0]
		order += fmt.Sprint(x.Tenant.Name(), " ")
		w.end(x)
		w.must(t)
	}
	if want := "stays stays away away stays away stays away "; order != want {
		t.Errorf("they run in the order %q, want %q", order, want)
	}
}
