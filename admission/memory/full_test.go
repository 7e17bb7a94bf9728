package memory

import (
	"errors"
	"testing"
	"time"
)

// unreadable is a GPU of 48 GiB that cannot be read, with a backend whose runs take
// 1 GiB each.
type unreadable struct {
	t   *testing.T
	l   *Ledger
	now time.Duration
}

func newUnreadable(t *testing.T) *unreadable {
	u := &unreadable{t: t, l: new(Ledger)}
	g := u.l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB})
	u.l.AddAccount(Place{Backend: "vqa", GPU: g, Weights: GiB, Returns: true})
	return u
}

func (u *unreadable) fits() bool {
	_, _, ok := u.l.Fits(&u.l.State, 0, GiB, u.now)
	return ok
}

// starts starts one more, which has to fit.
func (u *unreadable) starts() *Run {
	u.t.Helper()
	if !u.fits() {
		u.t.Fatalf("at %v another does not fit beside %d", u.now, u.l.Accounts[0].Runs)
	}
	r := &Run{Demand: GiB, Accounts: []int{0}}
	u.l.Start(u.now, r)
	return r
}

func (u *unreadable) waits() {
	u.t.Helper()
	if u.fits() {
		u.t.Errorf("at %v another fits beside %d", u.now, u.l.Accounts[0].Runs)
	}
}

func (u *unreadable) ends(r *Run, res Result) { u.l.End(u.now, r, res) }

// An unreadable card that a neighbour fills: a request that comes after the first failure waits.
func TestAFullCardThatCannotBeRead(t *testing.T) {
	u := newUnreadable(t)
	a, b := u.starts(), u.starts()
	u.ends(u.starts(), Result{Outcome: OutOfMemory})
	u.waits() // beside two that run one more did not fit
	u.ends(a, Result{})
	a = u.starts()
	u.waits()

	u.now = DefaultTrialAfter
	c := u.starts()
	u.waits() // one at a time
	u.ends(c, Result{Outcome: OutOfMemory})
	u.now += 2*DefaultTrialAfter - 1
	u.waits()
	if at, ok := u.l.Next(u.now); !ok || at != u.now+1 {
		t.Errorf("the next look is at %v, %v, want one at %v", at, ok, u.now+1)
	}
	u.now++
	c = u.starts()
	u.ends(c, Result{})
	// It went well: three may run, and the next beyond them is tried at once.
	c = u.starts()
	d := u.starts()
	u.waits()
	for _, r := range []*Run{a, b, c, d} {
		u.ends(r, Result{})
	}
}

// With nothing beside it one run may always start.
func TestAFullCardIsNoStandstill(t *testing.T) {
	u := newUnreadable(t)
	for range 4 {
		u.ends(u.starts(), Result{Outcome: OutOfMemory})
	}
	a := u.starts()
	u.waits()
	u.ends(a, Result{})
	u.ends(u.starts(), Result{})
}

// What an answer says was free may be booked, and one that wanted more than its figure
// says nothing of the card.
func TestWhatAFullCardSays(t *testing.T) {
	u := newUnreadable(t)
	u.starts()
	u.ends(u.starts(), Result{Outcome: OutOfMemory, Tried: 60 * GiB, Free: 40 * GiB})
	u.starts()
	u.ends(u.starts(), Result{Outcome: OutOfMemory, Tried: GiB, Free: GiB / 2})
	u.waits()
	if _, _, ok := u.l.Fits(&u.l.State, 0, GiB/2, u.now); !ok {
		t.Error("what was free is kept from a smaller one")
	}
}

// The run beyond what may be booked ends while the card is lost.
func TestATryThatEndsUnseenIsOver(t *testing.T) {
	u := newUnreadable(t)
	u.starts()
	u.ends(u.starts(), Result{Outcome: OutOfMemory})
	u.now = DefaultTrialAfter
	tries := u.starts()
	u.waits() // one at a time
	u.l.Observe(u.now, u.now, Reading{GPU: "g0", Err: errors.New("fell off the bus"), Lost: true})
	u.ends(tries, Result{})
	u.l.Observe(u.now, u.now, Reading{GPU: "g0", Err: errors.New("no permission")})
	u.starts()
}
