package admission

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pupil is a route whose requests are admitted by the figure that its History has
// at the time, as a Controller does it.
type pupil struct {
	*rig
	class, backend string
	declared       Bytes
	learns         bool
	h              History
}

func (p *pupil) asks(change ...func(*Request)) *Ticket {
	vram, unknown := p.h.Demand(p.declared, p.learns)
	r := Request{Class: p.class, Backend: p.backend, VRAM: vram, Raised: vram - p.declared, Learn: p.learns, Unknown: unknown,
		Case: p.h.Case(p.declared), Estimate: Estimate{P50: time.Second, P95: time.Second}}
	for _, c := range change {
		c(&r)
	}
	t := new(Ticket)
	t.history, t.learns = &p.h, p.learns
	p.s.Submit(p.now, t, r)
	return t
}

// ends gives a grant back, and says what a second try would ask for.
func (p *pupil) ends(t *Ticket, res Result) *secondTry {
	p.t.Helper()
	p.rig.ends(t, res)
	p.learned()
	if res.Outcome != OutOfMemory {
		t.learn(p.wall(), p.now, res)
		t.relearned(p.now, p.s)
	}
	return t.ran.again
}

// learned tells the Histories what was measured.
func (b *rig) learned() {
	for _, m := range b.s.Measured() {
		m.Ticket.learnPeak(b.wall(), m.Measurement)
	}
}

func (b *rig) wall() time.Time { return b.s.epoch.Add(b.now) }

// books wants a figure, to so many hundredths.
func (p *pupil) books(want Bytes, hundredths int) {
	p.t.Helper()
	f := p.h.Figure(p.declared, p.learns)
	if f.Unknown || max(f.Booked-want, want-f.Booked) > want*Bytes(hundredths)/100 {
		p.t.Fatalf("at %v %s is booked with %v by %s, unknown: %v; want %v, to %d %%; known is %+v", p.now, p.backend, f.Booked, f.Evidence,
			f.Unknown, want, hundredths, p.h.Learned())
	}
}

// sees is a reading of what is in use, and with figures of whose it is; others are
// a neighbour's.
func (b *rig) sees(figures bool, others Bytes, of map[string]Bytes) {
	used, all := others, map[string]Bytes{}
	for name, n := range of {
		used += n
		all[name] = n
	}
	if others > 0 {
		all["neighbour"] = others
	}
	if figures {
		b.seesProcesses(used, all)
	} else {
		b.reads(used)
	}
	b.learned()
}

func learning(t *testing.T, backends ...Backend) *rig {
	cfg := Config{GPUs: []GPU{{Name: "g0", Reads: true}}, Backends: backends,
		Classes: []Class{{Name: "work", Slots: 8, QueueLimit: 100, StrictAfter: 5 * time.Second}}}
	return newRig(t, cfg)
}

func server(name string, resident Bytes, returns bool) Backend {
	return Backend{Name: name, ReturnsMemory: returns, Replicas: []Replica{{Places: []Place{{GPU: "g0", Resident: resident}}}}}
}

// TestTheFirstRunsOnARealCardAreLearned plays what an H200 showed: a FLUX server that
// keeps what its runs take (32330 MiB, then 35942) beside a small one. Nothing is
// declared, and the driver names the processes.
func TestTheFirstRunsOnARealCardAreLearned(t *testing.T) {
	t.Run("each reading names the processes", func(t *testing.T) { firstRuns(t, false) })
	// A card that has been at rest for a while is mostly read without them.
	t.Run("none before a run", func(t *testing.T) { firstRuns(t, true) })
}

func firstRuns(t *testing.T, bare bool) {
	flux, vqa := server("flux", 0, false), server("vqa", 0, false)
	flux.LearnsResident, vqa.LearnsResident = true, true
	b := learning(t, flux, vqa)
	routes := map[string]*pupil{}
	for _, name := range []string{"flux", "vqa"} {
		routes[name] = &pupil{rig: b, class: "work", backend: name, learns: true}
	}
	running := map[string]*Ticket{}
	var used Bytes
	ended := -time.Hour
	f, err := os.Open("memory/testdata/h200/first-runs.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines[1:] {
		s, err := strconv.ParseFloat(line[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		// Rows of one moment happened in their order.
		b.until(time.Duration(s*float64(time.Second)) + time.Duration(i)*time.Microsecond)
		words := strings.Fields(line[1])
		switch words[0] {
		case "start":
			if bare && len(b.s.running) == 0 && b.now-ended > time.Second {
				b.s.Observe(b.now, Reading{GPU: "g0", Total: 143000 * MiB, Used: used, Source: "nvml"})
			}
			running[words[1]] = routes[words[1]].asks()
		case "end":
			// What had to wait here did not then: it leaves.
			ended = b.now
			x, res := running[words[1]], Result{}
			if words[2] != "200" {
				res.Outcome = Failed
			}
			if !b.s.Leave(b.now, x, CodeClientCancelled) {
				routes[words[1]].ends(x, res)
			}
		case "reading":
			var mib [3]Bytes
			for k := range mib {
				n, err := strconv.Atoi(line[2+k])
				if err != nil {
					t.Fatal(err)
				}
				mib[k] = Bytes(n) * MiB
			}
			used = mib[0]
			b.s.Observe(b.now, Reading{GPU: "g0", Total: 143000 * MiB, Used: mib[0], Source: "nvml", Processes: []Process{
				{PID: 1, Name: "flux", Used: mib[1], Backend: "flux"}, {PID: 2, Name: "vqa", Used: mib[2], Backend: "vqa"}}})
			b.learned()
		}
	}
	const weights, demand = 32330 * MiB, 3612 * MiB
	if w := b.account("flux").Resident; max(w-weights, weights-w) > weights*3/100 {
		t.Errorf("the weights are learned as %v, want %v to 3 %%", w, weights)
	}
	routes["flux"].books(demand, 3)
}

// TestAFigureOfHalfTheTruthIsLearnedFromOneRun of a backend like FLUX, whose
// process the driver names.
func TestAFigureOfHalfTheTruthIsLearnedFromOneRun(t *testing.T) {
	b := learning(t, server("flux", 20*GiB, false))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 7 * GiB}
	b.sees(true, 0, map[string]Bytes{"flux": 20 * GiB})
	x := p.asks()
	for range 4 {
		b.after(.5)
		b.sees(true, 0, map[string]Bytes{"flux": 34 * GiB})
	}
	p.ends(x, Result{})
	y := p.asks() // at once, before a reading
	b.runs(y, true)
	p.books(14*GiB, 3)
	if got := y.run.Asked(); got < 14*GiB {
		t.Errorf("the next one is started with %v, want 14GiB or more", got)
	}
}

// TestANeighbourIsNotLearned: memory of another process that comes during one of
// the first four runs of a light route, and goes after it.
func TestANeighbourIsNotLearned(t *testing.T) {
	const truth = 512 * MiB
	for _, figures := range []bool{true, false} {
		for _, learns := range []bool{true, false} {
			for _, others := range []Bytes{4 * GiB, 20 * GiB} {
				for during := range 4 {
					t.Run(fmt.Sprintf("figures %v, learns %v, %v in run %d", figures, learns, others, during+1), func(t *testing.T) {
						b := learning(t, server("vqa", 2*GiB, true))
						p := &pupil{rig: b, class: "work", backend: "vqa", declared: truth, learns: learns}
						right := p.lights(figures, -1, others)
						b = learning(t, server("vqa", 2*GiB, true))
						p = &pupil{rig: b, class: "work", backend: "vqa", declared: truth, learns: learns}
						if got := p.lights(figures, during, others); figures && got > right {
							t.Errorf("it is booked with %v, and without the neighbour with %v", got, right)
						}
						// Four at a time, as far as the figure lets them.
						const runs = 20
						for n := 0; n < runs; {
							var all []*Ticket
							for range 4 {
								if x := p.asks(); !x.Waiting() {
									all = append(all, x)
								} else {
									b.s.Leave(b.now, x, CodeClientCancelled)
								}
							}
							if len(all) == 0 {
								t.Fatalf("at %v nothing starts: %+v", b.now, b.gpu())
							}
							for range 2 {
								b.after(.5)
								b.sees(figures, 0, map[string]Bytes{"vqa": 2*GiB + Bytes(len(all))*truth})
							}
							for _, x := range all {
								p.ends(x, Result{})
								n++
							}
							b.after(.5)
							b.sees(figures, 0, map[string]Bytes{"vqa": 2 * GiB})
						}
						if got, _ := p.h.Demand(truth, learns); got > right {
							t.Errorf("after %d runs it is booked with %v, and without the neighbour with %v: %+v", runs, got, right, p.h.Learned())
						}
					})
				}
			}
		}
	}
}

// lights are four runs of a light route, one after the other, in one of which a
// neighbour comes. It gives the figure after them.
func (p *pupil) lights(figures bool, during int, others Bytes) Bytes {
	idle := map[string]Bytes{"vqa": 2 * GiB}
	for range 4 {
		p.sees(figures, 0, idle)
		p.after(.5)
	}
	for n := range 4 {
		x := p.asks()
		for k := 0; !p.started(x); k++ {
			if k > 60 {
				p.t.Fatalf("run %d does not start: %+v", n+1, p.gpu())
			}
			p.after(.5)
			p.sees(figures, 0, idle)
		}
		for k := range 4 {
			p.after(.5)
			beside := Bytes(0)
			if n == during && k > 0 {
				beside = others
			}
			p.sees(figures, beside, map[string]Bytes{"vqa": 2*GiB + 512*MiB})
		}
		p.ends(x, Result{})
		for range 5 {
			p.after(.5)
			p.sees(figures, 0, idle)
		}
	}
	got, _ := p.h.Demand(p.declared, p.learns)
	return got
}

func (b *rig) started(t *Ticket) bool {
	_, ok := t.Granted()
	return ok
}

// TestAFirstMeasurementStopsOthersForTrialAfterAtMost: a run of unknown demand that
// goes on for long has the largest room there is, and the others wait for no longer.
func TestAFirstMeasurementStopsOthersForTrialAfterAtMost(t *testing.T) {
	for _, lasts := range []float64{4, 9.8, 30} {
		b := learning(t, server("flux", 0, true), server("vqa", 0, true))
		p := &pupil{rig: b, class: "work", backend: "flux", learns: true}
		b.readsFor(3, 0)
		x := p.asks()
		b.runs(x, true)
		began := b.now
		if got := x.run.Demand; got != 48*GiB {
			t.Errorf("its room is %v, want the whole card", got)
		}
		y := b.submit("work", "vqa", 2*GiB)
		b.runs(y, false)
		b.reason(y, ReasonLoneRun)
		ended := false
		for !b.started(y) && b.now < began+time.Minute {
			if !ended && b.now-began >= time.Duration(lasts*float64(time.Second)) {
				p.ends(x, Result{})
				ended = true
			}
			b.after(.1)
			if b.now%(500*time.Millisecond) == 0 {
				b.sees(false, 0, map[string]Bytes{"flux": map[bool]Bytes{false: 10 * GiB}[ended]})
			}
		}
		if waited := b.now - began; waited > 10*time.Second {
			t.Errorf("beside a run of %v s another waits for %v, want 10s at most", lasts, waited)
		}
	}
}

// TestWhatACardFullOfOthersTeaches: the driver names the process that fills the
// card, and the demand was declared too small. The first failure says what is
// needed, and no other request of the route follows it into the full card.
func TestWhatACardFullOfOthersTeaches(t *testing.T) {
	b := learning(t, server("flux", 4*GiB, true))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 3 * GiB}
	idle := map[string]Bytes{"flux": 4 * GiB}
	for range 4 {
		b.sees(true, 37*GiB, idle) // 7 GiB are free
		b.after(.5)
	}
	x := p.asks()
	b.runs(x, true)
	// In PyTorch's words: 8 GiB in use by its process, 3 GiB free, 9 GiB tried.
	again := p.ends(x, Result{Outcome: OutOfMemory, Tried: 9 * GiB, Free: 3 * GiB, InUse: 8 * GiB})
	if again.isOdd || again.figure < 13*GiB || again.figure > 14*GiB {
		t.Errorf("the second try asks for %+v, want what it says, 13 GiB beside its weights", again)
	}
	p.books(13*GiB, 3)
	retry := p.asks(func(r *Request) { r.Retry = true })
	next := p.asks()
	for range 60 {
		b.after(.5)
		b.sees(true, 37*GiB, idle)
		b.runs(retry, false)
		b.runs(next, false)
	}
	b.reason(retry, ReasonUnmanagedMemory)
	b.reason(next, ReasonUnmanagedMemory)
	for range 4 {
		b.after(.5)
		b.sees(true, 0, idle)
	}
	b.runs(retry, true)
	b.runs(next, true)
}

// TestARequestThatCanNeverFitIsAnswered at once, and what is like the others of its
// route goes on.
func TestARequestThatCanNeverFitIsAnswered(t *testing.T) {
	for _, well := range []int{1, 3} {
		b := learning(t, server("vllm", 22*GiB, true), server("flux", 0, true))
		p := &pupil{rig: b, class: "work", backend: "flux", declared: 20 * GiB}
		chats := &pupil{rig: b, class: "work", backend: "vllm"}
		b.readsFor(3, 22*GiB)
		chats.ends(chats.asks(), Result{})
		b.readsFor(2, 22*GiB)
		for range well {
			x := p.asks()
			b.readsFor(2, 42*GiB)
			p.ends(x, Result{})
			b.readsFor(2, 22*GiB)
		}
		x := p.asks()
		again := p.ends(x, Result{Outcome: OutOfMemory})
		if !again.isOdd {
			t.Errorf("after %d good runs in the same room it is not odd: %+v", well, again)
		}
		retry := p.asks(func(r *Request) { r.Retry, r.Odd, r.VRAM, r.Raised = true, true, again.figure, again.figure-20*GiB })
		b.runs(retry, false) // before a reading it is not known
		b.after(.1)
		b.reads(22 * GiB)
		if retry.Waiting() || retry.Rejection() == nil {
			t.Errorf("its second try, with %v, waits after a reading", again.figure)
		}
		p.books(20*GiB, 0)
		y := p.asks()
		b.runs(y, true)
	}
}

// TestWhatOthersTookSinceItsStartIsNotOdd: of runs that start together and are booked with
// half of what they need the first had the most room as it started, and the others have
// taken that. What its answer says of its process and the card tells so.
func TestWhatOthersTookSinceItsStartIsNotOdd(t *testing.T) {
	b := learning(t, server("flux", 0, true))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 10 * GiB}
	b.readsFor(3, 0)
	for range 3 {
		x := p.asks()
		b.readsFor(2, 20*GiB)
		p.ends(x, Result{})
		b.readsFor(2, 0)
	}
	first, _, _ := p.asks(), p.asks(), p.asks()
	again := p.ends(first, Result{Outcome: OutOfMemory, Tried: 20 * GiB, Free: 8 * GiB, InUse: 40 * GiB})
	if again.isOdd {
		t.Errorf("it is odd: its second try is to ask for %v", again.figure)
	}
	p.books(20*GiB, 3)
}

// TestWhatAnAnswerSaysCountsBeforeAnotherStarts: the figure has come down while a second
// try runs, and that ends for want of memory too. Its answer raises the figure again before
// what waits may start.
func TestWhatAnAnswerSaysCountsBeforeAnotherStarts(t *testing.T) {
	b := learning(t, server("flux", 0, true), server("other", 0, true))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 10 * GiB}
	full := Result{Outcome: OutOfMemory, Tried: 19 * GiB, Free: 10 * GiB, InUse: GiB}
	b.readsFor(3, 0)
	again := p.ends(p.asks(), full)
	if again.isOdd {
		t.Fatalf("it is odd: %+v", again)
	}
	p.books(20*GiB, 3)
	b.readsFor(1, 0)
	second := p.asks(func(r *Request) { r.Retry = true })
	b.runs(second, true)
	for range 3 {
		x := p.asks()
		b.readsFor(1, 40*GiB)
		p.ends(x, Result{})
		b.readsFor(1, 20*GiB)
	}
	p.books(10*GiB, 0)
	other := b.submit("work", "other", 20*GiB)
	b.readsFor(1, 40*GiB)
	next, another := p.asks(), p.asks(func(r *Request) { r.Retry = true })
	b.runs(next, false)
	p.ends(second, full)
	p.books(20*GiB, 3)
	b.runs(next, false)
	b.runs(another, false)
	b.end(other)
	b.readsFor(2, 0)
	b.runs(another, true)
	b.runs(next, true)
	if n := min(next.run.Asked(), another.run.Asked()); n < 20*GiB {
		t.Errorf("one of them starts with %v, want 20GiB or more", n)
	}
}

// TestASecondTryWaitsForWhatIsCertain: for the end of what runs, and not where
// nothing of ours makes room. An odd one waits for neither.
func TestASecondTryWaitsForWhatIsCertain(t *testing.T) {
	for _, c := range []struct{ running, odd bool }{{true, false}, {false, false}, {true, true}} {
		running := c.running
		b := learning(t, server("other", 0, true), server("flux", 0, true))
		p := &pupil{rig: b, class: "work", backend: "flux", declared: 10 * GiB}
		b.readsFor(3, 0)
		other := b.submit("work", "other", 30*GiB)
		b.readsFor(2, 30*GiB)
		x := p.asks()
		again := p.ends(x, Result{Outcome: OutOfMemory})
		if again.isOdd || again.figure <= 18*GiB {
			t.Fatalf("it asks for %+v, want more than the room of 18 GiB", again)
		}
		if !running {
			// It is gone, and its memory is not: a neighbour has it.
			b.end(other)
			b.readsFor(8, 30*GiB)
		}
		retry := p.asks(func(r *Request) { r.Retry, r.Odd = true, c.odd })
		b.readsFor(2, 30*GiB)
		if want := running && !c.odd; retry.Waiting() != want {
			t.Errorf("%+v: the second try waits: %v, want %v", c, retry.Waiting(), want)
		}
		if retry.Waiting() {
			b.end(other)
			b.readsFor(2, 0)
			b.runs(retry, true)
		}
	}
}

// TestASecondTryStopsNoOtherRequest: it waits for what runs, however long that is, and
// small requests start beside that all the time.
func TestASecondTryStopsNoOtherRequest(t *testing.T) {
	b := learning(t, server("other", 0, true), server("flux", 0, true))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 10 * GiB}
	b.readsFor(3, 0)
	b.runs(b.submit("work", "other", 30*GiB), true)
	b.readsFor(2, 30*GiB)
	p.ends(p.asks(), Result{Outcome: OutOfMemory})
	retry := p.asks(func(r *Request) { r.Retry = true })
	for range 60 {
		small := b.submit("work", "other", GiB)
		b.runs(small, true)
		b.readsFor(1, 31*GiB)
		b.end(small)
		b.readsFor(.5, 30*GiB)
	}
	b.runs(retry, false)
}

// TestAnEstimateRefusesNoRequest: not the one of the configuration, and not the one
// that was learned. Only what even the fastest run could not meet is refused.
func TestAnEstimateRefusesNoRequest(t *testing.T) {
	b := learning(t, server("vqa", 0, true))
	p := &pupil{rig: b, class: "work", backend: "vqa", declared: GiB}
	b.readsFor(3, 0)
	by := func(seconds float64) func(*Request) {
		return func(r *Request) {
			r.Deadline, r.Fastest = b.wall().Add(time.Duration(seconds*float64(time.Second))), p.h.Fastest(GiB)
			r.Estimate = Estimate{P50: time.Minute, P95: time.Minute}
		}
	}
	x := p.asks(by(30))
	b.runs(x, true)
	b.readsFor(20, GiB)
	p.ends(x, Result{})
	for range 10 {
		x := p.asks(by(30))
		b.readsFor(25, GiB)
		p.ends(x, Result{})
	}
	x = p.asks(by(22)) // most took 25 s, and one took 20
	b.runs(x, true)
	if r := p.asks(by(10)).Rejection(); r == nil || r.Code != CodeDeadlineUnmeetable || r.RetryAfter <= 0 {
		t.Errorf("what none could meet gets %+v, want deadline_unmeetable and when to come back", r)
	}
}

// beforeDeadlines is a server with one slot, whose fastest run is known, in seconds, and the
// next of which, x, has run for 5 s. by asks for another with a deadline in so many seconds.
func beforeDeadlines(t *testing.T) (p *pupil, x *Ticket, fastest float64, by func(seconds float64) *Ticket) {
	t.Helper()
	one := server("vqa", 0, true)
	one.Slots = 1
	b := learning(t, one)
	p = &pupil{rig: b, class: "work", backend: "vqa", declared: GiB}
	b.readsFor(3, 0)
	x = p.asks()
	b.readsFor(20, GiB)
	p.ends(x, Result{})
	fastest = p.h.Fastest(GiB).Seconds()
	by = func(seconds float64) *Ticket {
		return p.asks(func(r *Request) {
			r.Deadline, r.Fastest = b.wall().Add(time.Duration(seconds*float64(time.Second))), p.h.Fastest(GiB)
		})
	}
	x = p.asks()
	b.runs(x, true)
	b.readsFor(5, GiB)
	return p, x, fastest, by
}

// TestADeadlineCountsTheWorkThatIsCertain: what runs lasts no less than the fastest of
// its kind. What waits may leave, and counts for nothing.
func TestADeadlineCountsTheWorkThatIsCertain(t *testing.T) {
	p, x, fastest, by := beforeDeadlines(t)
	b := p.rig
	if r := by(2*fastest - 5.5).Rejection(); r == nil || r.Code != CodeDeadlineUnmeetable ||
		r.RetryAfter < time.Duration((fastest-6)*float64(time.Second)) {
		t.Errorf("behind a run of another %.1f s at least it gets %+v, want deadline_unmeetable and to come back after that", fastest-5, r)
	}
	first := by(2*fastest - 4.5)
	if !first.Waiting() || !by(2*fastest-4.5).Waiting() {
		t.Error("what may be met does not wait")
	}
	p.ends(x, Result{}) // sooner than any
	b.runs(first, true)
	// Overdue work may end at any moment.
	b.readsFor(40, GiB)
	if !by(fastest + 1).Waiting() {
		t.Error("what may be met when the overdue run ends does not wait")
	}
}

// TestADeadlineIsGivenUpWhenAnotherStartsBeforeIt: what waits is told at once that it is too
// late, and not when it would have to start. What has time enough, or no deadline, waits on.
func TestADeadlineIsGivenUpWhenAnotherStartsBeforeIt(t *testing.T) {
	p, x, fastest, by := beforeDeadlines(t)
	b := p.rig
	// The first and the last have to start in fastest − 2 s, before a run that starts then ends.
	ahead, first, later, free := p.asks(), by(2*fastest-2), by(4*fastest), p.asks()
	last := by(2*fastest - 2)
	b.readsFor(fastest-5, GiB)
	p.ends(x, Result{})
	b.runs(ahead, true)
	for i, z := range []*Ticket{first, last} {
		if r := z.Rejection(); r == nil || r.Code != CodeDeadlineUnmeetable || r.RetryAfter <= 0 || r.Waited <= 0 {
			t.Errorf("%d of two that are too late by then gets %+v, want deadline_unmeetable and when to come back", i, r)
		}
	}
	if !later.Waiting() || !free.Waiting() {
		t.Error("what is not too late does not wait on")
	}
}

// TestNoRequestFollowsAFailureBeforeAReading: it is not known how full the card is.
// Smaller requests of the same backend go on.
func TestNoRequestFollowsAFailureBeforeAReading(t *testing.T) {
	b := learning(t, server("flux", 0, true))
	p := &pupil{rig: b, class: "work", backend: "flux", declared: 10 * GiB}
	b.readsFor(3, 0)
	p.ends(p.asks(), Result{})
	b.readsFor(2, 0)
	if again := p.ends(p.asks(), Result{Outcome: OutOfMemory}); !again.isOdd {
		t.Fatal("it is not odd")
	}
	y, small := p.asks(), b.submit("work", "flux", GiB)
	b.runs(y, false)
	b.runs(small, true)
	b.after(.1)
	b.reads(GiB)
	b.runs(y, true)
}

// TestTheWordsOfAFailure: what a run needs by what its answer says.
func TestTheWordsOfAFailure(t *testing.T) {
	const room = 20 * GiB
	for _, x := range []struct {
		name   string
		res    Result
		beside Bytes // a run of 5 GiB
		want   Bytes
	}{
		{"it says nothing", Result{}, 0, 0},
		{"what was in use alone", Result{InUse: 8 * GiB}, 0, 0},
		{"in use and tried", Result{InUse: 8 * GiB, Tried: 9 * GiB}, 0, 17 * GiB},
		{"in use by two of its runs", Result{InUse: 18 * GiB, Tried: 10 * GiB}, 5 * GiB, 18 * GiB},
		{"in use by a smaller one beside it", Result{InUse: 10 * GiB, Tried: 10 * GiB}, GiB, 18 * GiB},
		{"tried more than its share", Result{InUse: 9 * GiB, Tried: 9 * GiB}, 20 * GiB, 17 * GiB},
		{"free and tried", Result{Free: 3 * GiB, Tried: 9 * GiB}, 0, 26 * GiB},
		{"more free than it could have", Result{Free: 30 * GiB, Tried: 9 * GiB}, 0, 0},
	} {
		if got := x.res.needed(room, 8*GiB, 5*GiB, x.beside); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

// TestOversizedRequestsDoNotMakeALightRouteDear: of one client, among those of
// others or in a burst, with words or without.
func TestOversizedRequestsDoNotMakeALightRouteDear(t *testing.T) {
	for _, burst := range []bool{false, true} {
		for _, words := range []bool{false, true} {
			b := learning(t, server("vqa", 512*MiB, true))
			p := &pupil{rig: b, class: "work", backend: "vqa", declared: 512 * MiB}
			b.readsFor(3, 512*MiB)
			light := func() {
				x := p.asks()
				for k := 0; !b.started(x); k++ {
					if k > 100 {
						t.Fatalf("a light one does not start: %+v", b.gpu())
					}
					b.readsFor(.5, 512*MiB)
				}
				b.readsFor(.5, GiB)
				p.ends(x, Result{})
				b.readsFor(.5, 512*MiB)
			}
			for range 10 {
				light()
			}
			res := Result{Outcome: OutOfMemory}
			if words {
				res.Tried, res.Free, res.InUse = 60*GiB, 47*GiB, 512*MiB
			}
			for range 2 {
				var giants []*Ticket
				for range 7 {
					giants = append(giants, p.asks())
					if !burst {
						light()
					}
				}
				for _, x := range giants {
					if b.started(x) {
						p.ends(x, res)
					} else {
						b.s.Leave(b.now, x, CodeClientCancelled)
					}
					if !burst {
						light()
					}
				}
				b.readsFor(.5, 512*MiB)
			}
			for range 20 {
				light()
			}
			p.books(512*MiB, 0)
			// As many run at once as before.
			for range 8 {
				b.runs(p.asks(), true)
			}
		}
	}
}
