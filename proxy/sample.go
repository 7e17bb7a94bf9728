package proxy

import (
	"context"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// sampleEvery is how often the state is sampled.
const sampleEvery = time.Second

// sample adds the state to a history each second, until ctx ends. Nil: there is none.
func (h *Handler) sample(ctx context.Context, history *timeline.Store) {
	if history == nil {
		return
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		history.AddSample(sampleOf(h.controller.Snapshot(), time.Now()))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sampleOf is the part of a state that the history keeps.
func sampleOf(s admission.Snapshot, now time.Time) timeline.Sample {
	x := timeline.Sample{At: now, Classes: make([]timeline.ClassSample, len(s.Classes)), GPUs: make([]timeline.GPUSample, len(s.GPUs))}
	for i, c := range s.Classes {
		x.Classes[i] = timeline.ClassSample{Name: c.Name, Queued: c.Queued, Running: c.Running, Slots: c.Slots, Oldest: c.OldestWait.Seconds(),
			Paused: c.Paused}
	}
	for i, g := range s.GPUs {
		x.GPUs[i] = timeline.GPUSample{Name: g.Name, Capacity: int64(g.Capacity), Reserve: int64(g.Reserve), Unmanaged: int64(g.Unmanaged),
			Unattributed: int64(g.Unattributed), Available: int64(g.Available), Observed: int64(g.Observed), Owners: []timeline.OwnerSample{}}
		for _, b := range s.Backends {
			for _, a := range b.Accounts {
				if a.GPU == g.Name && a.Booked > 0 {
					x.GPUs[i].Owners = append(x.GPUs[i].Owners, timeline.OwnerSample{Backend: b.Name, Replica: a.Replica, Booked: int64(a.Booked),
						Retained: int64(a.Retained)})
				}
			}
		}
	}
	return x
}
