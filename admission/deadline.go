package admission

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A deadline is unmeetable where even the fastest run seen, behind work that is
// certain, would be too late. Certain is work that runs: a request that waits may leave. It lasts
// no less than the fastest run of its demand. So no estimate refuses a request. It is told
// as soon as that is so: as it arrives, or when others have started before it.

// certainWait is for how long a request surely waits as it arrives: while all slots of
// its class, or of each replica of its backend, are taken, for the first of those runs
// to end. Zero: one is free, or nothing is known of a run.
func (x *runs) certainWait(now time.Duration, live *usage, c *class, b *backend) time.Duration {
	wait := time.Duration(0)
	if live.classes[c.index] >= c.cfg.Slots {
		wait = x.firstEnd(now, func(t *Ticket) bool { return t.shape.class == c })
	}
	if b.cfg.Slots == 0 {
		return wait
	}
	for _, r := range b.replicas {
		if live.replicas[r.index] < b.cfg.Slots {
			return wait
		}
	}
	return max(wait, x.firstEnd(now, func(t *Ticket) bool { return t.shape.backend == b }))
}

// firstEnd is for how long all running work lasts at the least that is among those.
func (x *runs) firstEnd(now time.Duration, among func(*Ticket) bool) (first time.Duration) {
	any := false
	for _, t := range *x {
		if !among(t) {
			continue
		}
		left := time.Duration(0)
		if t.history != nil {
			left = max(0, t.history.Fastest(t.own())-(now-t.run.Started))
		}
		if !any || left < first {
			any, first = true, left
		}
	}
	return first
}

// late takes out the tickets whose deadlines cannot be met any more, since others have
// started before them: they would have to start before a slot is free.
func (x *runs) late(s *Scheduler, now time.Duration) {
	until := now
	for _, sh := range s.shapes.active {
		if sh.busy = 0; sh.class.dated > 0 {
			sh.busy = now + x.certainWait(now, &s.box.live, sh.class, sh.backend)
			until = max(until, sh.busy)
		}
	}
	if until == now {
		return
	}
	all := s.queue.ExpireBefore(until, nil)
	slices.SortFunc(all, func(a, b *Ticket) int { return cmp.Compare(a.ID(), b.ID()) })
	for _, t := range all {
		if t.deadline && t.wait.Expires < t.shape.busy {
			expired(s, now, t)
		}
	}
}

// unmeetable is the refusal at the door of a request that has to start by then, at the
// latest, to meet its deadline; nil: it may.
func (x *runs) unmeetable(now, last time.Duration, live *usage, c *class, b *backend, q *Request) *Rejection {
	wait := time.Duration(0)
	if last >= now {
		wait = x.certainWait(now, live, c, b)
	}
	if now+wait <= last {
		return nil
	}
	r := &Rejection{Code: CodeDeadlineUnmeetable, Class: c.cfg.Name, Position: -1, RetryAfter: max(minRemaining, q.Fastest, wait),
		Detail: fmt.Sprintf("the fastest run seen took %v, longer than the deadline allows", q.Fastest.Round(time.Millisecond))}
	if wait > 0 {
		r.Detail += fmt.Sprintf(": all slots are taken for %v at the least", wait.Round(time.Millisecond))
	}
	return r
}
