package memory

import "time"

// Loading says that a backend is being loaded and will hold so much.
func (l *Ledger) Loading(now time.Duration, a int, n Bytes) {
	h := &l.Accounts[a]
	h.Loading = n
	l.raisePeak(a)
	h.High = max(h.High, h.Peak)
	l.accounts[a].moving = true
	l.crowd(l.accounts[a].gpu, a)
	l.touch(now, a)
}

// Loaded ends Loading. A load that failed leaves the account in doubt.
func (l *Ledger) Loaded(now time.Duration, a int, ok bool) {
	acc, h := l.accounts[a], &l.Accounts[a]
	acc.moving, acc.loaded = false, unknown
	if ok {
		acc.gone, acc.loaded, acc.proven, acc.bare = false, loaded, true, true
	}
	h.Loading = 0
	l.touch(now, a)
	acc.endedAt, acc.readBy = now, now+settleTime
	if l.sight(acc.gpu, now) == blind && ok {
		h.Low = max(h.Low, min(acc.weights, h.High))
		h.Peak = l.need(&l.State, a)
	}
}

// Gone says that the process of a backend is not there: its port refuses. Its
// memory is free when the driver shows it, and at once on a card that cannot be read.
func (l *Ledger) Gone(now time.Duration, a int) {
	acc, h := l.accounts[a], &l.Accounts[a]
	if acc.gone && h.High == 0 && h.Peak == 0 {
		return
	}
	acc.grown, acc.bare, acc.chains = false, false, chain{}
	acc.gone, acc.loaded, acc.proven = true, absent, false
	if acc.figure < 0 {
		if l.sight(acc.gpu, now) != blind {
			l.GPUs[acc.gpu].XHigh += h.High // until a reading shows that it fell
		}
		h.Low, h.High = 0, 0
	}
	if h.Runs == 0 && !acc.moving {
		h.Peak = 0 // it takes no more
	}
	l.moved(now, a)
}

// Back says that a backend that was gone is there again. It may load its
// weights. It reports whether the backend was gone.
func (l *Ledger) Back(now time.Duration, a int) bool {
	acc, h := l.accounts[a], &l.Accounts[a]
	if !acc.gone {
		return false
	}
	acc.gone, acc.loaded, acc.startedBy = false, unknown, now+startTime
	if acc.figure < 0 {
		h.Low = 0
		h.High = max(h.High, acc.weights)
	}
	l.moved(now, a)
	return true
}

// SetLoaded takes a backend's own word, given on its start or ours, on whether
// it holds its weights. It is taken where nothing better is known.
func (l *Ledger) SetLoaded(now time.Duration, a int, is bool) {
	acc, h := l.accounts[a], &l.Accounts[a]
	if h.Runs > 0 || acc.moving {
		return
	}
	acc.loaded, acc.proven = absent, false
	if is {
		acc.loaded, acc.proven = loaded, true
	}
	switch sight := l.sight(acc.gpu, now); {
	case is && sight == blind:
		h.High = max(h.High, acc.weights)
	case !is && acc.figure < 0:
		h.Low = 0
		if sight == blind {
			h.High = 0
		}
	}
}

// Grows says that an account without work is seen to take memory: more is in use
// than the others may hold.
func (l *Ledger) Grows(a int) bool {
	acc := l.accounts[a]
	d := l.devices[acc.gpu]
	if acc.figure >= 0 {
		return acc.figure > calmWithin
	}
	others := l.GPUs[acc.gpu].XHigh
	for _, i := range d.accounts {
		if i != a {
			others += l.Accounts[i].High
		}
	}
	return d.goodAt != never && d.read > others+calmWithin
}
