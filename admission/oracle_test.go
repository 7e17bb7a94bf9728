package admission

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// The rules against models that are too simple to be wrong: 17.

// job is one request of a run that an oracle plays too.
type job struct {
	shape  int
	at     time.Duration
	takes  time.Duration
	leaves time.Duration // after at, if it still waits; 0: never
	start  time.Duration // -1: not yet
	end    time.Duration
}

// kindOf is one shape as an oracle knows it.
type kindOf struct {
	vram  Bytes
	slots int
}

const oracleMemory = 47 * GiB

func oracleConfig(kinds []kindOf) Config {
	cfg := Config{GPUs: []GPU{{Name: "g0", Memory: oracleMemory}}}
	for i, k := range kinds {
		name := fmt.Sprint("k", i)
		// No protection: with exact estimates the reservations alone decide.
		cfg.Classes = append(cfg.Classes, Class{Name: name, Slots: k.slots, QueueLimit: 1 << 20, StrictAfter: -1})
		cfg.Backends = append(cfg.Backends, Backend{Name: name, ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{"g0", 0}}}}})
	}
	return cfg
}

// drawJobs draws jobs whose events never fall together: what ends at one moment
// is told one by one, and an oracle that hears of all at once decides otherwise.
func drawJobs(n draw, kinds, count int, every time.Duration) []*job {
	var jobs []*job
	at := time.Duration(0)
	for i := range count {
		at += time.Duration(1+n(int(every/time.Microsecond)))*time.Microsecond + time.Duration(i)*13
		j := &job{shape: n(kinds), at: at, takes: time.Duration(1+n(20))*time.Second + time.Duration(n(1e9)), start: -1}
		if n(8) == 1 {
			j.leaves = time.Duration(1+n(30))*time.Second + time.Duration(n(1e9))
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// controller plays jobs against the scheduler and gives them their starts; a job that
// leaves keeps −1.
func controller(t *testing.T, kinds []kindOf, jobs []*job) {
	s, err := NewScheduler(oracleConfig(kinds), time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	tickets := map[*Ticket]*job{}
	of := map[*job]*Ticket{}
	next := 0
	for {
		at, event := forever, func() {}
		if next < len(jobs) {
			j := jobs[next]
			at, event = j.at, func() {
				q := Request{Class: fmt.Sprint("k", j.shape), Backend: fmt.Sprint("k", j.shape), VRAM: kinds[j.shape].vram,
					Estimate: Estimate{P50: j.takes, P95: j.takes}}
				x := new(Ticket)
				tickets[x], of[j] = j, x
				s.Submit(j.at, x, q)
				if _, ok := x.Granted(); ok {
					j.start, j.end = j.at, j.at+j.takes
				}
				next++
			}
		}
		for x, j := range tickets {
			if j.start >= 0 && j.end < at {
				at, event = j.end, func() { delete(tickets, x); s.End(j.end, x, Result{}) }
			}
			if leaves := j.at + j.leaves; j.start < 0 && j.leaves > 0 && leaves < at {
				at, event = leaves, func() { delete(tickets, x); s.Leave(leaves, x, CodeClientCancelled) }
			}
		}
		if due, ok := s.Next(); ok && due < at {
			at, event = due, func() { s.Tick(due) }
		}
		if at == forever {
			return
		}
		event()
		for _, x := range s.Decided() {
			j := tickets[x]
			j.start, j.end = at, at+j.takes
		}
	}
}

// oracle plays many draws, the same each time; play gives how many waited.
func oracle(t *testing.T, contended bool, play func(n draw) int) {
	waited := 0
	for seed := range uint64(race.Some(1000)) {
		waited += play(rand.New(rand.NewPCG(seed, 17)).IntN)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	if contended != (waited > 0) {
		t.Fatalf("%d of all that came waited; contention was wanted: %v", waited, contended)
	}
}

// against plays the same jobs by a model and compares which job started when. It
// gives how many waited.
func against(t *testing.T, kinds []kindOf, jobs []*job, model func(kinds []kindOf, jobs []*job)) (waited int) {
	other := make([]*job, len(jobs))
	for i, j := range jobs {
		copy := *j
		other[i] = &copy
	}
	controller(t, kinds, jobs)
	model(kinds, other)
	for i := range jobs {
		if jobs[i].start > jobs[i].at {
			waited++
		}
		if jobs[i].start != other[i].start {
			for k, j := range jobs {
				t.Logf("%2d shape %d at %v takes %v leaves %v: scheduler %v, model %v", k, j.shape, j.at, j.takes, j.leaves, j.start, other[k].start)
			}
			t.Errorf("17: job %d starts at %v, by the model at %v; shapes %v", i, jobs[i].start, other[i].start, kinds)
			break
		}
	}
	return waited
}

func TestWithoutContentionItIsAFIFO(t *testing.T) {
	oracle(t, false, func(n draw) int {
		kinds := []kindOf{{Bytes(n(3)) * GiB, 1 << 20}, {Bytes(n(2)) * GiB, 1 << 20}, {Bytes(n(3)) * GiB, 1 << 20}}
		jobs := drawJobs(n, len(kinds), 15, 10*time.Second) // 30 GiB at most
		return against(t, kinds, jobs, func(_ []kindOf, jobs []*job) {
			for _, j := range jobs {
				j.start = j.at
			}
		})
	})
}

func TestOneClassOnOneResourceIsAWeightedSemaphore(t *testing.T) {
	oracle(t, true, func(n draw) int {
		kinds := []kindOf{{Bytes(1+n(47)) * GiB, 1 + n(8)}}
		return against(t, kinds, drawJobs(n, 1, 1+n(60), 5*time.Second), semaphore)
	})
}

// semaphore is a weighted semaphore: a caller that does not find enough stands in line,
// and the first of the line takes what comes free.
func semaphore(kinds []kindOf, jobs []*job) {
	free, slots, weight := oracleMemory, kinds[0].slots, kinds[0].vram
	var line, running []*job
	take := func(now time.Duration) {
		for len(line) > 0 && free >= weight && slots > 0 {
			j := line[0]
			line = line[1:]
			free, slots = free-weight, slots-1
			j.start, j.end = now, now+j.takes
			running = append(running, j)
		}
	}
	for next := 0; next < len(jobs) || len(running) > 0; {
		at, what := forever, func() {}
		if next < len(jobs) {
			at, what = jobs[next].at, func() { line = append(line, jobs[next]); next++ }
		}
		for i, j := range running {
			if j.end < at {
				at, what = j.end, func() { running = slices.Delete(running, i, i+1); free, slots = free+weight, slots+1 }
			}
		}
		for i, j := range line {
			if leaves := j.at + j.leaves; j.leaves > 0 && leaves < at {
				at, what = leaves, func() { line = slices.Delete(line, i, i+1) }
			}
		}
		what()
		take(at)
	}
}

func TestWithExactEstimatesItIsAConservativeBackfill(t *testing.T) {
	oracle(t, true, func(n draw) int {
		kinds := []kindOf{{Bytes(20+n(28)) * GiB, 1 + n(2)}, {Bytes(1+n(20)) * GiB, 1 + n(6)}}
		if n(2) == 1 {
			kinds = append(kinds, kindOf{Bytes(5+n(15)) * GiB, 1 + n(2)})
		}
		return against(t, kinds, drawJobs(n, len(kinds), 1+n(50), 6*time.Second), backfill)
	})
}

// backfill tries, for the first of each line in the order of arrival, every
// moment at which anything ends, and keeps the first from which it fits to its
// end beside all that runs and all that was given a place before it.
func backfill(kinds []kindOf, jobs []*job) {
	lines := make([][]*job, len(kinds))
	var running []*job
	fits := func(placed []*job, k int, from, to time.Duration) bool {
		moments := []time.Duration{from}
		for _, p := range placed {
			if p.start > from && p.start < to {
				moments = append(moments, p.start)
			}
		}
		for _, m := range moments {
			used, slots := kinds[k].vram, 1
			for _, p := range placed {
				if p.start <= m && m < p.end {
					used += kinds[p.shape].vram
					if p.shape == k {
						slots++
					}
				}
			}
			if used > oracleMemory || slots > kinds[k].slots {
				return false
			}
		}
		return true
	}
	pass := func(now time.Duration) {
		placed := slices.Clone(running)
		done := make([]bool, len(kinds))
		for {
			k := -1
			for i, line := range lines {
				if !done[i] && len(line) > 0 && (k < 0 || line[0].at < lines[k][0].at) {
					k = i
				}
			}
			if k < 0 {
				return
			}
			j := lines[k][0]
			moments := []time.Duration{now}
			for _, p := range placed {
				moments = append(moments, p.end)
			}
			slices.Sort(moments)
			for _, m := range moments {
				if !fits(placed, k, m, m+j.takes) {
					continue
				}
				if m == now {
					j.start, j.end = now, now+j.takes
					running = append(running, j)
					placed = append(placed, j)
					lines[k] = lines[k][1:]
				} else {
					placed = append(placed, &job{shape: k, start: m, end: m + j.takes})
					done[k] = true
				}
				break
			}
		}
	}
	for next := 0; ; {
		at, what := forever, func() {}
		if next < len(jobs) {
			at, what = jobs[next].at, func() { k := jobs[next].shape; lines[k] = append(lines[k], jobs[next]); next++ }
		}
		for i, j := range running {
			if j.end < at {
				at, what = j.end, func() { running = slices.Delete(running, i, i+1) }
			}
		}
		for k, line := range lines {
			for i, j := range line {
				if leaves := j.at + j.leaves; j.leaves > 0 && leaves < at {
					at, what = leaves, func() { lines[k] = slices.Delete(slices.Clone(line), i, i+1) }
				}
			}
		}
		if at == forever {
			return
		}
		what()
		pass(at)
	}
}
