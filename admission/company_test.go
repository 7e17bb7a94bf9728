package admission

import (
	"slices"
	"testing"
	"time"
)

// A run knows beside the work of which classes it ran for most of its time.
func TestARunKnowsItsCompany(t *testing.T) {
	cfg := swapBox()
	for i := range cfg.Backends {
		cfg.Backends[i].Replicas[0].Places[0].Resident = 0
	}
	b := newRig(t, cfg)
	company := func(x *Ticket, known bool, want ...string) {
		t.Helper()
		if got, ok := x.Company(); ok != known || !slices.Equal(got, want) {
			t.Errorf("it ran beside %v (known: %v), want %v (%v)", got, ok, want, known)
		}
	}
	alone := b.submit("heavy", "flux", GiB)
	company(alone, false)
	b.at(10)
	b.end(alone)
	company(alone, true)

	image := b.submit("heavy", "flux", GiB)
	chat := b.submit("chat", "llm", GiB)
	other := b.submit("chat", "llm", GiB)
	b.at(13)
	b.end(other)
	b.at(16)
	b.end(chat)
	b.at(20)
	b.end(image)
	company(image, true, "chat") // 6 of 10 s
	company(chat, true, "heavy", "chat")
	company(other, true, "heavy", "chat")

	// Neither alone nor mostly in company.
	image = b.submit("heavy", "flux", GiB)
	chat = b.submit("chat", "llm", GiB)
	b.at(24)
	b.end(chat)
	b.at(30)
	b.end(image)
	company(image, false)
}

// A predicted end goes by what runs beside, and moves when that changes.
func TestAPredictedEndGoesByTheCompany(t *testing.T) {
	cfg := swapBox()
	for i := range cfg.Backends {
		cfg.Backends[i].Replicas[0].Places[0].Resident = 0
	}
	b := newRig(t, cfg)
	s := time.Second
	known := &Beside{"": {P50: 5 * s, P95: 5 * s}, "chat": {P50: 10 * s, P95: 10 * s}}
	image := b.ask(Request{Class: "heavy", Backend: "flux", VRAM: GiB, Estimate: Estimate{P50: 7 * s, P95: 9 * s}, Beside: known})
	ends := func(want time.Duration) {
		t.Helper()
		if image.end != want {
			t.Errorf("at %v its end is predicted at %v, want %v", b.now, image.end, want)
		}
	}
	ends(5 * s)
	b.at(2)
	chat := b.submit("chat", "llm", GiB)
	ends(8 * s) // three seconds alone are six
	b.at(4)
	b.submit("chat", "llm", GiB)
	ends(8 * s)
	b.end(chat)
	ends(8 * s)
	b.end(b.s.running[slices.IndexFunc(b.s.running, func(x *Ticket) bool { return x != image })])
	ends(6 * s)
	b.submit("light", "captions", GiB)
	ends(4*s + 2*s*7/5) // nothing is known of that company
}
