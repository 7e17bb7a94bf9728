package admission

import (
	"fmt"
	"testing"
	"time"
)

// Three mistakes that are easy to make in these rules.

func mistakeConfig() Config {
	c := benchConfig(1, 64)
	c.GPUs[0].Reserve = 0
	c.Classes = append(c.Classes, Class{Name: "middle", Slots: 4, QueueLimit: 100, StrictAfter: 5 * time.Second})
	return c
}

// ask is a request of 34 GiB as heavy, or of as many GiB in another class.
func ask(class, tenant string, gib int) Request {
	backend := map[string]string{"heavy": "flux", "middle": "flux", "light": "vqa"}[class]
	return Request{Class: class, Backend: backend, VRAM: Bytes(gib) * GiB, Tenant: tenant,
		Estimate: Estimate{P50: 10 * time.Second, P95: 10 * time.Second}}
}

func (w *world) must(t *testing.T) {
	t.Helper()
	if err := w.check(); err != nil {
		t.Fatal(err)
	}
}

func wantRuns(t *testing.T, w *world, who string, x *Ticket, want bool) {
	t.Helper()
	w.must(t)
	if _, runs := x.Granted(); runs != want {
		t.Fatalf("%s runs: %v, want %v\n%s", who, runs, want, w.state())
	}
}

// A tenant that comes is further behind its share than the head's, and would be
// the first. If it took the head's place, the reservation would be nobody's, or
// move with each that comes; everything would wait for it.
func TestATenantThatComesDoesNotOrphanAReservation(t *testing.T) {
	w := newWorld(mistakeConfig(), nil)
	// The tenant that runs is charged before the others come.
	running := w.submit(ask("heavy", "greedy", 34))
	head := w.submit(ask("heavy", "greedy", 34))
	w.must(t)
	due := head.shape.reserved
	for i := range 20 {
		w.advance(400 * time.Millisecond)
		w.submit(ask("heavy", fmt.Sprint("new", i), 34))
		w.must(t)
		if head.shape.head != head || head.shape.reserved != due {
			t.Fatalf("as tenant %d came the head is %d and its reservation %v, want %d and %v", i, head.shape.head.ID(), head.shape.reserved, head.ID(), due)
		}
	}
	w.advance(2 * time.Second)
	w.end(running)
	wantRuns(t, w, "the head", head, true)
}

// Protected is the head that is blocked for longest, and not the one that ranks
// first: heads with early keys come anew, and each would take the protection.
func TestTheHeadThatIsBlockedForLongestIsProtected(t *testing.T) {
	w := newWorld(mistakeConfig(), nil)
	long := w.submit(ask("light", "", 10))
	w.submit(ask("middle", "", 10))
	blocked := w.submit(ask("heavy", "", 40))
	w.advance(time.Second)
	// Of another shape, and counts as having come a minute before.
	q := ask("middle", "", 30)
	q.Boost = time.Minute
	boosted := w.submit(q)
	w.must(t)
	w.advance(20 * time.Second)
	w.must(t)
	if !w.s.strict.is(blocked) {
		t.Fatalf("protected is %v, want the head that is blocked for longest\n%s", w.s.strict.head, w.state())
	}
	w.end(long)
	wantRuns(t, w, "the boosted one", boosted, false)
}

// A shape ranks by its eldest. If it ranked by its fair head, a younger request
// of another shape would come before the eldest of all.
func TestAShapeRanksByItsEldest(t *testing.T) {
	cfg := mistakeConfig()
	for i := range cfg.Classes {
		cfg.Classes[i].StrictAfter = -1
	}
	w := newWorld(cfg, nil)
	running := w.submit(ask("heavy", "greedy", 34))
	w.setPaused("heavy", true) // else the eldest would be the head already
	eldest := w.submit(ask("heavy", "greedy", 33))
	w.advance(time.Second)
	younger := w.submit(ask("middle", "other", 33))
	w.advance(time.Second)
	fair := w.submit(ask("heavy", "polite", 33))
	w.setPaused("heavy", false)
	w.must(t)
	if fair.shape.head != fair {
		t.Fatalf("the head is %d, want that of the tenant with the smallest share, %d\n%s", fair.shape.head.ID(), fair.ID(), w.state())
	}
	w.advance(8 * time.Second)
	w.end(running)
	wantRuns(t, w, "the head of the eldest's shape", fair, true)
	wantRuns(t, w, "the younger one of another class", younger, false)
	w.end(fair)
	wantRuns(t, w, "the eldest", eldest, true)
}
