package proxy_test

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// card is a GPU that is read all the time.
type card struct {
	used, reads atomic.Int64
}

// readsCard reads a card until the test ends. It returns when it has been read: a run
// that begins before is not measured.
func (b *box) readsCard() *card {
	c := new(card)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			b.controller.Observe(admission.Reading{GPU: "gpu0", At: time.Now(), Total: 48 * admission.GiB, Used: admission.Bytes(c.used.Load()),
				Source: "nvml"})
			c.reads.Add(1)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	b.t.Cleanup(func() {
		close(stop)
		<-ended
	})
	eventually(b.t, "the card is read", func() bool { return c.reads.Load() > 0 })
	return c
}

// hold sets what is in use, and waits until it has been read three times.
func (b *box) hold(c *card, used admission.Bytes) {
	b.t.Helper()
	c.used.Store(int64(used))
	from := c.reads.Load()
	eventually(b.t, "the card is read", func() bool { return c.reads.Load() > from+3 })
}

// seen sends a request that is seen to hold so much while it runs and to give it
// back. It returns when a lone run has been read to its end.
func (b *box) seen(m *model, c *card, path string, used admission.Bytes) {
	b.t.Helper()
	done := make(chan struct{})
	go func() { b.do("POST", path, "{}"); close(done) }()
	<-m.arrived
	b.hold(c, used)
	m.let <- struct{}{}
	<-done
	b.hold(c, 0)
	eventually(b.t, "a lone run is over", func() bool { return !b.controller.Snapshot().GPUs[0].LoneRun })
}

func (b *box) learned() admin.Learned {
	b.t.Helper()
	var l admin.Learned
	if code := b.ask("GET", "/api/learned", &l); code != 200 {
		b.t.Fatalf("/api/learned answers %d", code)
	}
	return l
}

// about says that a figure is there and is n.
func about(p *int64, n admission.Bytes) bool { return p != nil && *p == int64(n) }

func TestADemandThatIsNotDeclaredIsLearned(t *testing.T) {
	m := newModel(t)
	b := open(t, m, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.VRAM = routing.VRAM{Learn: true} })
	})
	c := b.readsCard()
	b.seen(m, c, "/light/x", 5*admission.GiB)
	booked := routing.RoundUp(5*admission.GiB + 5*admission.GiB/4)
	l := b.learned()
	if len(l.Routes) != 1 {
		t.Fatalf("learned %+v", l)
	}
	if r := l.Routes[0]; r.Route != "light" || !r.Learn || r.Measured != 1 || r.Unknown || !about(r.Most, 5*admission.GiB) || r.Booked != int64(booked) {
		t.Errorf("it shows %+v, want 5 GiB seen and a quarter more booked", r)
	}
	// Now that it is known, several run at once, and each is booked.
	done := make(chan struct{})
	for range 3 {
		go func() { b.do("POST", "/light/x", "{}"); done <- struct{}{} }()
		<-m.arrived
	}
	if got := b.controller.Snapshot().GPUs[0].Booked; got != 3*booked {
		t.Errorf("%v are booked for three, want %v", got, 3*booked)
	}
	for range 3 {
		m.let <- struct{}{}
		<-done
	}
	want := telemetry.RouteMemory{Route: "light", P95: 5 * admission.GiB, Most: 5 * admission.GiB}
	if got := b.handler.RouteMemory(); len(got) != 1 || got[0] != want {
		t.Errorf("the metrics get %+v, want %+v", got, want)
	}
}

func TestADeclaredFigureIsShownBesideWhatIsSeen(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	c := b.readsCard()
	for range 8 {
		b.seen(m, c, "/heavy", 20*admission.GiB)
	}
	l := b.learned()
	if len(l.Routes) != 1 || l.Routes[0].Booked != int64(34*admission.GiB) || !about(l.Routes[0].Most, 20*admission.GiB) {
		t.Fatalf("learned %+v", l)
	}
	if hints := strings.Join(l.Routes[0].Hints, "; "); !strings.Contains(hints, "declared 34GiB, measured 20GiB at most over 8 runs: want about 20GiB") {
		t.Errorf("the hints are %q", hints)
	}
	if len(l.Residents) != 2 {
		t.Errorf("residents %+v, want those of two backends", l.Residents)
	}
}

func TestWhatIsLearnedGoesOnAfterARestartAndAReload(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	c := b.readsCard()
	b.seen(m, c, "/heavy", 20*admission.GiB)
	b.seen(m, c, "/light/x", admission.GiB)
	text, err := json.Marshal(b.handler.Memory())
	if err != nil {
		t.Fatal(err)
	}
	memory, err := proxy.ReadMemory(text)
	if err != nil {
		t.Fatal(err)
	}
	without := func(s *proxy.Setup) { s.Routing.Routes = s.Routing.Routes[1:] }
	again := open(t, m, without)
	again.handler.Recall(memory, time.Now())
	if l := again.learned().Routes; len(l) != 1 || l[0].Route != "light" || l[0].Runs != 1 {
		t.Fatalf("after a restart it knows %+v, want the light route's run", l)
	}
	// What it rests on is known after a restart, too.
	kept := open(t, m)
	kept.handler.Recall(memory, time.Now())
	if l := kept.learned().Routes; len(l) != 2 || l[0].Evidence != "declared" || !about(l[0].Most, 20*admission.GiB) ||
		l[0].Booked != int64(34*admission.GiB) {
		t.Errorf("after a restart it knows %+v", l)
	}
	// The heavy route is remembered until it comes back.
	if routes := again.handler.Memory().Routes; len(routes) != 2 {
		t.Errorf("it remembers %+v", routes)
	}
	setup := aBox(again.setup.Routing.Backends["quick"].URL)
	setup.Admission = controller(setup)
	reload := func(change ...func(*proxy.Setup)) {
		t.Helper()
		next := setup
		for _, c := range change {
			c(&next)
		}
		if err := again.handler.Reload(next); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	if l := again.learned().Routes; len(l) != 2 || l[0].Route != "heavy" || !about(l[0].Most, 20*admission.GiB) {
		t.Errorf("after a reload it knows %+v", l)
	}
	reload(without)
	if routes := again.handler.Memory().Routes; len(routes) != 2 {
		t.Errorf("without it, it remembers %+v", routes)
	}
	reload()
	if l := again.learned().Routes; len(l) != 2 {
		t.Errorf("and when it is back it knows %+v", l)
	}
	// On another backend it is other work.
	reload(func(s *proxy.Setup) {
		s.Routing.Routes = append([]routing.RouteConfig{}, s.Routing.Routes...)
		s.Routing.Routes[0].Backend = "quick"
	})
	if l := again.learned().Routes; len(l) != 1 {
		t.Errorf("on another backend it knows %+v", l)
	}

	late := open(t, m, without)
	late.handler.Recall(memory, time.Now().Add(40*24*time.Hour))
	if routes := late.handler.Memory().Routes; len(routes) != 1 {
		t.Errorf("after forty days it remembers %+v", routes)
	}
}

func TestWhatAnOlderStateSaysIsKeptIsIgnored(t *testing.T) {
	memory, err := proxy.ReadMemory([]byte(`{"anteroom_state":1,"routes":[],"accounts":[
		{"backend":"slow","replica":0,"gpu":"gpu0","seen":"2026-01-01","kept_bytes":32212254720},
		{"backend":"learns","replica":0,"gpu":"gpu0","seen":"2026-01-01","resident_bytes":7516192768,"kept_bytes":32212254720},
		{"backend":"gone","replica":0,"gpu":"gpu0","seen":"2026-01-01","resident_bytes":7,"kept_bytes":5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, newModel(t), func(s *proxy.Setup) {
		setBackend(s, "learns", func(c *backend.Config) {
			*c = s.Routing.Backends["slow"]
			c.Resident = backend.Resident{Learn: true}
		})
	})
	b.handler.Recall(memory, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	for _, x := range b.controller.Snapshot().Backends {
		want := admission.Bytes(0)
		if x.Name == "learns" {
			want = 7 * admission.GiB
		}
		if a := x.Accounts[0]; a.Resident != want || a.High != 0 {
			t.Errorf("%s: %+v, want weights of %v and nothing held", x.Name, a, want)
		}
	}
	var names []string
	for _, a := range b.handler.Memory().Accounts {
		names = append(names, a.Backend)
	}
	if got := strings.Join(names, " "); got != "gone learns" {
		t.Errorf("it remembers %s, want what was learned alone", got)
	}
}

func TestWhatIsLearnedIsForgottenByHand(t *testing.T) {
	m := newModel(t)
	b := open(t, m, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.VRAM = routing.VRAM{Learn: true} })
	})
	c := b.readsCard()
	b.seen(m, c, "/light/x", 5*admission.GiB)
	l := b.learned().Routes
	if len(l) != 1 || l[0].Booked <= int64(5*admission.GiB) || l[0].Evidence != "total" || l[0].Since == nil {
		t.Fatalf("learned %+v, want more than 5 GiB by totals since the run", l)
	}
	if code := b.ask("POST", "/api/learned/light/forget", nil); code != 204 {
		t.Errorf("it answers %d, want 204", code)
	}
	if l := b.learned().Routes; len(l) != 0 {
		t.Errorf("after it was forgotten it knows %+v", l)
	}
	if code := b.ask("POST", "/api/learned/nothing/forget", nil); code != 404 {
		t.Errorf("a route that is not there: %d, want 404", code)
	}
}
