package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
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

// engine is a model server that holds memory from its first request on, until
// it is told to unload.
type engine struct {
	weights admission.Bytes
	held    atomic.Int64
	lies    atomic.Bool // it says yes and keeps its memory
	slow    atomic.Bool // it sleeps and does not say so in time
	abused  atomic.Bool // a request has come while it slept
	dies    atomic.Bool // of being told to unload
	asleep  atomic.Bool
	server  *httptest.Server

	mu    sync.Mutex
	calls []string // guarded by mu; those about memory
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/sleep", "/wake_up":
		e.mu.Lock()
		e.calls = append(e.calls, r.Method+" "+r.URL.Path)
		e.mu.Unlock()
		sleep := r.URL.Path == "/sleep"
		if sleep && e.dies.Load() {
			e.server.Config.Close()
			e.held.Store(0)
			return
		}
		e.asleep.Store(sleep)
		if sleep && !e.lies.Load() {
			e.held.Store(0)
		}
		if !sleep {
			e.held.Store(int64(e.weights))
		}
		if sleep && e.slow.Load() {
			<-r.Context().Done()
		}
	case "/is_sleeping":
		fmt.Fprintf(w, `{"is_sleeping":%v}`, e.asleep.Load())
	case "/health":
		if e.asleep.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	default:
		if e.asleep.Load() {
			e.abused.Store(true)
			w.WriteHeader(http.StatusInternalServerError) // as one that hangs or dies would
			return
		}
		e.held.Store(int64(e.weights))
		io.WriteString(w, "done")
	}
}

func (e *engine) called() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.calls, ", ")
}

// twoEngines is a card with two engines that do not fit beside each other, read
// as often as the controller can.
func twoEngines(t *testing.T, change func(*backend.Config)) (b *box, large, other *engine) {
	large, other = &engine{weights: 30 * admission.GiB}, &engine{weights: 28 * admission.GiB}
	servers := []*httptest.Server{httptest.NewServer(large), httptest.NewServer(other)}
	large.server, other.server = servers[0], servers[1]
	b = openAt(t, servers[0].URL, func(s *proxy.Setup) {
		for i, name := range []string{"slow", "quick"} {
			setBackend(s, name, func(c *backend.Config) {
				c.URL = servers[i].URL
				c.Resident.Amount = []admission.Bytes{30 * admission.GiB, 28 * admission.GiB}[i]
				c.Reclaim = backend.ReclaimConfig{Call: "POST /sleep", Wake: "POST /wake_up", Probe: "GET /health", Timeout: time.Minute, Settle: time.Minute}
				if change != nil {
					change(c)
				}
			})
		}
		class(s, "heavy", func(c *routing.ClassConfig) { c.VRAM.Amount = admission.GiB })
	})
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			b.controller.Observe(admission.Reading{GPU: "gpu0", At: time.Now(), Total: 48 * admission.GiB, Source: "nvml",
				Used: admission.Bytes(large.held.Load() + other.held.Load())})
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
		for _, s := range servers {
			s.Close()
		}
	})
	eventually(t, "the card is read", func() bool { return b.controller.Snapshot().GPUs[0].Source == "nvml" })
	return b, large, other
}

func (b *box) want(method, path string) {
	b.t.Helper()
	if res, body := b.do(method, path, ""); res.StatusCode != 200 {
		b.t.Fatalf("%s %s is answered with %s: %s", method, path, res.Status, body)
	}
}

func TestEnginesTakeTurnsOnACard(t *testing.T) {
	b, large, other := twoEngines(t, nil)
	for range 3 {
		b.want("POST", "/heavy")
		b.want("POST", "/light/x")
	}
	if got, want := large.called(), "POST /sleep, POST /wake_up, POST /sleep, POST /wake_up, POST /sleep"; got != want {
		t.Errorf("the large one was told %s, want %s", got, want)
	}
	if got, want := other.called(), "POST /sleep, POST /wake_up, POST /sleep, POST /wake_up"; got != want {
		t.Errorf("the other one was told %s, want %s", got, want)
	}
	for _, want := range []string{`"msg":"admission.unload"`, `"msg":"admission.wake"`} {
		if !strings.Contains(b.logs.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, b.logs)
		}
	}
}

// lied is the state of a backend that may still hold what it held: its weights,
// and perhaps what its run took.
var lied = regexp.MustCompile(`"the call succeeded, and 0B of 3[01]GiB were freed within 20ms.*"high_bytes":3(2212254720|3285996544),`)

func TestAHookThatLiesIsSeenThrough(t *testing.T) {
	b, large, other := twoEngines(t, func(c *backend.Config) { c.Reclaim.Wake, c.Reclaim.Settle = "", 20*time.Millisecond })
	b.want("POST", "/heavy")
	eventually(t, "its weights are seen", func() bool { return strings.Contains(b.backendState("slow"), `"low_bytes":32212254720,`) })
	large.lies.Store(true)
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		b.want("POST", "/light/x")
	}()
	eventually(t, "the state tells", func() bool { return strings.Contains(b.backendState("slow"), `"failures":1`) })
	if got, want := large.called(), "POST /sleep, POST /sleep"; got != want {
		t.Errorf("it was told %s, want %s", got, want)
	}
	if state := b.backendState("slow"); !lied.MatchString(state) {
		t.Errorf("the state says %s", state)
	}
	if other.held.Load() > 0 {
		t.Error("the other one was let in although nothing came back")
	}
	// It comes to its senses, and an operator tries again. However long that takes on a
	// slow machine, it has not lied.
	b.reload(func(s *proxy.Setup) {
		setBackend(s, "slow", func(c *backend.Config) { c.Reclaim.Settle = time.Minute })
	})
	large.lies.Store(false)
	if status := b.ask("POST", "/api/backends/slow/reclaim", nil); status != 202 {
		t.Fatalf("reclaim by hand is answered with %d", status)
	}
	<-waits
}

func TestAnEngineThatDiesOfItsCallKeepsItsRoom(t *testing.T) {
	b, large, other := twoEngines(t, nil)
	b.want("POST", "/heavy")
	large.dies.Store(true)
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		b.want("POST", "/light/x")
	}()
	eventually(t, "its return is waited for", func() bool { return strings.Contains(b.backendState("slow"), `"residency":"loading"`) })
	if large.held.Load() > 0 || other.held.Load() > 0 {
		t.Error("its room was given away")
	}
	// Whoever watches it starts it anew, and it loads.
	large.dies.Store(false)
	large.held.Store(int64(large.weights))
	l, err := newListener(strings.TrimPrefix(large.server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	again := &http.Server{Handler: large}
	go again.Serve(l)
	defer again.Close()
	eventually(t, "it is back", func() bool { return strings.Contains(b.backendState("slow"), "was started again with its weights") })
	if state := b.backendState("slow"); !strings.Contains(state, `"residency":"loaded"`) || !strings.Contains(state, `"failures":1`) ||
		other.held.Load() > 0 {
		t.Errorf("the state says %s, and the other one holds %d bytes", state, other.held.Load())
	}
	if status := b.ask("POST", "/api/backends/slow/reclaim", nil); status != 202 {
		t.Fatalf("reclaim by hand is answered with %d", status)
	}
	<-waits
}

func TestASleepThatIsAnsweredTooLateIsASleep(t *testing.T) {
	b, large, _ := twoEngines(t, func(c *backend.Config) { c.Reclaim.Timeout = 100 * time.Millisecond })
	b.want("POST", "/heavy")
	large.slow.Store(true)
	b.want("POST", "/light/x")
	b.reload(func(s *proxy.Setup) { // waking it may take longer
		setBackend(s, "slow", func(c *backend.Config) { c.Reclaim.Timeout = time.Minute })
	})
	b.want("POST", "/heavy")
	if got, want := large.called(), "POST /sleep, POST /wake_up"; got != want || large.abused.Load() {
		t.Errorf("it was told %s, want %s; a request came while it slept: %v", got, want, large.abused.Load())
	}
}

func TestAnEngineThatSleepsAtTheStartIsWokenFirst(t *testing.T) {
	b, large, _ := twoEngines(t, func(c *backend.Config) {
		c.Reclaim = backend.ReclaimConfig{Preset: "vllm", Timeout: time.Minute}
	})
	large.asleep.Store(true)
	b.handler.Inspect()
	b.want("POST", "/heavy")
	if got, want := large.called(), "POST /wake_up"; got != want || large.abused.Load() {
		t.Errorf("it was told %s, want %s; a request came while it slept: %v", got, want, large.abused.Load())
	}
}

// TestAnEngineThatAnotherHandPutsToSleepIsWoken when an answer makes one ask.
func TestAnEngineThatAnotherHandPutsToSleepIsWoken(t *testing.T) {
	b, large, _ := twoEngines(t, func(c *backend.Config) {
		c.Reclaim = backend.ReclaimConfig{Preset: "vllm", Timeout: time.Minute}
	})
	b.want("POST", "/heavy")
	large.asleep.Store(true)
	large.held.Store(0)
	if res, _ := b.do("POST", "/heavy", ""); res.StatusCode != 500 {
		t.Fatalf("got %d while nothing told of it, want the engine's 500", res.StatusCode)
	}
	eventually(t, "it is woken", func() bool { return large.called() == "POST /wake_up" })
	b.want("POST", "/heavy")
	if got, want := large.called(), "POST /wake_up"; got != want {
		t.Errorf("it was told %s, want %s", got, want)
	}
	eventually(t, "the log tells", func() bool { return strings.Contains(b.logs.String(), "put to sleep by another hand") })
}

func TestABackendThatAReloadBringsIsAskedWhetherItSleeps(t *testing.T) {
	b, large, _ := twoEngines(t, nil)
	large.asleep.Store(true)
	b.reload(func(s *proxy.Setup) {
		setBackend(s, "slow", func(c *backend.Config) {
			c.Reclaim = backend.ReclaimConfig{Preset: "vllm", Timeout: time.Minute}
		})
	})
	eventually(t, "it is known to sleep", func() bool { return strings.Contains(b.backendState("slow"), `"residency":"asleep"`) })
}

func TestReclaimAndWakeByHand(t *testing.T) {
	b, large, _ := twoEngines(t, func(c *backend.Config) { c.Pinned = true })
	b.want("POST", "/heavy")
	b.ask("POST", "/api/backends/slow/reclaim", nil)
	eventually(t, "the state tells", func() bool { return strings.Contains(b.backendState("slow"), `"residency":"asleep"`) })
	b.ask("POST", "/api/backends/slow/wake", nil)
	eventually(t, "the state tells", func() bool { return strings.Contains(b.backendState("slow"), `"residency":"loaded"`) })
	if got, want := large.called(), "POST /sleep, POST /wake_up"; got != want {
		t.Errorf("it was told %s, want %s", got, want)
	}
	for path, status := range map[string]int{"/api/backends/nobody/reclaim": 404, "/api/backends/nobody/wake": 404} {
		if got := b.ask("POST", path, nil); got != status {
			t.Errorf("POST %s is answered with %d, want %d", path, got, status)
		}
	}
}

// backendState is a backend as the admin API shows it.
func (b *box) backendState(name string) string {
	var all struct{ Backends []json.RawMessage }
	b.ask("GET", "/api/backends", &all)
	for _, one := range all.Backends {
		if strings.Contains(string(one), `"name":"`+name+`"`) {
			return string(one)
		}
	}
	return ""
}

func TestAPortThatRefusesHoldsNoMemory(t *testing.T) {
	b, large, _ := twoEngines(t, nil)
	b.want("POST", "/heavy")
	eventually(t, "it is seen to hold its weights", func() bool { return strings.Contains(b.backendState("slow"), `"low_bytes":32212254720`) })
	large.server.CloseClientConnections()
	large.server.Close()
	for range 2 { // the first may find a connection that breaks; a refusal opens the breaker
		if res, body := b.do("POST", "/heavy", ""); res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("got %s %s", res.Status, body)
		}
	}
	if state := b.backendState("slow"); !strings.Contains(state, `"low_bytes":0,"high_bytes":0`) || !strings.Contains(state, `"loaded":"unloaded"`) {
		t.Errorf("the state says %s", state)
	}
	// The card has the last word on what is free.
	if g := b.controller.Snapshot().GPUs[0]; g.Available > 17*admission.GiB {
		t.Errorf("%v are available while 30 GiB are in use", g.Available)
	}
	large.held.Store(0)
	eventually(t, "it is free", func() bool { return b.controller.Snapshot().GPUs[0].Available == 47*admission.GiB })
}

func TestAWaitingRequestShowsWhatBlocksIt(t *testing.T) {
	b, _, _ := twoEngines(t, func(c *backend.Config) { c.MinResidency = time.Hour })
	b.want("POST", "/heavy")
	answer := b.later("/light/x")
	var queue struct {
		Waiting []struct {
			ID        uint64
			Reason    string
			Resource  string
			BlockedBy struct {
				Running []uint64
				Idle    []struct {
					Backend  string
					Low      int64 `json:"low_bytes"`
					High     int64 `json:"high_bytes"`
					Reclaims bool
					Until    *time.Time
				}
			} `json:"blocked_by"`
		}
	}
	eventually(t, "what blocks it is seen", func() bool {
		b.ask("GET", "/api/queue", &queue)
		if len(queue.Waiting) != 1 || queue.Waiting[0].Resource != "gpu0" {
			return false
		}
		by := queue.Waiting[0].BlockedBy
		return by.Running != nil && len(by.Running) == 0 && len(by.Idle) == 1 && by.Idle[0].Backend == "slow" && by.Idle[0].Low == 30<<30 &&
			by.Idle[0].High >= 30<<30 &&
			by.Idle[0].Reclaims && by.Idle[0].Until != nil && time.Until(*by.Idle[0].Until) > 59*time.Minute
	})
	var state struct {
		GPUs []struct {
			Capacity     int64 `json:"capacity_bytes"`
			Reserve      int64 `json:"reserve_bytes"`
			Booked       int64 `json:"booked_bytes"`
			Retained     int64 `json:"retained_bytes"`
			Unmanaged    int64 `json:"unmanaged_bytes"`
			Unattributed int64 `json:"unattributed_bytes"`
			Available    int64 `json:"available_bytes"`
			Observed     int64 `json:"observed_bytes"`
		}
	}
	b.ask("GET", "/api/state", &state)
	if g := state.GPUs[0]; g.Available != g.Capacity-g.Reserve-g.Booked-g.Unmanaged-g.Unattributed || g.Observed != 30<<30 ||
		g.Retained != g.Booked || g.Booked < 30<<30 {
		t.Errorf("the state says %+v", g)
	}
	b.ask("POST", fmt.Sprintf("/api/queue/%d/cancel", queue.Waiting[0].ID), nil)
	<-answer
}
