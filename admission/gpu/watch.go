package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// source is one way to read one card. Its calls do not overlap.
type source interface {
	// read fills in the figures; processes asks for the processes too, which
	// costs milliseconds and holds the driver's lock, so that kernels wait to
	// be launched.
	read(r *admission.Reading, processes bool) error
	// about describes the card once it has been read.
	about() string
}

// errAbsent says that what a source reads does not exist on this machine, so
// that another one may be the right one.
var errAbsent = errors.New("there is no such card here")

// errLate says that the driver was asked and has not answered yet.
var errLate = errors.New("the driver does not answer")

// pace says when cards are read.
type pace struct {
	every     time.Duration // readings
	closely   time.Duration // while a run is to be measured
	processes time.Duration // the processes, while no work is under way: see source
	after     time.Duration // for so long after work they are read as while it is under way
	soonest   time.Duration // between a reading and one that is asked for
	patience  time.Duration // for one reading
	absent    time.Duration // readings while there is no driver
}

var usual = pace{every: 500 * time.Millisecond, closely: 100 * time.Millisecond, processes: 2500 * time.Millisecond, after: 2 * time.Second,
	soonest: 50 * time.Millisecond, patience: 2 * time.Second, absent: 10 * time.Second}

// steady is how many readings in a row must agree before the log says that a
// card can or cannot be read any more.
const steady = 3

// Sensor reads the cards.
type Sensor struct {
	Cards map[string]Config // by name
	// Owners tell whose the processes on a card are; nil: that stays unknown.
	Owners *Owners
	// Busy says that work is under way on a card, by its name: it runs, loads or
	// unloads. The processes are then read with every reading, and for two seconds
	// more, for what stays after work is learned too. It may be called from several
	// goroutines. Nil: never.
	Busy func(gpu string) bool
	// Measuring says that a run is under way on a card whose demand only readings can
	// tell: the card is then read ten times a second. It may be called as Busy. Nil:
	// never.
	Measuring func(gpu string) bool
	// Now asks for a reading of a card at once, by its name, with its processes.
	// Readings that are asked for come at most 20 times a second. Nil: none are.
	Now <-chan string
	Log *slog.Logger
}

// Watch reads the cards until ctx ends, and tells observe about each reading,
// good or bad, from several goroutines. It calls ready once when every card has
// been asked and has answered or kept its reader waiting for two seconds.
//
// It returns when ctx has ended; a driver call that hangs is left behind.
// Cards whose source is declared are never asked.
func (s Sensor) Watch(ctx context.Context, observe func(admission.Reading), ready func()) {
	var all, first sync.WaitGroup
	asked := make(map[string]chan struct{})
	for name, c := range s.Cards {
		sources := c.sources()
		if len(sources) == 0 {
			continue
		}
		w := &watcher{pace: usual, gpu: name, sources: sources, owners: s.Owners, busy: s.Busy, measuring: s.Measuring,
			now: make(chan struct{}, 1), log: s.Log, observe: observe}
		asked[name] = w.now
		first.Add(1)
		w.first = sync.OnceFunc(first.Done)
		all.Go(func() { w.run(ctx) })
	}
	all.Go(func() {
		first.Wait()
		ready()
	})
	all.Go(func() { s.passOn(ctx, asked) })
	all.Wait()
}

// passOn tells the readers of cards which of them are asked for a reading.
func (s Sensor) passOn(ctx context.Context, asked map[string]chan struct{}) {
	if s.Now == nil || len(asked) == 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-s.Now:
			select {
			case asked[name] <- struct{}{}:
			default: // it is asked already, or is no card that is read
			}
		}
	}
}

// watcher reads one card.
type watcher struct {
	pace
	gpu     string
	sources []source
	owners  *Owners
	busy    func(gpu string) bool // nil: never

	measuring func(gpu string) bool // nil: never
	now       chan struct{}         // asks for a reading at once; nil: nobody does
	log       *slog.Logger
	observe   func(admission.Reading)
	first     func()

	source      source // the one that the card is read from; nil: not found yet
	processesAt time.Time
	busyUntil   time.Time

	said  string // what the log says of the card; empty: nothing yet
	heard string // what the last readings agree on
	times int
}

func (w *watcher) run(ctx context.Context) {
	defer w.first()
	asked := false
	for {
		next, now := w.every, w.now
		if !w.sample(ctx, asked) {
			next, now = w.absent, nil
		} else if w.measuring != nil && w.measuring(w.gpu) {
			next = w.closely
		}
		due := time.After(next)
		select {
		case <-ctx.Done():
			return
		case <-due:
			asked = false
		case <-now:
			asked = true
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(w.soonest, next)):
			}
		}
	}
}

// sample takes one reading, with the processes where that is wanted or due. It
// reports whether there is a card to read.
func (w *watcher) sample(ctx context.Context, wanted bool) (present bool) {
	type outcome struct {
		reading admission.Reading
		source  source
	}
	now := time.Now()
	if wanted || w.busy != nil && w.busy(w.gpu) {
		w.busyUntil = now.Add(w.after)
	}
	processes := !now.After(w.busyUntil) || now.Sub(w.processesAt) >= w.processes
	done := make(chan outcome, 1)
	go func() {
		r, s := w.read(processes)
		done <- outcome{r, s}
	}()
	late := time.NewTimer(w.patience)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-late.C:
			w.tell(admission.Reading{GPU: w.gpu, At: time.Now(), Err: errLate}, nil)
			late.Reset(w.patience)
		case o := <-done:
			if w.source == nil {
				w.source = o.source // and it stays: index 0 of another driver is another card
			}
			if processes && o.reading.Err == nil {
				w.processesAt = time.Now()
			}
			w.tell(o.reading, o.source)
			return !errors.Is(o.reading.Err, errAbsent)
		}
	}
}

// read asks the card's source, or all that it could have.
func (w *watcher) read(processes bool) (admission.Reading, source) {
	candidates := w.sources
	if w.source != nil {
		candidates = []source{w.source}
	}
	var absent []error
	for _, s := range candidates {
		r := admission.Reading{GPU: w.gpu, At: time.Now()} // when it is begun
		r.Err = s.read(&r, processes)
		var problem string
		if r.Processes, problem = w.owners.assign(w.gpu, r.Processes); problem != "" {
			w.log.Warn("processes are not told apart by backend", "gpu", w.gpu, "error", problem)
		}
		if !errors.Is(r.Err, errAbsent) || w.source != nil {
			return r, s
		}
		absent = append(absent, r.Err)
	}
	return admission.Reading{GPU: w.gpu, At: time.Now(), Err: noCard(absent)}, nil
}

// noCard is one error of those of the sources that were asked for a card.
func noCard(absent []error) error {
	if len(absent) == 0 {
		return nil
	}
	all := absent[0]
	for _, err := range absent[1:] {
		all = fmt.Errorf("%w; %s", all, strings.TrimPrefix(err.Error(), errAbsent.Error()+": "))
	}
	return all
}

// tell passes a reading on, and says in the log what has changed for good.
func (w *watcher) tell(r admission.Reading, s source) {
	w.observe(r)
	w.first()
	state := "readable"
	if r.Err != nil {
		state = r.Err.Error()
	}
	if state != w.heard {
		w.heard, w.times = state, 0
	}
	if w.times++; state == w.said || w.said != "" && w.times < steady {
		return
	}
	w.said = state
	switch {
	case r.Err == nil:
		w.log.Info("the card is read", "gpu", w.gpu, "source", r.Source, "card", s.about(), "total", r.Total.String(), "used", r.Used.String())
	case errors.Is(r.Err, errAbsent):
		w.log.Warn("the card is not read: going by the ledger alone", "gpu", w.gpu, "error", state)
	default:
		w.log.Warn("the card cannot be read: the last reading stands", "gpu", w.gpu, "error", state, "lost", r.Lost)
	}
}
