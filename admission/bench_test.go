package admission

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// cpu reports the processor's time for each operation beside the clock's: where
// others use the processor too it is the one that says something.
func cpu(b *testing.B) func() {
	before := used(b)
	return func() { b.ReportMetric(float64(used(b)-before)/float64(b.N), "cpu-ns/op") }
}

// used is the processor's time that the process has used.
func used(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func benchConfig(heavySlots, lightSlots int) Config {
	return Config{
		GPUs: []GPU{{Name: "gpu0", Memory: 48 * GiB, Reserve: GiB}},
		Classes: []Class{
			{Name: "heavy", Slots: heavySlots, QueueLimit: 1 << 30, QueueTimeout: time.Hour, StrictAfter: 5 * time.Second},
			{Name: "light", Slots: lightSlots, QueueLimit: 1 << 30, QueueTimeout: time.Hour, StrictAfter: 5 * time.Second},
		},
		Backends: []Backend{
			{Name: "flux", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "gpu0"}}}}},
			{Name: "vqa", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "gpu0"}}}}},
		},
	}
}

var (
	benchHeavy = Request{Class: "heavy", Backend: "flux", VRAM: 34 * GiB, Estimate: Estimate{P50: 18 * time.Second, P95: 20 * time.Second}}
	benchLight = Request{Class: "light", Backend: "vqa", VRAM: 512 * MiB, Estimate: Estimate{P50: 1500 * time.Millisecond, P95: 2 * time.Second}}
)

// BenchmarkAdmitUncontended is submit, grant and end through the controller
// with no request waiting.
func BenchmarkAdmitUncontended(b *testing.B) {
	c, err := NewController(benchConfig(1, 64))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		g, err := c.Admit(ctx, benchLight)
		if err != nil {
			b.Fatal(err)
		}
		g.Release(Result{Outcome: Done})
	}
}

// BenchmarkAdmitLearning is the same with a History, as the proxy has it: what the
// run teaches is in the figure.
func BenchmarkAdmitLearning(b *testing.B) {
	c, err := NewController(benchConfig(1, 64))
	if err != nil {
		b.Fatal(err)
	}
	r, ctx := benchLight, context.Background()
	r.History = new(History)
	for range 20 {
		r.History.Learn(r.VRAM, r.Estimate.P50)
	}
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		g, err := c.Admit(ctx, r)
		if err != nil {
			b.Fatal(err)
		}
		g.Release(Result{Outcome: Done})
	}
}

// BenchmarkAdmitContended is AdmitUncontended with many goroutines and fewer slots
// than goroutines, so that most grants are hand-offs.
func BenchmarkAdmitContended(b *testing.B) {
	c, err := NewController(benchConfig(1, 4))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			g, err := c.Admit(ctx, benchLight)
			if err != nil {
				b.Error(err)
				return
			}
			g.Release(Result{Outcome: Done})
		}
	})
}

// fill makes a box whose slots are taken and whose queue holds n requests over
// the given numbers of shapes and tenants.
func fill(b testing.TB, n, shapes, tenants int) (*Scheduler, []*Ticket) {
	s, err := NewScheduler(benchConfig(1, 8), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	queue := make([]*Ticket, 0, n+9)
	submit := func(r Request) {
		t := new(Ticket)
		s.Submit(0, t, r)
		queue = append(queue, t)
	}
	for range 9 {
		submit(benchLight)
	}
	submit(benchHeavy)
	names := make([]string, tenants)
	for i := range names {
		names[i] = fmt.Sprint("tenant", i)
	}
	for i := range n {
		r := benchLight
		if i%shapes == 0 {
			r = benchHeavy
		} else {
			r.VRAM += Bytes(i%shapes) * MiB
		}
		r.Tenant = names[i/shapes%tenants]
		submit(r)
	}
	return s, queue
}

// BenchmarkHandOff is the end of one request and the start of the next, with 100,000
// waiting: one event. The arrivals that keep the queue as long come a thousand at a
// time, while the clock stands.
func BenchmarkHandOff(b *testing.B) {
	const batch = 1000
	for _, shapes := range []int{2, 16} {
		b.Run(fmt.Sprintf("waiting=100000/shapes=%d/tenants=1000", shapes), func(b *testing.B) {
			s, _ := fill(b, 100_000, shapes, 1000)
			now, spent, n := time.Duration(0), time.Duration(0), 0
			ended := make([]*Ticket, 0, batch)
			refill := func() {
				for _, t := range ended {
					s.Submit(now, new(Ticket), like(t))
				}
				ended = ended[:0]
			}
			b.ReportAllocs()
			before := used(b)
			for b.Loop() {
				now += time.Millisecond
				t := s.running[0]
				s.End(now, t, Result{})
				if n, ended = n+1, append(ended, t); len(ended) == batch {
					b.StopTimer()
					spent += used(b) - before
					refill()
					before = used(b)
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(spent+used(b)-before)/float64(n), "cpu-ns/op")
		})
	}
}

// like is a request like that of a ticket of fill.
func like(t *Ticket) Request {
	r := benchLight
	if t.shape.class.cfg.Name == "heavy" {
		r = benchHeavy
	}
	r.VRAM, r.Tenant = t.shape.vram, t.Tenant.Name()
	return r
}

// BenchmarkEvent is a hand-off and an arrival, with 100,000 waiting: two events.
func BenchmarkEvent(b *testing.B) {
	for _, shapes := range []int{2, 16} {
		b.Run(fmt.Sprintf("waiting=100000/shapes=%d/tenants=1000", shapes), func(b *testing.B) {
			s, _ := fill(b, 100_000, shapes, 1000)
			now := time.Duration(0)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				now += time.Millisecond
				t := s.running[0]
				s.End(now, t, Result{})
				s.Submit(now, new(Ticket), like(t))
			}
		})
	}
}

// BenchmarkCancel takes requests out of the middle of a long queue. Each comes
// back behind the others, which is in the figure too.
func BenchmarkCancel(b *testing.B) {
	s, queue := fill(b, 100_000, 2, 1000)
	i := 50_000
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		t := queue[i]
		s.Leave(0, t, CodeClientCancelled)
		*t = Ticket{}
		s.Submit(0, t, benchLight)
		i = 50_000 + (i+1)%40_000
	}
}

// waiterBytes is what the core keeps for each of n requests that wait, all told:
// the ticket, its place in every queue and heap, its flow and its tenant.
func waiterBytes(tb testing.TB, n, shapes, tenants int) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s, queue := fill(tb, n, shapes, tenants)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(s)
	return float64(after.HeapAlloc-before.HeapAlloc)/float64(n) - 8*float64(cap(queue))/float64(n) // queue is the test's
}

func TestAWaiterTakesHalfAKibibyteAtMost(t *testing.T) {
	for _, tenants := range []int{1, 1000} {
		if got := waiterBytes(t, 100_000, 2, tenants); got > 480 {
			t.Errorf("one of 100,000 waiters of %d tenants takes %.0f bytes, want 480 at most", tenants, got)
		}
	}
}

// What a decision allocates does not depend on the machine, and so it is what a
// change that costs time is seen by.
func TestWhatADecisionAllocates(t *testing.T) {
	c, err := NewController(benchConfig(1, 64))
	if err != nil {
		t.Fatal(err)
	}
	admit := func(r Request) func() {
		return func() {
			g, err := c.Admit(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			g.Release(Result{Outcome: Done})
		}
	}
	learning := benchLight
	learning.History = new(History)
	for range 20 {
		learning.History.Learn(learning.VRAM, learning.Estimate.P50)
	}
	s, queue := fill(t, 3000, 16, 10)
	now, next := time.Duration(0), len(queue)
	for _, c := range []struct {
		what string
		most float64
		do   func()
	}{
		{"an admission with no request waiting", 1, admit(benchLight)},
		{"one that its History learns from", 5, admit(learning)},
		{"a hand-off", 2, func() {
			now += time.Millisecond
			s.End(now, s.running[0], Result{})
		}},
		{"an arrival that waits", 2, func() { s.Submit(now, new(Ticket), benchLight) }},
		{"a client that leaves", 2, func() {
			next--
			s.Leave(now, queue[next], CodeClientCancelled)
		}},
	} {
		if got := testing.AllocsPerRun(500, c.do); got > c.most {
			t.Errorf("%s allocates %v times, want %v at most", c.what, got, c.most)
		}
	}
	if n := unsafe.Sizeof(Grant{}); n > 320 {
		t.Errorf("a grant takes %d bytes, want 320 at most: the next size that Go allocates is 352", n)
	}
}

// BenchmarkWaiter reports what one waiter takes; its time means nothing.
func BenchmarkWaiter(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(waiterBytes(b, 100_000, 2, 1000), "B/waiter")
	}
}

// BenchmarkQueue describes 1000 waiting requests, with the start that is expected of
// each.
func BenchmarkQueue(b *testing.B) {
	s, _ := fill(b, 1000, 2, 10)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		s.Queue(0, 1000)
	}
}
