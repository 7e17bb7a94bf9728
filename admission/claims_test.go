package admission

import (
	"testing"
	"time"
)

// Memory is freed for one head at a time on a GPU: one that waits for a slot keeps what
// was freed for it, and nothing is unloaded for another meanwhile, by rule 8 either.
func TestNothingIsUnloadedBesideAClaim(t *testing.T) {
	cfg := swapBox()
	cfg.Classes[0].Slots = 1
	cfg.GPUs = append(cfg.GPUs, GPU{Name: "g1", Memory: 48 * GiB})
	on := func(name, gpu string, weights Bytes) Backend {
		return Backend{Name: name, ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{gpu, weights}}}}}
	}
	cfg.Backends = append(cfg.Backends, on("far", "g1", 8*GiB), on("large", "g0", 45*GiB))
	b := newRig(t, cfg)
	b.reads(0)
	chat, caption := b.submit("chat", "llm", 0), b.submit("light", "captions", 0)
	b.reads(38 * GiB)
	b.at(40)
	b.end(chat)
	b.end(caption)
	b.reads(38 * GiB)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	slow := b.ask(Request{Class: "heavy", Backend: "far", VRAM: GiB, Estimate: Estimate{P50: time.Second, P95: time.Second}})
	b.runs(slow, true) // by its estimate it ends before the unload
	b.at(42)
	b.reads(8 * GiB)
	b.s.Unloaded(b.now, o.ID, Ended{})
	b.reason(image, ReasonClassSlots)
	other := b.submit("chat", "large", 0)
	for range 20 {
		b.after(1)
		b.reads(8 * GiB)
		b.runs(other, false)
		b.noOrder()
	}
	b.end(slow)
	b.runs(image, true)
}
