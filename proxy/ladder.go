package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// ladder carries out the controller's orders: unload a backend, wake it, or wait for one
// that died of an unload. The steps of an unload are the engine's own call, twice, and the
// command that stops it. A step counts as successful when the card shows that memory was
// freed.
type ladder struct {
	*Handler
	life  context.Context // ends with the handler
	end   context.CancelFunc
	steps sync.WaitGroup

	mu      sync.Mutex
	stopped map[place]bool // by a command; guarded by mu
}

// place is one replica of a backend.
type place struct {
	backend string
	replica int
}

const (
	// readySoon bounds the wait for a reading to compare with.
	readySoon = 5 * time.Second
	// inspectSoon bounds the wait for backends to say whether they sleep.
	inspectSoon = 2 * time.Second
	// wakeLimit bounds how long a backend may take to load.
	wakeLimit = 15 * time.Minute
	// returnLimit is how long one that died may take to listen, or to be seen
	// on the card, before it is taken to stay away.
	returnLimit = time.Minute
)

func newLadder(h *Handler) *ladder {
	l := &ladder{Handler: h, stopped: make(map[place]bool)}
	l.life, l.end = context.WithCancel(context.Background())
	h.controller.Attend(l.attend)
	return l
}

// close ends the orders under way; their calls are cut.
func (l *ladder) close() {
	l.controller.Attend(nil)
	l.end()
	l.steps.Wait()
}

// attend begins an order. It is called under the controller's lock.
func (l *ladder) attend(o admission.Order) {
	l.steps.Go(func() {
		began := time.Now()
		var b *backend.Server
		if r := l.replica(o); r != nil {
			b = r.Server
			r.link.ordered(1)
			defer r.link.ordered(-1)
		}
		var e admission.Ended
		var freed admission.Bytes
		name := telemetry.SpanUnload
		if o.Kind != admission.Unload {
			name = telemetry.SpanWake
		}
		origin := telemetry.RequestOf(o.Origin)
		told := l.telemetry.Ordered(name, began, o.Backend, o.For, origin)
		ended := func() {
			told.End(time.Now(), telemetry.Done{Asked: o.Bytes, Freed: freed, GPUs: gpusOf(b), Failed: e.Failed, Note: e.Note})
		}
		// The span ends before the controller is told: the request that waits for the order
		// links to the span.
		switch o.Kind {
		case admission.Unload:
			e, freed = l.unload(b, o)
			ended()
			l.controller.Unloaded(o.ID, e)
		case admission.Wake:
			e = l.wake(b, o)
			ended()
			l.controller.Loaded(o.ID, e)
		case admission.Return:
			e = l.awaitReturn(b, o)
			ended()
			l.controller.Loaded(o.ID, e)
		}
		l.orderEnded(name, o, e, freed, time.Since(began), origin)
	})
}

// gpusOf are the GPUs that a server takes memory on.
func gpusOf(b *backend.Server) (gpus []string) {
	if b == nil {
		return nil
	}
	for _, p := range b.Config.Places() {
		gpus = append(gpus, p.GPU)
	}
	return gpus
}

// replica is the server that an order is for; nil: it has been taken out of the
// configuration. Its number may have changed since, its name has not.
func (l *ladder) replica(o admission.Order) *replica {
	l.reloading.RLock()
	defer l.reloading.RUnlock()
	return l.rules.Load().backends[o.Backend].at(o.Name)
}

var errGone = errors.New("the backend was taken out of the configuration")

// unload does one step after another until the card shows that enough memory is free.
func (l *ladder) unload(b *backend.Server, o admission.Order) (admission.Ended, admission.Bytes) {
	if b == nil {
		return admission.Ended{Failed: true, Note: errGone.Error()}, 0
	}
	ready, cancel := context.WithTimeout(l.life, readySoon)
	l.controller.AwaitReady(ready, o.ID)
	cancel()
	var c climb
	if b.HasHook() {
		for range 2 {
			done := c.step(l, b, o, "the call", b.Unload)
			if b.MustWake() && b.Died(l.life, c.err) {
				c.died = true
				c.said = append(c.said, "it died of it, or has not slept")
				break
			}
			if done {
				return c.ended(b.MustWake()), c.freed
			}
		}
	}
	if b.HasStop() && l.life.Err() == nil {
		done := c.step(l, b, o, "the stop command", b.Stop)
		// A call that was cut off may still have done its work.
		if c.stopped = c.err == nil || done && !c.died; c.stopped {
			l.setStopped(place{o.Backend, o.Replica}, true)
		}
		if done && c.stopped {
			return c.ended(true), c.freed
		}
	}
	if c.died && !c.stopped {
		return admission.Ended{Failed: true, Dead: true, MustWake: true, Note: strings.Join(c.said, "; ")}, c.freed
	}
	e := c.ended(c.obeyed && b.MustWake() || c.stopped)
	e.Failed = true
	return e, c.freed
}

// climb is the result of the steps so far.
type climb struct {
	obeyed  bool // a call was answered with 2xx
	stopped bool
	died    bool  // of a call
	err     error // of the last step
	freed   admission.Bytes
	said    []string
}

// step does one step and says whether enough memory is free.
func (c *climb) step(l *ladder, b *backend.Server, o admission.Order, what string, do func(context.Context) error) bool {
	err := do(l.life)
	c.err = err
	c.obeyed = c.obeyed || err == nil
	settle, cancel := context.WithTimeout(l.life, b.Config.Reclaim.Settle)
	defer cancel()
	if err != nil {
		c.said = append(c.said, fmt.Sprintf("%s failed: %v", what, err))
		if errors.Is(err, backend.ErrRefused) {
			c.obeyed = false // the server is gone, so it is not asleep
		}
		// The server may have died, and then its memory is freed too.
		settle, cancel = context.WithTimeout(l.life, min(b.Config.Reclaim.Settle, 2*time.Second))
		defer cancel()
	}
	freed, enough, known := l.controller.AwaitFreed(settle, o.ID)
	c.freed = freed
	switch {
	case !known && err == nil:
		c.said = append(c.said, what+" succeeded, and no card can be read that would show what it freed")
		return true
	case enough:
		// A call without an answer may have succeeded.
		c.obeyed = c.obeyed || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, backend.ErrProtocol)
		c.said = append(c.said, fmt.Sprintf("%v of %v were freed", freed, o.Bytes))
		return true
	case err == nil:
		c.said = append(c.said, fmt.Sprintf("%s succeeded, and %v of %v were freed within %v", what, freed, o.Bytes, b.Config.Reclaim.Settle))
	}
	return false
}

func (c *climb) ended(mustWake bool) admission.Ended {
	return admission.Ended{MustWake: mustWake && (c.obeyed || c.stopped), Note: strings.Join(c.said, "; ")}
}

// wake brings a backend back and returns when it can serve.
func (l *ladder) wake(b *backend.Server, o admission.Order) admission.Ended {
	if b == nil {
		return admission.Ended{Failed: true, Dead: true, Note: errGone.Error()}
	}
	ctx, cancel := context.WithTimeout(l.life, wakeLimit)
	defer cancel()
	at := place{o.Backend, o.Replica}
	l.mu.Lock()
	stopped := l.stopped[at]
	l.mu.Unlock()
	if err := b.Wake(ctx, stopped); err != nil {
		return admission.Ended{Failed: true, Dead: errors.Is(err, backend.ErrRefused) && !stopped, Note: err.Error()}
	}
	l.setStopped(at, false)
	return admission.Ended{Note: "it answers again"}
}

// awaitReturn waits for a backend that died of an unload. Its supervisor may
// start it again, and then it loads.
func (l *ladder) awaitReturn(b *backend.Server, o admission.Order) admission.Ended {
	if b == nil {
		return admission.Ended{Failed: true, Dead: true, Note: errGone.Error()}
	}
	ctx, cancel := context.WithTimeout(l.life, wakeLimit)
	defer cancel()
	began := time.Now()
	err := b.AwaitReturn(ctx, func() bool { return time.Since(began) < returnLimit || l.controller.TakesMemory(o.ID) })
	if err != nil {
		return admission.Ended{Failed: true, Dead: true, Note: "it has not listened since it died of the unload: " + err.Error()}
	}
	return admission.Ended{Note: "it died of the unload, and was started again with its weights"}
}

func (l *ladder) setStopped(at place, stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stopped {
		l.stopped[at] = true
	} else {
		delete(l.stopped, at)
	}
}

// inspect asks backends that can tell whether they hold their weights, and tells the
// controller, so that what was loaded before its start is attributed, and nothing is sent
// to one that sleeps. One that is down and can be started was stopped by an earlier
// process. Backends that old has too were asked before. The controller is told when all
// have answered: a reading of the card is attributed among those that are known to be
// loaded, and must not fall between two of them.
func (l *ladder) inspect(s, old *rules) {
	type answer struct {
		place
		known, loaded, mustWake bool
	}
	var all []*answer
	var asked sync.WaitGroup
	for _, name := range s.backendNames() {
		for i, r := range s.backends[name] {
			if !r.Config.Reclaim.Enabled() || old != nil && slices.Contains(old.backends[name], r) {
				continue
			}
			a := &answer{place: place{name, i}, mustWake: true}
			all = append(all, a)
			asked.Go(func() {
				ctx, cancel := context.WithTimeout(l.life, inspectSoon)
				defer cancel()
				if r.CanStart() && r.Down(ctx) {
					l.setStopped(a.place, true)
					a.known = true
				} else if a.loaded, a.known = r.Loaded(ctx); a.known {
					a.mustWake = r.MustWake()
				}
			})
		}
	}
	asked.Wait()
	for _, a := range all {
		if a.known {
			l.controller.SetLoaded(a.backend, a.replica, a.loaded, a.mustWake)
		}
	}
}

const (
	// sleepSoon bounds the wait for a backend to say whether it sleeps.
	sleepSoon = time.Second
	// sleepPause is between two tries to tell the controller of a backend that sleeps: the
	// controller accepts that only when nothing runs there.
	sleepPause = 5 * time.Millisecond
	// sleepTries bounds them.
	sleepTries = 2000
)

// suspect asks a backend that has answered with an error whether it is asleep, if it would
// have to be woken: another program may have put it to sleep. If it is asleep, nothing more
// is sent to it, and the controller wakes it when its running requests have ended. suspect
// returns when the backend has answered, so that the next request of a client that has read
// the error finds it awake.
func (l *ladder) suspect(b *replica) {
	if !b.MustWake() || !b.Tells() || l.life.Err() != nil || b.asking.Swap(true) {
		return
	}
	if !l.sleeps(b) {
		b.asking.Store(false)
		return
	}
	b.link.hold(true)
	l.steps.Go(func() {
		defer b.asking.Store(false)
		defer b.link.hold(false)
		for try := range sleepTries {
			if l.controller.SetLoaded(b.Name, l.numberOf(b), false, true) {
				l.log.Warn("a backend was put to sleep by another hand: its next request wakes it", "backend", b.Name)
				return
			}
			select {
			case <-l.life.Done():
				return
			case <-time.After(sleepPause):
			}
			if try%200 == 199 && !l.sleeps(b) {
				return
			}
		}
	})
}

// sleeps says that a backend answers that it is asleep.
func (l *ladder) sleeps(b *replica) bool {
	ctx, cancel := context.WithTimeout(l.life, sleepSoon)
	defer cancel()
	loaded, known := b.Loaded(ctx)
	return known && !loaded
}

// numberOf is a backend's number among its replicas; -1: it has been taken out of
// the configuration.
func (l *ladder) numberOf(b *replica) int {
	l.reloading.RLock()
	defer l.reloading.RUnlock()
	return slices.Index(l.rules.Load().backends[b.Name], b)
}
