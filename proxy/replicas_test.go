package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// at puts the backends of a box onto replicas on two cards, written URL@GPU. Two
// heavy requests run at once, where there is room.
func at(servers ...string) func(*proxy.Setup) {
	return func(s *proxy.Setup) {
		s.Routing.Room = map[string]admission.Bytes{"gpu0": 47 * admission.GiB, "gpu1": 47 * admission.GiB}
		class(s, "heavy", func(c *routing.ClassConfig) { c.Slots = 2 })
		for _, name := range []string{"quick", "slow"} {
			setBackend(s, name, func(c *backend.Config) {
				c.URL, c.GPU, c.Replicas = "", "", nil
				c.Breaker.Failures, c.Breaker.Open = 1, time.Hour
				for _, text := range servers {
					url, gpu, _ := strings.Cut(text, "@")
					c.Replicas = append(c.Replicas, backend.ReplicaConfig{URL: url, GPU: gpu})
				}
			})
		}
	}
}

// reload puts the box onto other replicas.
func (b *box) reload(change func(*proxy.Setup)) {
	b.t.Helper()
	next := b.setup
	change(&next)
	next.Admission = controller(next)
	if err := b.handler.Reload(next); err != nil {
		b.t.Fatal(err)
	}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// later sends a request and gives its status and answer when they are there.
func (b *box) later(path string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		res, err := b.client.Do(b.request(b.t.Context(), "POST", path, "{}"))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answer <- res.Status + " " + string(body)
	}()
	return answer
}

type backendState struct {
	Name, URL, Breaker string
	Available, Healthy bool
	OpenFor            float64 `json:"open_for_s"`
	Replicas           []struct {
		Replica      int
		URL, Breaker string
		Healthy      bool
		OpenFor      float64 `json:"open_for_s"`
	}
	Accounts []struct {
		Replica  int
		GPU      string
		Resident int64 `json:"resident_bytes"`
		Running  int64 `json:"running_bytes"`
		Booked   int64 `json:"booked_bytes"`
	}
}

// stateOf is what the admin API says of a backend.
func (b *box) stateOf(name string) backendState {
	b.t.Helper()
	var all struct{ Backends []backendState }
	b.ask("GET", "/api/backends", &all)
	for _, s := range all.Backends {
		if s.Name == name {
			return s
		}
	}
	b.t.Fatalf("there is no backend %s in %+v", name, all)
	return backendState{}
}

func TestWorkGoesToTheReplicaWithRoom(t *testing.T) {
	first, second := newModel(t), newModel(t)
	b := openAt(t, "", at(serve(t, first)+"@gpu0", serve(t, second)+"@gpu1"), func(s *proxy.Setup) {
		setBackend(s, "slow", func(c *backend.Config) { c.Resident.Amount = 8 * admission.GiB })
	})
	one := b.later("/heavy")
	<-first.arrived
	two := b.later("/heavy")
	eventually(t, "the second goes where there is room", func() bool { return second.total.Load() == 1 })
	three := b.later("/heavy")
	eventually(t, "the third waits", func() bool { return b.waiting() == 1 })
	second.let <- struct{}{}
	eventually(t, "the third goes where room was made", func() bool { return second.total.Load() == 2 })
	if accounts := b.stateOf("slow").Accounts; len(accounts) != 2 || accounts[0].GPU != "gpu0" || accounts[1].GPU != "gpu1" ||
		accounts[0].Booked != 42<<30 || accounts[1].Booked != 42<<30 {
		t.Errorf("the accounts are %+v, want 42 GiB on each card", accounts)
	}
	close(first.let)
	close(second.let)
	for _, answer := range []<-chan string{one, two, three} {
		if got := <-answer; got != "200 OK done" {
			t.Errorf("got %s", got)
		}
	}
}

func TestWorkGoesToTheReplicaThatHoldsItsModel(t *testing.T) {
	first, second := newModel(t), newModel(t)
	close(first.let)
	close(second.let)
	b := openAt(t, "", at(serve(t, first)+"@gpu0", serve(t, second)+"@gpu1"), func(s *proxy.Setup) {
		s.Routing.Room["gpu1"] = 60 * admission.GiB
		setBackend(s, "quick", func(c *backend.Config) { c.Resident.Amount = 30 * admission.GiB })
	})
	for range 5 {
		b.do("POST", "/light/x", "{}")
	}
	// The larger card has more room for the first; it then holds the weights.
	if f, s := first.total.Load(), second.total.Load(); f != 0 || s != 5 {
		t.Errorf("the replicas got %d and %d, want 0 and 5", f, s)
	}
}

func TestAReplicaThatIsKilledLeavesTheOthersServing(t *testing.T) {
	kill, first, _ := startModel(t, "127.0.0.1:0")
	killOther, second, _ := startModel(t, "127.0.0.1:0")
	b := openAt(t, "", at("http://"+first+"@gpu0", "http://"+second+"@gpu0"))
	if res, body := b.do("PUT", "/light/x", ""); res.StatusCode != 200 {
		t.Fatalf("got %d %s", res.StatusCode, body)
	}
	kill()
	if res, _ := b.do("PUT", "/light/x", ""); res.StatusCode != http.StatusBadGateway {
		t.Errorf("the request that finds it dead got %d, want 502", res.StatusCode)
	}
	eventually(t, "its breaker is open", func() bool { return b.handler.Breakers()["quick"][0] == "open" })
	for range 20 {
		if res, body := b.do("PUT", "/light/x", ""); res.StatusCode != 200 {
			t.Errorf("beside an open breaker got %d %s, want 200", res.StatusCode, body)
		}
		if res, body := b.do("GET", "/pass/x", ""); res.StatusCode != 200 {
			t.Errorf("past the queue got %d %s, want 200", res.StatusCode, body)
		}
	}
	s := b.stateOf("quick")
	if !s.Available || s.Breaker != "closed" || s.URL != "http://"+second || s.OpenFor != 0 {
		t.Errorf("the backend is %+v, want it to be as good as its second replica", s)
	}
	if r := s.Replicas; len(r) != 2 || r[0].Breaker != "open" || r[0].OpenFor == 0 || r[0].URL != "http://"+first ||
		r[1].Breaker != "closed" || r[1].Replica != 1 || !r[1].Healthy {
		t.Errorf("the replicas are %+v, want the first open and the second closed", s.Replicas)
	}

	killOther()
	if res, _ := b.do("PUT", "/light/x", ""); res.StatusCode != http.StatusBadGateway {
		t.Errorf("the request that finds the last one dead got %d, want 502", res.StatusCode)
	}
	eventually(t, "its breaker is open", func() bool { return b.handler.Breakers()["quick"][1] == "open" })
	s = b.stateOf("quick")
	res, body := b.do("PUT", "/light/x", "")
	if res.StatusCode != 503 || !strings.Contains(body, "backend_unavailable") || res.Header.Get("Retry-After") == "" {
		t.Errorf("with all breakers open got %d %s, want 503", res.StatusCode, body)
	}
	if s.Available || s.Breaker != "open" || s.OpenFor != min(s.Replicas[0].OpenFor, s.Replicas[1].OpenFor) {
		t.Errorf("the backend is %+v, want it open until the first of its replicas is not", s)
	}
	var ready struct{ Checks []struct{ Name, Note string } }
	b.ask("GET", "/readyz?verbose", &ready)
	found := false
	for _, c := range ready.Checks {
		found = found || c.Name == "backend quick replica 1" && c.Note == "breaker open"
	}
	if !found {
		t.Errorf("readyz says %+v, want a word on each replica", ready.Checks)
	}
}

func TestObserveGoesToAReplicaThatWorks(t *testing.T) {
	kill, first, _ := startModel(t, "127.0.0.1:0")
	_, second, _ := startModel(t, "127.0.0.1:0")
	b := openAt(t, "", at("http://"+first+"@gpu0", "http://"+second+"@gpu0"), func(s *proxy.Setup) { s.Proxy.Mode = "observe" })
	kill()
	b.do("PUT", "/light/x", "")
	for range 5 {
		if res, body := b.do("PUT", "/light/x", ""); res.StatusCode != 200 {
			t.Errorf("got %d %s, want 200", res.StatusCode, body)
		}
	}
}

// What ran out of memory on one card may find more on another.
func TestASecondTryMayGoToAnotherReplica(t *testing.T) {
	first, second := &scarce{bodies: make(chan string, 9)}, &scarce{bodies: make(chan string, 9)}
	first.left.Store(1)
	firstURL, secondURL := serve(t, first), serve(t, second)
	b := openAt(t, "", at(firstURL+"@gpu0", secondURL+"@gpu1"), func(s *proxy.Setup) {
		for _, name := range []string{"slow", "quick"} {
			setBackend(s, name, func(c *backend.Config) { c.RetryOOM, c.OOMPatterns = true, []string{"CUDA out of memory"} })
		}
	})
	// Once it has been read, gpu0 shows that somebody else is there.
	first.then = func() {
		b.controller.Observe(admission.Reading{GPU: "gpu0", At: time.Now(), Total: 48 * admission.GiB, Used: 2 * admission.GiB, Source: "nvml"})
		b.controller.Observe(admission.Reading{GPU: "gpu0", At: time.Now(), Total: 48 * admission.GiB, Used: 40 * admission.GiB, Source: "nvml"})
	}
	res, body := b.do("POST", "/heavy", `{"n":1}`)
	if res.StatusCode != 200 || body != "done" {
		t.Fatalf("got %s: %s", res.Status, body)
	}
	if a, z := <-first.bodies, <-second.bodies; a != z || first.calls.Load() != 1 || second.calls.Load() != 1 {
		t.Errorf("the replicas got %q and %q in %d and %d calls, want the request once each", a, z, first.calls.Load(), second.calls.Load())
	}
	eventually(t, "no grant is left", func() bool { return b.running() == 0 })
}

func TestAReloadOfReplicas(t *testing.T) {
	t.Run("that brings one lets what waits go there", func(t *testing.T) {
		old, new := newModel(t), newModel(t)
		oldURL, newURL := serve(t, old), serve(t, new)
		b := openAt(t, "", at(oldURL+"@gpu0"))
		one := b.later("/heavy")
		<-old.arrived
		two := b.later("/heavy")
		eventually(t, "it waits", func() bool { return b.waiting() == 1 })
		// The new one comes first, so that numbers move.
		b.reload(at(newURL+"@gpu1", oldURL+"@gpu0"))
		eventually(t, "it goes to the new one", func() bool { return new.total.Load() == 1 })
		if accounts := b.stateOf("slow").Accounts; accounts[0].Running != 34<<30 || accounts[1].Running != 34<<30 {
			t.Errorf("the accounts are %+v, want a heavy request in each", accounts)
		}
		close(old.let)
		close(new.let)
		for _, answer := range []<-chan string{one, two} {
			if got := <-answer; got != "200 OK done" {
				t.Errorf("got %s", got)
			}
		}
	})
	t.Run("that takes one out lets its work end", func(t *testing.T) {
		old, kept := newModel(t), newModel(t)
		oldURL, keptURL := serve(t, old), serve(t, kept)
		b := openAt(t, "", at(oldURL+"@gpu0", keptURL+"@gpu1"))
		one := b.later("/heavy")
		<-old.arrived
		b.reload(at(keptURL + "@gpu1"))
		two := b.later("/heavy")
		eventually(t, "the next goes to the other", func() bool { return kept.total.Load() == 1 })
		if n := old.total.Load(); n != 1 {
			t.Errorf("the old one got %d requests, want 1", n)
		}
		close(old.let)
		close(kept.let)
		for _, answer := range []<-chan string{one, two} {
			if got := <-answer; got != "200 OK done" {
				t.Errorf("got %s", got)
			}
		}
		eventually(t, "the books are empty", func() bool { return b.running() == 0 })
	})
	t.Run("keeps the breakers of those that stay", func(t *testing.T) {
		kill, dead, _ := startModel(t, "127.0.0.1:0")
		kill()
		m := newModel(t)
		close(m.let)
		alive := serve(t, m)
		b := openAt(t, "", at("http://"+dead+"@gpu0"))
		b.do("POST", "/light/x", "{}")
		b.reload(at(alive+"@gpu0", "http://"+dead+"@gpu0"))
		b.reload(at("http://"+dead+"@gpu0", alive+"@gpu0"))
		for range 5 {
			if res, body := b.do("POST", "/light/x", "{}"); res.StatusCode != 200 {
				t.Errorf("got %d %s, want 200", res.StatusCode, body)
			}
		}
		if r := b.stateOf("quick").Replicas; r[0].Breaker != "open" || r[1].Breaker != "closed" {
			t.Errorf("the replicas are %+v, want the first open still", r)
		}
	})
	t.Run("that moves their numbers sends nothing astray", func(t *testing.T) {
		var servers [2]string
		var now [2]atomic.Int32
		for i := range servers {
			servers[i] = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n := now[i].Add(1); n > 1 {
					t.Errorf("server %d has %d requests at once, want one", i, n)
				}
				io.Copy(io.Discard, r.Body)
				for range 1000 {
					runtime.Gosched() // let another in, if it comes
				}
				now[i].Add(-1)
				io.WriteString(w, "done")
			}))
		}
		ways := []func(*proxy.Setup){at(servers[0]+"@gpu0", servers[1]+"@gpu1"), at(servers[1]+"@gpu1", servers[0]+"@gpu0")}
		single := func(way func(*proxy.Setup)) func(*proxy.Setup) {
			return func(s *proxy.Setup) {
				way(s)
				setBackend(s, "quick", func(c *backend.Config) { c.Slots = 1 })
			}
		}
		b := openAt(t, "", single(ways[0]))
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for range 50 {
					if got := <-b.later("/light/x"); got != "200 OK done" {
						t.Errorf("got %s", got)
					}
				}
			})
		}
		over := make(chan struct{})
		go func() { clients.Wait(); close(over) }()
		for i := 1; ; i++ {
			b.reload(single(ways[i%2]))
			select {
			case <-over:
				return
			default:
			}
		}
	})
}

func TestABackendAcrossTwoCardsBooksOnBoth(t *testing.T) {
	wide, small := newModel(t), newModel(t)
	wideURL, smallURL := serve(t, wide), serve(t, small)
	b := openAt(t, "", at(smallURL+"@gpu1"), func(s *proxy.Setup) {
		class(s, "heavy", func(c *routing.ClassConfig) { c.VRAM.Amount = 10 * admission.GiB })
		class(s, "light", func(c *routing.ClassConfig) { c.VRAM.Amount = 25 * admission.GiB })
		setBackend(s, "slow", func(c *backend.Config) {
			c.URL, c.Replicas = wideURL, nil
			c.Resident.PerGPU = map[string]admission.Bytes{"gpu0": 20 * admission.GiB, "gpu1": 15 * admission.GiB}
		})
	})
	one := b.later("/heavy")
	<-wide.arrived
	two := b.later("/light/x")
	eventually(t, "what needs the second card waits", func() bool { return b.waiting() == 1 })
	var state struct {
		GPUs []struct {
			Name   string
			Booked int64 `json:"booked_bytes"`
		}
	}
	b.ask("GET", "/api/state", &state)
	for _, g := range state.GPUs {
		if want := map[string]int64{"gpu0": 30 << 30, "gpu1": 25 << 30}[g.Name]; g.Booked != want {
			t.Errorf("%s has %d booked, want %d", g.Name, g.Booked, want)
		}
	}
	if accounts := b.stateOf("slow").Accounts; len(accounts) != 2 || accounts[0].Replica != 0 || accounts[1].Replica != 0 ||
		accounts[0].Running != 10<<30 || accounts[1].Running != 10<<30 || accounts[1].Resident != 15<<30 {
		t.Errorf("the accounts are %+v, want 10 GiB running on each card", accounts)
	}
	close(wide.let)
	close(small.let)
	for _, answer := range []<-chan string{one, two} {
		if got := <-answer; got != "200 OK done" {
			t.Errorf("got %s", got)
		}
	}
}
