package admission

import "time"

// What work really takes is read off the cards. While a run is the only one on
// its account, each reading says what the account holds: by what the driver
// says of the backend's processes, else, while nothing else has run on the GPU,
// by the whole:
//
//	total = observed − what the others hold − what strangers held before
//
// Its height, less the resident memory, is what the run took. Where no reading
// came while it ran, and its engine keeps memory, what is still there
// afterwards tells it as well. All of this only looks on, with two exceptions,
// for figures that nobody declared: after a run that went alone because its
// demand is not known, what stayed is booked as kept; and what stays after the
// runs of a backend whose resident memory is to be learned is that memory. To
// see what stays, its GPU rests once, for some readings.

// sight is what has been seen of an account, beside what is booked.
type sight struct {
	meter
	// excess is what it holds at rest beyond what is booked for it.
	excess Bytes
	// atRest is what it held when nothing ran and its weights were there.
	atRest      Bytes
	atRestKnown bool
	learns      bool  // atRest becomes its resident memory
	believed    Bytes // what it held in an earlier life, until the first reading
	unknownLoad bool  // it has loaded by itself, and nobody knows how much
}

// meter follows one run on one account.
type meter struct {
	by        *Ticket // whose run; nil: nobody's that can be told apart
	alone     bool    // nothing else has run, loaded or let go on the GPU since it began
	whole     bool    // what was seen is by the whole GPU, and no good where it was not alone
	shown     bool    // some reading showed it
	peak      Bytes   // the most that the account was seen to hold
	strangers Bytes   // what outsiders held as it began
	ended     bool
	rests     int // readings since it ended
}

// taken is what a run was measured to take.
type taken struct {
	ticket         *Ticket
	peak, resident Bytes
}

// takings are the measurements of runs that came to their end, which no earlier
// call told of. The slice is valid until the next call.
func (s *Scheduler) takings() []taken {
	m := s.measured
	s.measured = s.measured[:0]
	return m
}

// longestRest bounds how long a GPU rests for want of readings.
const longestRest = 5 * time.Second

// unknown says that nobody declared what the run that an account follows takes,
// or what stays of it.
func (s *Scheduler) unknown(acc *account) bool { return acc.by.shape.alone || acc.learns }

// resting is when the next of the GPUs that rest has rested; forever: none does.
func (s *Scheduler) resting(now time.Duration) time.Duration {
	until := forever
	for _, d := range s.devices {
		if d.restsUntil > now {
			until = min(until, d.restsUntil)
		}
	}
	return until
}

// noWeights is less than any model holds: a context of the driver.
const noWeights = 64 * MiB

// follow begins to measure a run that has just been booked on r.
func (s *Scheduler) follow(t *Ticket, r *replica) {
	for _, a := range r.accounts {
		acc := s.accounts[a]
		d := s.devices[acc.gpu]
		if d.observed < 0 {
			continue
		}
		s.crowd(acc.gpu, a)
		acc.meter = meter{}
		if s.live.holdings[a].runs != 1 {
			continue
		}
		// Where it is open whose something is, only who is to be learned of is
		// measured: one that says that it is loaded is charged with all of it.
		doubt := min(d.unclaimed, s.unseen(acc.gpu))
		alone := !s.swapping(acc.gpu)
		for i, x := range s.accounts {
			if x.gpu == acc.gpu {
				doubt -= x.excess // is known for its own
				alone = alone && (i == a || s.live.holdings[i].runs == 0)
			}
		}
		alone = alone && (doubt <= exact || acc.learns)
		strangers := min(d.strangers, d.outside)
		if acc.unknownLoad {
			strangers, acc.unknownLoad = max(0, strangers-d.unclaimed), false
		}
		acc.meter = meter{by: t, alone: alone, strangers: strangers}
	}
}

// crowd ends the measuring of runs on a GPU that went by the whole of it: but
// for one account, they are not alone there any more.
func (s *Scheduler) crowd(g, but int) {
	for i, x := range s.accounts {
		if x.gpu != g || i == but {
			continue
		}
		if x.alone = false; x.whole && !x.ended {
			x.meter = meter{}
		}
	}
}

// unfollow takes the end of a run, after it was taken off the books.
func (s *Scheduler) unfollow(now time.Duration, t *Ticket) {
	for _, a := range t.replica.accounts {
		acc := s.accounts[a]
		if acc.by != t {
			continue
		}
		acc.ended = true
		if acc.shown && !acc.backend.cfg.ReturnsMemory {
			s.stays(a, acc.peak)
		} else if acc.alone && s.unknown(acc) && !acc.atRestKnown {
			s.devices[acc.gpu].restsUntil = now + longestRest
		}
	}
	s.teach(t)
}

// teach tells what a run took once it has ended and was seen on all its GPUs.
func (s *Scheduler) teach(t *Ticket) {
	if !t.teaches || len(t.replica.accounts) == 0 {
		return
	}
	var most taken
	for i, a := range t.replica.accounts {
		acc := s.accounts[a]
		if acc.by != t || !acc.shown {
			return
		}
		if peak := max(0, acc.peak-acc.resident); i == 0 || peak > most.peak {
			most = taken{t, peak, acc.resident}
		}
	}
	t.teaches = false
	s.measured = append(s.measured, most)
}

// look takes a good reading of a GPU into what is measured there. It reports
// whether demands are to be looked at again.
func (s *Scheduler) look(g int) (changed bool) {
	d := s.devices[g]
	pending := false
	for i, acc := range s.accounts {
		if acc.gpu != g || acc.by == nil {
			continue
		}
		total, known := Bytes(0), false
		if d.last.Processes != nil {
			total, known = d.ownedBy(acc.backend.replicas[acc.replica])
		}
		if !known && acc.alone {
			total = d.observed - s.others(g, i) - acc.strangers
			known = total >= 0
			acc.alone = known // else an outsider has gone meanwhile
			acc.whole = true
		}
		if !known {
			continue
		}
		if !acc.ended {
			acc.shown, acc.peak = true, max(acc.peak, total)
			continue
		}
		pending = true
		changed = s.rests(i, total) || changed
	}
	s.lookOutside(g, pending)
	return changed
}

// rests takes a reading of an account whose run has ended.
func (s *Scheduler) rests(i int, total Bytes) (changed bool) {
	acc := s.accounts[i]
	if !acc.shown && !acc.backend.cfg.ReturnsMemory {
		acc.shown, acc.peak = true, total
		s.stays(i, total)
		s.teach(acc.by)
	}
	// What was returned may show late.
	if acc.rests++; acc.rests < calmReadings {
		return false
	}
	if d := s.devices[acc.gpu]; d.restsUntil > 0 {
		d.restsUntil, changed = 0, true
	}
	learned := acc.learns && acc.backend.cfg.ReturnsMemory && total >= noWeights
	acc.atRest, acc.atRestKnown = total, true
	if learned && differ(acc.resident, total) {
		s.setResident(i, total)
		changed = true
	}
	s.stays(i, total)
	acc.meter = meter{}
	return changed
}

// differ says that two amounts are further apart than figures flap.
func differ(a, b Bytes) bool { return max(a-b, b-a) > max(a, b)/50 }

// stays takes note of what an account was measured to hold with nothing
// running. It is booked only where nobody declared a figure to go by.
func (s *Scheduler) stays(i int, total Bytes) {
	acc, h := s.accounts[i], &s.live.holdings[i]
	acc.excess = max(0, total-h.kept)
	if !s.unknown(acc) {
		return
	}
	d := s.devices[acc.gpu]
	h.kept += acc.excess
	s.live.booked[acc.gpu] += acc.excess
	d.outside = max(0, d.outside-acc.excess) // it was taken for an outsider's
	d.unclaimed = max(0, d.unclaimed-acc.excess)
	acc.excess = 0
}

// others is what all accounts of a GPU but one hold.
func (s *Scheduler) others(g, but int) Bytes {
	var sum Bytes
	for i, a := range s.accounts {
		if a.gpu == g && i != but {
			sum += s.live.holdings[i].footprint(a.resident) + a.excess
		}
	}
	return sum
}

// lookOutside follows what is held on a GPU beyond the accounts and what they
// were measured to hold: down at once and up slowly, for an engine's memory
// may come back late. pending says that some of it may be an account's.
func (s *Scheduler) lookOutside(g int, pending bool) {
	d := s.devices[g]
	if pending || !s.idle(&s.live, g) {
		d.strangerReadings = 0
		return
	}
	beyond := max(0, d.observed-s.live.booked[g])
	for _, a := range s.accounts {
		if a.gpu == g {
			// What is not there any more was let go.
			a.excess = min(a.excess, beyond)
			beyond -= a.excess
		}
	}
	if d.strangerReadings == 0 || beyond < d.strangersLeast {
		d.strangersLeast = beyond
	}
	d.strangerReadings++
	if beyond < d.strangers || d.strangerReadings >= calmReadings || !d.strangersKnown {
		d.strangers, d.strangersKnown = d.strangersLeast, true
		d.strangerReadings = 0
	}
}

// SetResident says what a replica holds on a GPU while it is loaded and idle,
// where its configuration leaves that to be learned. It reports whether it
// does.
func (s *Scheduler) SetResident(now time.Duration, name string, replica int, gpu string, n Bytes) bool {
	i, ok := s.accountOf(name, replica, gpu)
	if !ok || !s.accounts[i].learns || n < 0 {
		return false
	}
	s.setResident(i, n)
	s.pass(now)
	return true
}

func (s *Scheduler) setResident(i int, n Bytes) {
	acc := s.accounts[i]
	h := s.live.holdings[i]
	before := h.footprint(acc.resident)
	acc.resident = n
	s.live.booked[acc.gpu] += h.footprint(n) - before
	s.refit(acc.backend)
}

// accountOf finds a replica's account on a GPU.
func (s *Scheduler) accountOf(name string, replica int, gpu string) (int, bool) {
	b := s.backendIndex[name]
	if b == nil || replica < 0 || replica >= len(b.replicas) {
		return 0, false
	}
	for _, i := range b.replicas[replica].accounts {
		if s.devices[s.accounts[i].gpu].cfg.Name == gpu {
			return i, true
		}
	}
	return 0, false
}

// within is a request's demand without what learning added beyond the most that
// any replica could give it: an overestimate must not turn work away for good.
func (s *Scheduler) within(r *Request) Bytes {
	b := s.backendIndex[r.Backend]
	if b == nil {
		return r.VRAM
	}
	return max(r.VRAM-r.Raised, min(r.VRAM, s.mostFor(b)))
}

// mostFor is the largest demand that some replica of a backend could ever take.
func (s *Scheduler) mostFor(b *backend) Bytes {
	var best Bytes
	for _, r := range b.replicas {
		most := Bytes(1) << 62
		for _, a := range r.accounts {
			acc := s.accounts[a]
			if c := s.devices[acc.gpu].ceiling(); c > 0 {
				most = min(most, max(0, c-acc.resident))
			}
		}
		best = max(best, most)
	}
	return best
}

// refit cuts the demands that wait for a backend down to what it can take, now
// that its resident memory has turned out to be more: they were measured with
// that memory in them.
func (s *Scheduler) refit(b *backend) {
	most := s.mostFor(b)
	for _, sh := range s.active {
		if sh.backend != b || sh.vram <= most {
			continue
		}
		was := *sh
		for _, t := range s.running {
			if t.shape == sh {
				t.shape = &shape{class: sh.class, backend: b, vram: sh.vram, alone: sh.alone, reserved: forever}
			}
		}
		delete(s.shapes, shapeKey{was.class.index, b.index, was.vram, was.alone})
		sh.vram = most
		s.shapes[shapeKey{sh.class.index, b.index, sh.vram, sh.alone}] = sh
	}
}

// Recall tells what a replica held on a GPU in an earlier life of the desk. It
// is booked at the GPU's first reading as far as that shows it; without a
// reading it is forgotten.
//
// It reports whether there is such a replica on that GPU.
func (s *Scheduler) Recall(name string, replica int, gpu string, kept Bytes) bool {
	i, ok := s.accountOf(name, replica, gpu)
	if ok && s.devices[s.accounts[i].gpu].observed < 0 && kept > 0 {
		s.accounts[i].believed = kept
	}
	return ok
}

// enoughFound is the share of what is recalled that the first reading must show:
// what was booked is seldom used to the last byte.
const enoughFound = 0.9

// recognise books what was recalled, at a GPU's first reading. Where less is in
// use, some engine has died, and which is not known: then nothing is booked,
// and whoever runs first is charged with what it explains.
func (s *Scheduler) recognise(g int) {
	d := s.devices[g]
	mine := func(i int, a *account) bool {
		return a.gpu == g && a.believed > 0 && !a.seen && s.live.holdings[i] == holding{}
	}
	var sum Bytes
	for i, a := range s.accounts {
		if mine(i, a) {
			sum += a.believed
		}
	}
	found := max(0, d.observed-s.live.booked[g])
	share := min(1, float64(found)/float64(max(1, sum)))
	for i, a := range s.accounts {
		if mine(i, a) && share >= enoughFound {
			kept := Bytes(float64(a.believed) * share)
			s.live.holdings[i].kept = kept
			s.live.booked[g] += kept
			a.seen = true
		}
	}
	for _, a := range s.accounts {
		if a.gpu == g {
			a.believed = 0
		}
	}
}

// inherit goes on with what was seen of an account under an older
// configuration.
func (a *account) inherit(old *account) {
	learns := a.learns
	a.seen, a.sight = old.seen, old.sight
	a.sure, a.sureThen, a.disputed, a.most = old.sure, old.sureThen, old.disputed, old.most
	a.learns = learns
	if a.learns {
		a.resident = old.resident
	}
	if a.by != nil && a.by.state != stateRunning {
		a.meter = meter{} // its ticket knows the old books
	}
}
