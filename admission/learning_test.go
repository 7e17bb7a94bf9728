package admission_test

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// routed is one simulated model server with what is known of it beforehand.
type routed struct {
	simulation.Kind
	declared Bytes // on top of what it holds while idle
	truth    Bytes
	learn    bool
	resident bool // is to be learned
	mute     bool // what it says of a full card has no figures
}

// outcome is what the clients of an engine saw.
type outcome struct {
	served, failed int // answers; those of a full card that reached a client
	full           int // answers of a full card, seen by the proxy or a client
	history        History
}

// learnFrom sends n requests to each engine, from four callers each, one after
// the other: the first runs of a route show what it takes. The card is read
// twice a second. What fails for want of memory is tried once more.
func learnFrom(t *testing.T, n int, engines ...routed) []*outcome {
	t.Helper()
	outcomes := make([]*outcome, len(engines))
	synctest.Test(t, func(t *testing.T) {
		card := simulation.NewCard(48 * GiB)
		cfg := Config{GPUs: []GPU{{Name: "gpu0", Memory: 48 * GiB, Reserve: GiB, Reads: true}},
			Classes: []Class{{Name: "work", Slots: 100, QueueLimit: 1000, QueueTimeout: time.Hour, StrictAfter: 5 * time.Second}}}
		servers := make([]*simulation.Engine, len(engines))
		for i, e := range engines {
			cfg.Backends = append(cfg.Backends, Backend{Name: e.Name, ReturnsMemory: e.ReturnsMemory, LearnsResident: e.resident,
				Replicas: []Replica{{Places: []Place{{GPU: "gpu0"}}}}})
			servers[i] = simulation.NewEngine(e.Kind, card, simulation.Options{Seed: uint64(i)})
			defer servers[i].Close()
		}
		c, err := NewController(cfg)
		if err != nil {
			t.Fatal(err)
		}
		watching, stop := context.WithCancel(t.Context())
		defer stop()
		go card.Watch(watching, "gpu0", 500*time.Millisecond, nil, c.Observe)
		synctest.Wait()

		const callers = 4
		done := make(chan int)
		counts := make(chan func(*outcome))
		for i, e := range engines {
			outcomes[i] = new(outcome)
			h := &outcomes[i].history
			for range callers {
				go func() {
					for range n / callers {
						full, failed := once(t, c, servers[i], e, h)
						counts <- func(o *outcome) {
							o.served++
							o.full += full
							if failed {
								o.failed++
							}
						}
						done <- i
					}
				}()
			}
		}
		for range len(engines) * (n / callers) * callers {
			count := <-counts
			count(outcomes[<-done])
		}
	})
	return outcomes
}

// once is one request through the controller and an engine, tried again where the card was
// full. It says how often that was, and whether the client was told.
func once(t *testing.T, c *Controller, server http.Handler, e routed, h *History) (full int, failed bool) {
	var first *Grant
	for {
		vram, unknown := h.Demand(e.declared, e.learn)
		ask := Request{Class: "work", Backend: e.Name, VRAM: vram, Raised: vram - e.declared,
			Learn: e.learn, Unknown: unknown, History: h, Estimate: Estimate{P50: 10 * time.Second, P95: 10 * time.Second}}
		if first != nil {
			ask = first.Retry(ask)
		}
		g, err := c.Admit(t.Context(), ask)
		if err != nil && first != nil {
			return full, true // there was no room for a second try
		}
		if err != nil {
			t.Error(err)
			return full, true
		}
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, httptest.NewRequest("POST", "/v1/images/generations", strings.NewReader("{}")))
		switch {
		case answer.Code == http.StatusOK:
			g.Release(Result{Outcome: Done})
			return full, false
		}
		said := outofmemory.Scan(answer.Code, answer.Header(), nil)
		said.Write(answer.Body.Bytes())
		words, ok := said.Report(nil)
		if !ok {
			t.Errorf("%s answers %d %s", e.Name, answer.Code, answer.Body)
		}
		if e.mute {
			words = outofmemory.Report{}
		}
		g.Release(Result{Outcome: OutOfMemory, Tried: Bytes(words.Tried), Free: Bytes(words.Free), InUse: Bytes(words.InUse)})
		if full++; full == 2 {
			return full, true
		}
		first = g
	}
}

// imager is an engine that draws, with its figures.
func imager(name string, weights, perRun Bytes) simulation.Kind {
	k := simulation.Flux()
	k.Name, k.Weights, k.PerRun, k.Load = name, weights, perRun, 2*time.Second
	k.Concurrency, k.ReturnsMemory, k.Shortest, k.Longest = 0, true, 4*time.Second, 6*time.Second
	return k
}

func within(got, want Bytes, share float64) bool {
	return math.Abs(float64(got-want)) <= share*float64(want)
}

// Both routes are wrong at once, and nothing but totals tells whose memory is whose. An
// answer of a full card says what its own route needs, and each figure falls back to what
// is declared after 3 good runs, then 6. A client is told of one if its second try starts
// together with runs of either route that are booked with half of the truth: no reading has
// shown what those take. That is one of 20 clients of the wide one as a rule, and 3 at most
// of 600 results. Without figures a figure is raised by what the other route took, too.
func TestFiguresThatAreHalfOfTheTruthAreLearned(t *testing.T) {
	for _, c := range []struct {
		name         string
		mute         bool
		full, failed int // at most, of 20
	}{{"from what answers say", false, 9, 4}, {"from answers that give no figures", true, 8, 4}} {
		t.Run(c.name, func(t *testing.T) {
			engines := []routed{
				{Kind: imager("wide", 0, 20*GiB), declared: 10 * GiB, truth: 20 * GiB, mute: c.mute},
				{Kind: imager("small", 0, 6*GiB), declared: 3 * GiB, truth: 6 * GiB, mute: c.mute},
			}
			for i, o := range learnFrom(t, 20, engines...) {
				e, l := engines[i], o.history.Learned()
				t.Logf("%s: declared %v, truth %v, %d of %d answers of a full card, %d seen by clients, learned %+v", e.Name, e.declared, e.truth,
					o.full, o.served, o.failed, l)
				if o.full > c.full || o.failed > c.failed || o.served != 20 {
					t.Errorf("%s: %d answers of a full card, want %d at most; %d of them seen by clients, want %d; %d served", e.Name, o.full, c.full,
						o.failed, c.failed, o.served)
				}
				// By totals a run is measured only where nothing else moved beside it.
				if len(l) != 1 || l[0].VRAM != e.declared || l[0].Peak.Runs > 0 && !within(l[0].Peak.Most, e.truth, .1) {
					t.Errorf("%s: learned %+v, want a peak of %v, or none", e.Name, l, e.truth)
				}
			}
		})
	}
}

func TestFiguresThatAreNotDeclaredAreLearned(t *testing.T) {
	keeps := imager("keeps", 4*GiB, 6*GiB)
	keeps.ReturnsMemory = false
	engines := []routed{
		{Kind: imager("weights", 8*GiB, 3*GiB), truth: 3 * GiB, learn: true, resident: true},
		{Kind: imager("bare", 0, 5*GiB), truth: 5 * GiB, learn: true},
		{Kind: keeps, truth: 10 * GiB, learn: true, resident: true}, // nothing tells its weights from the rest
	}
	for i, o := range learnFrom(t, 20, engines...) {
		e, l := engines[i], o.history.Learned()
		t.Logf("%s: truth %v, %d answers of a full card, learned %+v", e.Name, e.truth, o.full, l)
		if o.full > 0 {
			t.Errorf("%s: the card was full %d times, want never", e.Name, o.full)
		}
		// Where nothing tells its weights from the rest both are in its demand.
		most := e.truth + e.Weights
		if !e.resident {
			most = e.truth
		}
		booked, isUnknown := o.history.Demand(0, true)
		if isUnknown || booked < e.truth || booked > most*13/10 {
			t.Errorf("%s: books %v, unknown: %v; learned %+v, want %v at least and %v at most", e.Name, booked, isUnknown, l, e.truth, most*13/10)
		}
	}
}
