package admission

// What the totals of a card do not tell is whose the memory is. Each account
// has bounds: booked is what it holds at the most, sure what it holds at the
// least, as far as either is known; a dispute is where the books as a whole say
// more than the card, and not whose figure is wrong. All here errs on the side
// of holding work back, until a reading, a run or an order settles it.

// assure notes what a replica holds for sure at the end of a run. Where it has
// worked, its weights are there, and what the request took is where its
// allocator keeps it. Where it has failed, it may have died.
func (s *Scheduler) assure(t *Ticket) {
	for _, a := range t.replica.accounts {
		acc, kept := s.accounts[a], s.live.holdings[a].kept
		if t.failed || !s.trusted(acc) {
			acc.sure = 0
			continue
		}
		stays := acc.resident
		if !acc.backend.cfg.ReturnsMemory {
			stays += t.shape.vram
		}
		acc.sure = max(acc.sure, min(kept, stays))
	}
}

// trusted says that a replica does not let go unasked: one that was told to and
// was not seen to may do so at any time.
func (s *Scheduler) trusted(a *account) bool {
	return a.backend.replicas[a.replica].failures == 0
}

// claim lets a start or a wake on r, which needs that much on its i-th GPU, have
// memory that may be this very engine's: loaded before the desk began, or again
// behind its back. What was there is charged to it as far as that explains it.
// As it may be somebody else's after all, nothing that needs room starts beside
// it, until a reading after its end has told. It returns how much was charged.
func (s *Scheduler) claim(r *replica, i int, need Bytes, t *Ticket, o *order) Bytes {
	acc := s.accounts[r.accounts[i]]
	d := s.devices[acc.gpu]
	if acc.seen || d.unclaimed == 0 || need <= s.room(&s.live, acc.gpu) {
		acc.seen = acc.seen || d.unclaimed == 0
		return 0
	}
	mine := min(need, s.claimable(&s.live, r.accounts[i]))
	d.unclaimed -= mine
	d.outside -= mine
	d.claimed, d.claimedBy = t, o
	acc.seen = true
	return mine
}

// claimable is what in use on an account's GPU may be its own, and not in its
// books.
func (s *Scheduler) claimable(u *usage, a int) Bytes {
	acc := s.accounts[a]
	may := s.devices[acc.gpu].unclaimed
	switch {
	case acc.seen:
		return 0
	case may == 0 || !acc.disputed:
		return may
	}
	// What the others may have of it is not for this one.
	for i, other := range s.accounts {
		if other != acc && other.gpu == acc.gpu && other.disputed {
			may -= max(0, other.most-u.holdings[i].kept)
		}
	}
	return max(0, min(may, acc.most-u.holdings[a].kept))
}

func (d *device) disputed() bool { return d.claimed != nil || d.claimedBy != nil }

// atRest compares the books of a GPU on which nothing runs with what is in use
// there. Where no dispute is open, booked is what each account holds at the
// most, and if the sum is what the card shows, each holds exactly that.
func (s *Scheduler) atRest(g int) {
	if excess := s.devices[g].observed - s.live.booked[g]; excess < -exact || excess > exact {
		return
	}
	for i, a := range s.accounts {
		if a.gpu == g && a.disputed && s.live.holdings[i].kept < a.most {
			return
		}
	}
	for i, a := range s.accounts {
		if a.gpu == g {
			a.disputed = false
			if s.trusted(a) {
				a.sure = s.live.holdings[i].kept
			}
		}
	}
}

// exact is how far two readings of the same memory may differ.
const exact = 16 * MiB

// forget lowers what idle accounts of a GPU are believed to keep: at rest the
// card showed n bytes less in use than is booked, so engines let go, have died
// or took less than declared. Where just one held that much, it was that one.
// Else it is not known which, and each is booked with what is left of the card
// beside what the others hold for sure.
func (s *Scheduler) forget(g int, n Bytes) {
	d := s.devices[g]
	inUse := s.live.booked[g] - n
	var sure Bytes
	known, gone, matches := true, 0, 0
	for i, a := range s.accounts {
		if kept := s.live.holdings[i].kept; a.gpu == g && kept > 0 {
			known = known && a.sure == kept
			if kept >= n-exact && kept <= n+exact {
				gone, matches = i, matches+1
			}
		}
	}
	if known && matches == 1 {
		s.keep(gone, 0)
		return
	}
	// What has gone since the last look may be anybody's.
	lost := max(0, d.rested-inUse)
	if known {
		lost = n
	}
	d.rested = inUse
	for _, a := range s.accounts {
		if a.gpu == g {
			a.sure = max(0, a.sure-lost)
			sure += a.sure
		}
	}
	for i, a := range s.accounts {
		if a.gpu == g {
			s.keep(i, min(s.live.holdings[i].kept, max(0, inUse-(sure-a.sure))))
		}
	}
}

// overBooked says that on a GPU at rest more is in the books than in use.
func (s *Scheduler) overBooked(g int) bool {
	d := s.devices[g]
	return d.observed >= 0 && d.last.Err == nil && s.idle(&s.live, g) && s.live.booked[g]+d.outside > d.observed+exact
}

// unravel ends a dispute over who holds what. On a GPU at rest more was booked
// than is in use, it could not be told for whom, and that bars a head. Each is
// booked with what it holds for sure; the rest is in use by nobody in
// particular, and whoever it belongs to finds it again with its next request.
func (s *Scheduler) unravel(g int) bool {
	d := s.devices[g]
	if d.moved || d.disputed() || s.swapping(g) || !s.overBooked(g) {
		return false
	}
	before := s.room(&s.live, g)
	changed := false
	for i, a := range s.accounts {
		if a.gpu == g {
			kept := s.live.holdings[i].kept
			if !a.disputed || a.most < kept {
				a.most = kept
			}
			a.disputed = true
			s.keep(i, min(a.sure, d.observed))
			a.seen = a.most == a.sure
			changed = changed || s.live.holdings[i].kept != kept
		}
	}
	d.outside = max(0, d.observed-s.live.booked[g])
	d.unclaimed = d.outside
	d.calm = 0
	return changed || before != s.room(&s.live, g)
}

// surely is what is held on a GPU by our engines for sure.
func (s *Scheduler) surely(g int) Bytes {
	var sum Bytes
	for _, a := range s.accounts {
		if a.gpu == g {
			sum += a.sure
		}
	}
	return sum
}

// mostLeft is what an account can hold at the most by the last reading: what
// the others did not hold for sure.
func (s *Scheduler) mostLeft(of int) Bytes {
	left := s.devices[s.accounts[of].gpu].observed
	for i, a := range s.accounts {
		if i != of && a.gpu == s.accounts[of].gpu {
			left -= a.sureThen
		}
	}
	return max(0, left)
}

// unseen is how much of a GPU the engines may take when they load that have
// not run a request since we started, or since they let go.
func (s *Scheduler) unseen(g int) Bytes {
	var sum Bytes
	for _, a := range s.accounts {
		if a.gpu == g && !a.seen {
			sum += a.resident
		}
	}
	return sum
}
