package gpu

import (
	"context"
	"errors"
	"log/slog"
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
	processes time.Duration // who holds the memory: more rarely, see source
	patience  time.Duration // for one reading
	absent    time.Duration // readings while there is no driver
}

var usual = pace{every: 500 * time.Millisecond, processes: 2500 * time.Millisecond, patience: 2 * time.Second, absent: 10 * time.Second}

// steady is how many readings in a row must agree before the log says that a
// card can or cannot be read any more.
const steady = 3

// Sensor reads the cards.
type Sensor struct {
	Cards map[string]Config // by name
	// Owners tell whose the processes on a card are; nil: that stays unknown.
	Owners *Owners
	Log    *slog.Logger
}

// Watch reads the cards until ctx ends, and tells observe about each reading,
// good or bad, from several goroutines. It calls ready once when every card has
// been asked and has answered or kept its reader waiting for two seconds.
//
// It returns when ctx has ended; a driver call that hangs is left behind.
// Cards whose source is declared are never asked.
func (s Sensor) Watch(ctx context.Context, observe func(admission.Reading), ready func()) {
	var all, first sync.WaitGroup
	for name, c := range s.Cards {
		sources := c.sources()
		if len(sources) == 0 {
			continue
		}
		w := &watcher{pace: usual, gpu: name, sources: sources, owners: s.Owners, log: s.Log, observe: observe}
		first.Add(1)
		w.first = sync.OnceFunc(first.Done)
		all.Go(func() { w.run(ctx) })
	}
	all.Go(func() {
		first.Wait()
		ready()
	})
	all.Wait()
}

// watcher reads one card.
type watcher struct {
	pace
	gpu     string
	sources []source
	owners  *Owners
	log     *slog.Logger
	observe func(admission.Reading)
	first   func()

	source      source // the one that the card is read from; nil: not found yet
	processesAt time.Time

	said  string // what the log says of the card; empty: nothing yet
	heard string // what the last readings agree on
	times int
}

func (w *watcher) run(ctx context.Context) {
	defer w.first()
	for {
		next := w.every
		if !w.sample(ctx) {
			next = w.absent
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// sample takes one reading. It reports whether there is a card to read.
func (w *watcher) sample(ctx context.Context) (present bool) {
	type outcome struct {
		reading admission.Reading
		source  source
	}
	processes := time.Since(w.processesAt) >= w.processes
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
	var absent error
	for _, s := range candidates {
		r := admission.Reading{GPU: w.gpu}
		r.Err = s.read(&r, processes)
		r.At = time.Now()
		if problem := w.owners.assign(r.Processes); problem != "" {
			w.log.Warn("processes are not told apart by backend", "gpu", w.gpu, "error", problem)
		}
		if !errors.Is(r.Err, errAbsent) || w.source != nil {
			return r, s
		}
		if absent == nil {
			absent = r.Err
		}
	}
	return admission.Reading{GPU: w.gpu, At: time.Now(), Err: absent}, nil
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
