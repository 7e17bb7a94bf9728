package simulation

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// VirtualClock is a time that stands still while anything is done and jumps to the
// next event when everything waits: ten minutes of traffic take as long as its
// events take to compute, and come out the same each time, however busy the
// machine is.
//
// Its tasks are coroutines: one runs at a time. A task gives way where it ends or
// waits through the clock, so it must wait in no other way for what another task
// does: a bare receive from a channel is a deadlock. Of those that may go on, the
// one that began to wait first does so first. The methods are for tasks alone.
type VirtualClock struct {
	// All fields belong to the task that runs; between tasks, to Run.
	now     time.Time
	starts  []func()
	waiting []*waiter // in the order in which they began to wait
	running *task
}

type task struct {
	goOn    func() (struct{}, bool) // returns when the task gives way
	giveWay func(struct{}) bool     // returns when goOn is called
}

// waiter is a task that waits, or a call that AfterFunc has arranged.
type waiter struct {
	ctx   context.Context // nil: it cannot be cut short
	due   time.Time       // zero: no time ends the wait
	ready func() bool     // asked whenever no task runs; nil: only time ends the wait
	task  *task           // nil: there is none, but a call
	err   error           // how the wait has ended
	call  func()          // of AfterFunc
}

// NewVirtualClock gives a clock that shows the beginning of Unix time.
func NewVirtualClock() *VirtualClock {
	return &VirtualClock{now: time.Unix(0, 0)}
}

// Run runs f as the first task and returns when all tasks have ended. Calls that
// AfterFunc has arranged for later do not happen any more. It returns an error if
// the tasks that are left all wait for each other; they are lost then.
func (v *VirtualClock) Run(f func()) error {
	v.Go(f)
	for {
		if len(v.starts) > 0 {
			start := v.starts[0]
			v.starts = v.starts[1:]
			t := &task{}
			t.goOn, _ = iter.Pull(func(yield func(struct{}) bool) {
				t.giveWay = yield
				start()
			})
			v.resume(t)
			continue
		}
		if w := v.next(); w != nil {
			if w.call != nil {
				w.call()
			} else {
				v.resume(w.task)
			}
			continue
		}
		tasks := 0
		var due time.Time
		for _, w := range v.waiting {
			if w.call == nil {
				tasks++
			}
			if !w.due.IsZero() && (due.IsZero() || w.due.Before(due)) {
				due = w.due
			}
		}
		switch {
		case tasks == 0:
			return nil
		case due.IsZero():
			return fmt.Errorf("simulation: %d tasks wait for each other", tasks)
		}
		v.now = due
	}
}

func (v *VirtualClock) resume(t *task) {
	v.running = t
	t.goOn()
}

// next takes the first of those whose wait is over out of the list. Nil: time must
// pass first.
func (v *VirtualClock) next() *waiter {
	for i, w := range v.waiting {
		switch {
		case w.ctx != nil && w.ctx.Err() != nil:
			w.err = w.ctx.Err()
		case w.ready != nil && w.ready():
		case !w.due.IsZero() && !w.due.After(v.now):
		default:
			continue
		}
		v.waiting = slices.Delete(v.waiting, i, i+1)
		return w
	}
	return nil
}

func (v *VirtualClock) wait(w *waiter) error {
	w.task = v.running
	v.waiting = append(v.waiting, w)
	w.task.giveWay(struct{}{})
	return w.err
}

// Now is the virtual time.
func (v *VirtualClock) Now() time.Time { return v.now }

// Go starts a task. It begins when the caller gives way.
func (v *VirtualClock) Go(f func()) { v.starts = append(v.starts, f) }

// Sleep gives way for d.
func (v *VirtualClock) Sleep(ctx context.Context, d time.Duration) error {
	return v.wait(&waiter{ctx: ctx, due: v.now.Add(max(0, d))})
}

// SleepUnless gives way for d or until done is closed.
func (v *VirtualClock) SleepUnless(ctx context.Context, d time.Duration, done <-chan struct{}) error {
	return v.wait(&waiter{ctx: ctx, due: v.now.Add(max(0, d)), ready: func() bool { return closed(done) }})
}

// Wait gives way until done is closed.
func (v *VirtualClock) Wait(ctx context.Context, done <-chan struct{}) error {
	return v.wait(&waiter{ctx: ctx, ready: func() bool { return closed(done) }})
}

// Take gives way until there is room. A caller that comes later does not overtake.
func (v *VirtualClock) Take(ctx context.Context, places chan<- struct{}) error {
	return v.wait(&waiter{ctx: ctx, ready: func() bool {
		select {
		case places <- struct{}{}:
			return true
		default:
			return false
		}
	}})
}

// AfterFunc lets Run call f, which must not wait.
func (v *VirtualClock) AfterFunc(d time.Duration, f func()) admission.Timer {
	t := &virtualTimer{v, &waiter{call: f}}
	t.Reset(d)
	return t
}

type virtualTimer struct {
	clock *VirtualClock
	call  *waiter
}

// Reset arranges the call anew.
func (t *virtualTimer) Reset(d time.Duration) bool {
	was := t.Stop()
	t.call.due = t.clock.now.Add(max(0, d))
	t.clock.waiting = append(t.clock.waiting, t.call)
	return was
}

// Stop reports whether the call was still to come.
func (t *virtualTimer) Stop() bool {
	i := slices.Index(t.clock.waiting, t.call)
	if i < 0 {
		return false
	}
	t.clock.waiting = slices.Delete(t.clock.waiting, i, i+1)
	return true
}
