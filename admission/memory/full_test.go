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

// An unreadable card that a neighbour fills: who comes after the first failure waits.
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

// fails starts one that has to fit, and lets it run out of memory.
func (u *unreadable) fails(res Result) {
	u.t.Helper()
	res.Outcome = OutOfMemory
	u.ends(u.starts(), res)
}

// waitsFor holds that nothing fits for so long, and is looked at again then.
func (u *unreadable) waitsFor(d time.Duration) {
	u.t.Helper()
	u.waits()
	u.now += d - 1
	u.waits()
	if at, ok := u.l.Next(u.now); !ok || at != u.now+1 {
		u.t.Errorf("the next look is at %v, %v, want one at %v", at, ok, u.now+1)
	}
	u.now++
}

// Nothing of ours fits. The next waits, for longer each time, and when the neighbour has
// gone all go on with the first that went well.
func TestACardWithoutRoomForOne(t *testing.T) {
	said := Result{Tried: GiB, Free: GiB / 4, InUse: GiB}
	t.Run("as its answers say", func(t *testing.T) {
		u := newUnreadable(t)
		u.fails(said)
		for _, rest := range []time.Duration{10, 20, 40, 80, 100, 100} {
			u.waitsFor(rest * time.Second)
			u.fails(said)
		}
		u.waitsFor(100 * time.Second)
		first := u.starts()
		u.waits() // one at a time
		u.ends(first, Result{})
		u.ends(u.starts(), Result{})
		u.fails(said)
		u.waitsFor(DefaultTrialAfter)
	})
	t.Run("as answers without figures let believe", func(t *testing.T) {
		u := newUnreadable(t)
		u.fails(Result{})
		u.fails(Result{}) // the first may have wanted too much
		for _, rest := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 100, 100} {
			u.waitsFor(rest * time.Second)
			u.fails(Result{})
		}
	})
	t.Run("although what is tried is long", func(t *testing.T) {
		u := newUnreadable(t)
		u.fails(said)
		u.waitsFor(DefaultTrialAfter)
		u.starts()
		u.waitsFor(DefaultTrialAfter)
		u.starts() // the first has lasted
		u.waits()
	})
}

// One that needs more than the one that has failed does not take its place.
func TestASmallRunIsTriedFirst(t *testing.T) {
	u := newUnreadable(t)
	u.fails(Result{Tried: GiB, Free: GiB / 4, InUse: GiB})
	large := func() bool { _, _, ok := u.l.Fits(&u.l.State, 0, 20*GiB, u.now); return ok }
	u.now = DefaultTrialAfter
	if large() || !u.fits() {
		t.Errorf("as the rest ends 20 GiB are tried: %v; 1 GiB: %v", large(), u.fits())
	}
	if u.now += settleTime; !large() {
		t.Error("where no small one comes a large one is not tried")
	}
	r := &Run{Demand: 20 * GiB, Accounts: []int{0}}
	u.l.Start(u.now, r)
	u.ends(r, Result{Outcome: OutOfMemory, Tried: 20 * GiB, Free: 12 * GiB, InUse: GiB})
	u.waitsFor(2 * DefaultTrialAfter) // whether 1 GiB fits is still not known
	u.ends(u.starts(), Result{})
	u.starts()
	u.starts()
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
	u.now += settleTime // what has ended unseen is still booked: it is a larger one than has failed
	u.starts()
}
