package admission

import "testing"

// What one that lets go has freed unseen is not the doing of another that does.
func TestWhatOneFreesUnseenIsNotAnothers(t *testing.T) {
	cfg := swapBox()
	cfg.Backends[1].Replicas[0].Places[0].Resident = 16 * GiB
	cfg.Backends[2].Replicas[0].Places[0].Resident = 16 * GiB // so that size does not tell
	b := newBox(t, cfg)
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.end(b.submit("light", "captions", 0))
	b.at(40)
	b.reads(32 * GiB)
	b.submit("heavy", "flux", 20*GiB)
	orders := b.s.Orders()
	if len(orders) != 2 {
		t.Fatalf("the orders are %+v, want both to let go", orders)
	}
	ids := map[string]uint64{}
	for _, o := range orders {
		ids[o.Backend] = o.ID
	}
	b.reads(16 * GiB) // captions has; it may have been llm
	b.s.Reclaimed(b.now, ids["captions"], Ended{})
	b.reads(16 * GiB)
	if freed, _, _ := b.s.Freed(ids["llm"]); freed > 0 {
		t.Errorf("llm is said to have freed %v, want nothing", freed)
	}
}

// One that was not seen to let go may do so while another is told to.
func TestALateFreeIsNotAnothers(t *testing.T) {
	b, _ := imageWaits(t)
	b.end(b.submit("light", "captions", 0))
	b.reads(38 * GiB)
	b.s.Reclaimed(b.now, b.order(Reclaim, "llm").ID, Ended{Failed: true})
	if err := b.s.ReclaimByHand(b.now, "captions"); err != nil {
		t.Fatal(err)
	}
	o := b.order(Reclaim, "captions")
	b.reads(38 * GiB)
	b.reads(8 * GiB)
	if freed, _, _ := b.s.Freed(o.ID); freed > 0 {
		t.Errorf("captions is said to have freed %v, want nothing", freed)
	}
}

// What a wake took for its engine's own is in use by somebody when it fails.
func TestAWakeThatFailsGivesBackWhatItClaimed(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(20 * GiB)
	b.s.SetLoaded(b.now, "llm", 0, false, true)
	b.submit("chat", "llm", 0)
	o := b.order(Wake, "llm")
	if got := b.s.Snapshot(b.now).GPUs[0].Outside; got > 0 {
		t.Fatalf("outside is %v, want what was in use to be llm's", got)
	}
	b.s.Woken(b.now, o.ID, Ended{Failed: true})
	if got := b.s.Snapshot(b.now).GPUs[0].Outside; got != 20*GiB {
		t.Errorf("outside is %v, want 20 GiB", got)
	}
}

// What is booked and not there bars a head until a reading has told, and no
// longer.
func TestAReadingSettlesWhatBarsAHead(t *testing.T) {
	cfg := swapBox()
	cfg.Backends[1].Reclaims, cfg.Backends[2].Reclaims = false, false
	b := newBox(t, cfg)
	b.reads(0)
	fails := func(class, backend string) {
		ticket := b.submit(class, backend, 0)
		b.runs(ticket, true)
		ticket.failed = true
		b.end(ticket)
	}
	fails("chat", "llm")
	fails("light", "captions")
	for range calmReadings + 1 {
		b.reads(10 * GiB)
	}
	caption := b.submit("light", "captions", 0)
	caption.failed = true
	image := b.submit("heavy", "flux", 10*GiB)
	b.runs(image, false)
	b.end(caption)
	b.runs(image, false)
	b.reads(10 * GiB)
	b.runs(image, true)
}

// Others' memory bounds what one can still hold, whenever it has let go.
func TestWhatOthersHoldBoundsWhatIsLeft(t *testing.T) {
	b, _ := imageWaits(t)
	caption := b.submit("light", "captions", 0)
	b.end(caption)
	b.reads(8 * GiB) // llm has gone, and nobody asked it to
	o := b.order(Reclaim, "llm")
	b.reads(8 * GiB)
	if freed, enough, _ := b.s.Freed(o.ID); freed != 30*GiB || !enough {
		t.Errorf("llm is said to have freed %v, want 30 GiB", freed)
	}
}
