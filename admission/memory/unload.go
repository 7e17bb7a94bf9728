package memory

import "time"

// What an unload frees is believed when the card shows it.

// unload is what has been seen of one that is under way.
type unload struct {
	held     Bytes // as it began; it is not given to others before the end
	read     Bytes // in use, as it began; -1: not read since work last moved memory
	returned Bytes // what others had returned by then
	freed    Bytes // the most that was seen to come back
}

// enoughFreed is the share of what a backend held that must be seen to come
// back: allocators round, and the driver's context stays.
const enoughFreed = 0.9

// Unloading says that a backend is being told to unload.
func (l *Ledger) Unloading(now time.Duration, a int) {
	acc, h := l.accounts[a], &l.Accounts[a]
	d := l.devices[acc.gpu]
	held := max(h.High, h.Peak) // what has run there may not have been read
	if acc.weights > 0 {
		held = max(h.Low, min(held, acc.weights))
	}
	acc.moving, acc.loaded, acc.proven, acc.grown, acc.bare = true, unknown, false, false, false
	acc.unload = unload{held: held, read: -1, returned: d.returned}
	if d.goodAt >= d.movedAt {
		acc.unload.read = d.read
	}
	l.raisePeak(a)
	l.crowd(acc.gpu, a)
	l.touch(now, a)
}

// UnloadReady says that what an unload frees would be seen: the card was read
// after work last moved memory there. It is true where no card is read.
func (l *Ledger) UnloadReady(a int) bool {
	acc := l.accounts[a]
	d := l.devices[acc.gpu]
	return acc.unload.read >= 0 || acc.figure >= 0 || d.goodAt == never || d.last.Err != nil
}

// Freed says how much of what an unload is to free has been seen to come back,
// and whether that is enough. known is false where no card is read.
func (l *Ledger) Freed(a int) (freed Bytes, enough, known bool) {
	acc := l.accounts[a]
	if d := l.devices[acc.gpu]; d.goodAt == never || d.last.Err != nil {
		return 0, false, false
	}
	u := &acc.unload
	return u.freed, float64(u.freed) >= enoughFreed*float64(u.held), true
}

// Unloaded ends Unloading. Where no card is read the word of the backend counts:
// failed says that it did not do it.
func (l *Ledger) Unloaded(now time.Duration, a int, failed bool) {
	acc, h := l.accounts[a], &l.Accounts[a]
	acc.moving = false
	l.touch(now, a)
	acc.endedAt, acc.readBy = now, now+settleTime
	h.Peak = l.need(&l.State, a)
	freed, enough, known := l.Freed(a)
	switch {
	case !known && failed:
	case !known || enough && acc.unload.held > 0:
		acc.loaded = absent
		if !known {
			freed = h.High
		}
		h.Low, h.High, h.Peak = 0, max(0, h.High-freed), 0
		if acc.figure >= 0 {
			h.Low, h.High = acc.figure, acc.figure
		}
	default:
		acc.loaded, acc.unloaded = unknown, true
		if acc.figure < 0 {
			h.Low = 0
		}
	}
}

// freed takes a reading into what unloads have freed. What the total shows is a
// lower bound: what others returned is taken off, what others took meanwhile
// hides a part.
func (p *pass) freed() {
	for _, a := range p.d.accounts {
		acc := p.l.accounts[a]
		u := &acc.unload
		switch {
		case !acc.moving || p.l.Accounts[a].Loading > 0:
		case acc.figure >= 0:
			u.freed = max(u.freed, u.held-acc.figure)
		case u.read < 0:
			u.read, u.returned = p.d.read, p.d.returned
		default:
			fall := u.read - p.d.read - (p.d.returned - u.returned)
			for _, b := range p.d.accounts {
				if x := p.l.accounts[b]; b != a && x.moving && p.l.Accounts[b].Loading == 0 {
					fall -= x.unload.held
				}
			}
			// What is left for it counts as well: the others hold the rest.
			u.freed = max(u.freed, min(u.held, fall), u.held-p.l.own(&p.l.State, a, false))
		}
	}
}
