package admission

import (
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/history"
)

// caller sends one request after the other, as a client does, with a pause between.
type caller struct {
	t       *Ticket
	retries bool
	over    time.Duration // when its run ends, or it asks again
}

// TestACardWithoutRoomForOneRun: a neighbour leaves no room at all, for five minutes.
// Hardly any client is told so by its engine: the others wait, and are served once it has
// gone, or refused when they have waited for too long. Where answers do not say what was
// free, or nothing shows that it has gone, some are tried meanwhile, ever more rarely.
func TestACardWithoutRoomForOneRun(t *testing.T) {
	const comes, goes, pause = 10200 * time.Millisecond, 310 * time.Second, 800 * time.Millisecond
	says := func(free Bytes) Result {
		return Result{Outcome: OutOfMemory, Tried: GiB, Free: free, InUse: GiB}
	}
	for _, c := range []struct {
		name          string
		read, figures bool
		said          Result
		full, failed  int           // answers of a full card, and those that a client was told; at most
		after         time.Duration // its going until something runs, at most
	}{
		{"processes", true, true, says(1), 0, 0, 3 * time.Second},
		{"totals", true, false, says(1), 3, 0, 3 * time.Second},
		{"answers with figures", false, false, says(1), 6, 1, 100 * time.Second},
		{"answers without figures", false, false, Result{Outcome: OutOfMemory}, 10, 9, 100 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newRig(t, Config{GPUs: []GPU{{Name: "g0", Memory: 48 * GiB, Reads: c.read}}, Backends: []Backend{server("vqa", GiB, true)},
				Classes: []Class{{Name: "work", Slots: 8, QueueLimit: 100, QueueTimeout: 30 * time.Second}}})
			p := &pupil{rig: b, class: "work", backend: "vqa", declared: GiB, h: history.History{}}
			callers, others := []caller{{}, {over: 300 * time.Millisecond}}, Bytes(0)
			running, full, failed, served, next := Bytes(0), 0, 0, 0, time.Duration(0)
			for b.now < goes+110*time.Second && next == 0 {
				b.after(.1)
				switch {
				case b.now >= goes:
					others = 0
				case b.now >= comes && running == 0:
					others = 47 * GiB
				}
				if c.read && b.now%(500*time.Millisecond) == 0 {
					b.sees(c.figures, others, map[string]Bytes{"vqa": min(48*GiB-others, GiB+running)})
				}
				for i := range callers {
					x := &callers[i]
					switch {
					case x.t == nil && b.now >= x.over:
						x.t, x.retries, x.over = p.asks(), false, 0
					case x.t == nil || x.t.Waiting():
					case x.t.Rejection() != nil:
						if code := x.t.Rejection().Code; x.retries && code != CodeQueueTimeout {
							failed++
						} else if code != CodeQueueTimeout {
							t.Fatalf("at %v one is refused: %v", b.now, x.t.Rejection())
						}
						*x = caller{over: b.now + pause}
					case x.over == 0 && 48*GiB-others < GiB+running+GiB:
						again := p.ends(x.t, c.said)
						if full++; x.retries {
							failed++
							*x = caller{over: b.now + pause}
							break
						}
						x.retries, x.over = true, 0
						x.t = p.asks(func(r *Request) {
							if r.Retry, r.Lacked, r.Odd = true, again.lacked, again.isOdd; again.isOdd {
								r.VRAM, r.Raised = again.figure, again.figure-GiB
							}
						})
					case x.over == 0:
						running, x.over = running+GiB, b.now+time.Second
						if b.now >= goes {
							next = b.now - goes
						}
					case b.now >= x.over:
						running -= GiB
						p.ends(x.t, Result{})
						served++
						*x = caller{over: b.now + pause}
					}
				}
			}
			t.Logf("%d answers of a full card, %d seen by clients; the next ran after %v", full, failed, next)
			if full > c.full || failed > c.failed || served < 12 || next == 0 || next > c.after {
				t.Errorf("%d answers of a full card, %d seen by clients, %d served; the next ran after %v; want %d and %d at most, and %v",
					full, failed, served, next, c.full, c.failed, c.after)
			}
		})
	}
}
