package admission

import (
	"math"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// profile is what is free over time: the predicted ends of what runs, and the
// reservations of blocked heads. It lives for one pass and is laid when it is
// first walked.
type profile struct {
	marks        []mark
	laid         bool
	reservations int
	inTheWay     uint64        // whose reservation barred what was looked at last
	barsAlone    bool          // a reservation or the strict head kept a head from starting alone
	nowUntil     time.Duration // how long the last walk would give now, if nothing but time passes
	scratch      usage
	passes       uint64 // that have begun
	acting       int    // no head from this place on acts
}

// mark is a moment in the profile at which something changes. One with nothing but a
// time is where its passing alone changes what fits.
type mark struct {
	at   time.Duration
	what change
	of   int32    // unloaded: the replica's place in residency; read: the account
	t    *Ticket  // ends, reserved and free: whose
	to   *replica // and where
}

type change uint8

const (
	passes   change = iota
	ends            // a run
	reserved        // a reservation begins
	free            // a reservation ends
	unloaded        // a replica is, by then
	read            // the GPU of an account is
)

func (p *profile) reset() {
	p.marks, p.laid, p.reservations, p.barsAlone, p.acting = p.marks[:0], false, 0, false, math.MaxInt
}

// barredBy notes the head whose reservation or protection bars what is looked at.
func (p *profile) barredBy(head *Ticket) { p.inTheWay = head.ID() }

// lay begins the profile with what runs and what is being unloaded.
func (p *profile) lay(s *Scheduler, now time.Duration) {
	if p.laid {
		return
	}
	p.laid = true
	for _, t := range s.running {
		p.marks = append(p.marks, mark{at: t.end, what: ends, t: t, to: t.replica})
	}
	// What ran until now holds its memory until the next reading, so that a
	// reservation stays where it is.
	for a := range s.box.live.memory.Accounts {
		if at, ok := s.box.ledger.Ended(a); ok {
			p.insert(mark{at: at, what: read, of: int32(a)})
		}
		if at := s.box.ledger.LateBy(a); at > now {
			p.insert(mark{at: at})
		}
	}
	s.box.residency.UnloadingBy(now, func(h *residency.Replica) time.Duration { return s.running.endOn(h, now) },
		func(h *residency.Replica, at time.Duration) {
			p.insert(mark{at: at, what: unloaded, of: int32(slices.Index(s.box.residency.Replicas, h))})
		})
}

// started takes note of a run that has started since the profile was laid.
func (p *profile) started(t *Ticket) {
	if p.laid {
		p.insert(mark{at: t.end, what: ends, t: t, to: t.replica})
	}
}

// reserve writes a reservation into the profile.
func (p *profile) reserve(t *Ticket, to *replica, at time.Duration) {
	p.reservations++
	p.insert(mark{at: at, what: reserved, t: t, to: to})
	p.insert(mark{at: at + t.p95, what: free, t: t, to: to})
}

// insert keeps the marks in order of time; what ends at a moment comes before
// what starts at it.
func (p *profile) insert(m mark) {
	i := len(p.marks)
	for ; i > 0; i-- {
		if x := &p.marks[i-1]; x.at < m.at || x.at == m.at && (m.what == reserved || x.what != reserved) {
			break
		}
	}
	p.marks = append(p.marks, mark{})
	copy(p.marks[i+1:], p.marks[i:])
	p.marks[i] = m
}

// reservesOn says that a reservation on one of the GPUs of a replica begins
// before a moment.
func (p *profile) reservesOn(b *box, r *replica, before time.Duration) bool {
	return slices.ContainsFunc(p.marks, func(m mark) bool {
		return m.what == reserved && m.at < before && slices.ContainsFunc(m.to.accounts, func(a int) bool {
			return slices.ContainsFunc(r.accounts, func(x int) bool { return b.ledger.GPUOf(x) == b.ledger.GPUOf(a) })
		})
	})
}

// keeps says that every reservation stays where it is if a ticket that fits on a
// replica starts there now; else inTheWay says whose would move. The start is
// booked first, and then those are asked for which the reservations are: those within
// its run, and those behind it where its backend holds more once it has run.
func (p *profile) keeps(s *Scheduler, t *Ticket, r *replica, now time.Duration) bool {
	p.lay(s, now)
	u := &p.scratch
	s.box.copyLive(u, now)
	s.box.take(u, t.shape, r, now)
	ended := false
	for i := range p.marks {
		m := &p.marks[i]
		if !ended && m.at >= now+t.p95 {
			ended = true
			if s.box.give(u, t.shape, r, nil); !s.box.holdsMore(u, r) {
				break
			}
		}
		u.memory.Ahead = m.at - now
		if m.what == reserved && s.box.fits(u, m.t.shape, m.to, now) != noBar {
			p.barredBy(m.t)
			return false
		}
		p.pass(s.box, u, m, now)
	}
	return true
}

// pass makes of u what it is after a mark.
func (p *profile) pass(b *box, u *usage, m *mark, now time.Duration) {
	switch m.what {
	case ends:
		b.give(u, m.t.shape, m.to, &m.t.run)
	case reserved:
		b.take(u, m.t.shape, m.to, now)
	case free:
		b.give(u, m.t.shape, m.to, nil)
	case unloaded:
		b.residency.PredictUnload(u.memory, b.residency.Replicas[m.of])
	case read:
		if _, ok := b.ledger.Ended(int(m.of)); ok { // still: nothing has started there since
			b.ledger.Read(u.memory, int(m.of))
		}
	}
}

// walk goes through the profile and gives the first moment from which the
// ticket fits on a replica for as long as it is expected to hold it; forever
// if there is none.
func (p *profile) walk(s *Scheduler, t *Ticket, r *replica, now time.Duration) time.Duration {
	p.lay(s, now)
	b, u := s.box, &p.scratch
	b.copyLive(u, now)
	from := forever
	if b.fits(u, t.shape, r, now) == noBar {
		from = now
	}
	reserves := false
	p.nowUntil = forever
	for i := 0; i < len(p.marks); {
		at := p.marks[i].at
		u.memory.Ahead = at - now
		if from < forever && at >= from+t.p95 {
			// A reservation for after an unload moves along with now: it would be looked
			// at each nanosecond.
			p.nowUntil = max(at-t.p95+1, now+10*minRemaining)
			return from
		}
		for ; i < len(p.marks) && p.marks[i].at == at; i++ {
			p.pass(b, u, &p.marks[i], now)
			reserves = reserves || p.marks[i].what == reserved
		}
		if from < forever && !reserves {
			continue // the end of other work takes nothing from it
		}
		if b.fits(u, t.shape, r, now) != noBar {
			from = forever
		} else if from == forever {
			from = at
		}
	}
	return from
}
