package admission

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/queue"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// box is the configured machine: its classes and backends with their state, and
// what is taken of each of their resources.
type box struct {
	ledger    *memory.Ledger
	residency *residency.Manager
	gpus      map[string]int // in the ledger
	classes   []*class
	backends  []*backend
	replicas  []*replica
	byClass   map[string]*class   // those that are configured
	byBackend map[string]*backend // those that are configured
	live      usage
	company   company
}

// class, backend and replica are the configured things with their state.
type class struct {
	cfg     Class
	box     *box
	index   int
	label   string // for explanations
	gone    bool
	paused  bool
	waiting queue.Group[Ticket]
	dated   int // of those that wait, that have a deadline
	granted uint64
	refused uint64
	counts  Counts
	share   float64 // that a request takes of the slots
}

type backend struct {
	cfg      Backend
	index    int
	label    string
	gone     bool
	draining bool
	replicas []*replica
}

type replica struct {
	backend  *backend
	index    int // among all
	number   int // within its backend
	name     string
	probes   int // -1: all slots; else how many at once
	accounts []int
	reserves []reserve
	home     *residency.Replica
}

// reserve is what a class has for itself of a replica's slots.
type reserve struct {
	class int // index
	slots int
	count int // index into usage.reserves
}

// newBox makes what a configuration describes, at an age.
func newBox(cfg Config, now time.Duration) (*box, error) {
	ledger := new(memory.Ledger)
	b := &box{residency: residency.New(ledger), gpus: map[string]int{}, byClass: map[string]*class{}, byBackend: map[string]*backend{}}
	b.keepsBooks(ledger)
	for _, g := range cfg.GPUs {
		if _, dup := b.gpus[g.Name]; dup {
			return nil, fmt.Errorf("admission: gpu %q is listed twice", g.Name)
		}
		b.gpus[g.Name] = ledger.AddGPU(now, g)
	}
	for _, c := range cfg.Classes {
		if b.byClass[c.Name] != nil {
			return nil, fmt.Errorf("admission: class %q is listed twice", c.Name)
		}
		if c.Slots < 1 {
			return nil, fmt.Errorf("admission: class %q has %d slots: want 1 or more", c.Name, c.Slots)
		}
		b.addClass(&class{cfg: c})
	}
	for _, x := range cfg.Backends {
		if b.byBackend[x.Name] != nil {
			return nil, fmt.Errorf("admission: backend %q is listed twice", x.Name)
		}
		if len(x.Replicas) == 0 {
			return nil, fmt.Errorf("admission: backend %q has no replica", x.Name)
		}
		for _, r := range x.Replicas {
			for _, p := range r.Places {
				if _, ok := b.gpus[p.GPU]; !ok {
					return nil, fmt.Errorf("admission: backend %q is on gpu %q, which is not configured", x.Name, p.GPU)
				}
			}
		}
		b.addBackend(&backend{cfg: x})
	}
	return b, nil
}

// keepsBooks says in which ledger the memory of the box is.
func (b *box) keepsBooks(l *memory.Ledger) { b.ledger, b.live.memory = l, &l.State }

func (b *box) addClass(c *class) {
	c.box, c.index, c.label, c.share = b, len(b.classes), "class "+c.cfg.Name, 1/float64(c.cfg.Slots)
	if !c.gone {
		b.byClass[c.cfg.Name] = c
	}
	b.classes = append(b.classes, c)
	b.live.classes = append(b.live.classes, 0)
}

func (b *box) addBackend(x *backend) {
	x.index, x.label, x.replicas = len(b.backends), "backend "+x.cfg.Name, nil
	if !x.gone {
		b.byBackend[x.cfg.Name] = x
	}
	b.backends = append(b.backends, x)
	for i, cfg := range x.cfg.Replicas {
		r := &replica{backend: x, index: len(b.replicas), number: i, name: cfg.Name, probes: -1}
		if x.gone {
			r.limit(0)
		}
		for _, name := range slices.Sorted(maps.Keys(x.cfg.Reserved)) {
			if c := b.byClass[name]; c != nil && x.cfg.Slots > 0 && x.cfg.Reserved[name] > 0 {
				r.reserves = append(r.reserves, reserve{c.index, x.cfg.Reserved[name], len(b.live.reserves)})
				b.live.reserves = append(b.live.reserves, 0)
			}
		}
		for _, p := range cfg.Places {
			g, ok := b.gpus[p.GPU]
			if !ok {
				continue // the GPU is gone, and with it what was booked there
			}
			r.accounts = append(r.accounts, b.ledger.AddAccount(memory.Place{Backend: x.cfg.Name, Replica: i, GPU: g,
				Weights: p.Resident, Learn: x.cfg.LearnsResident, Returns: x.cfg.ReturnsMemory}))
		}
		r.home = b.residency.Add(residency.Config{Backend: x.cfg.Name, Replica: i, Name: cfg.Name, Accounts: r.accounts,
			Reclaims: x.cfg.Reclaims && !x.gone, Pinned: x.cfg.Pinned, MinResidency: x.cfg.MinResidency})
		if x.gone {
			r.home.Retire()
		}
		x.replicas = append(x.replicas, r)
		b.replicas = append(b.replicas, r)
		b.live.replicas = append(b.live.replicas, 0)
	}
}

// replicaOf is the replica that a residency's is.
func (b *box) replicaOf(h *residency.Replica) *replica {
	for _, r := range b.replicas {
		if r.home == h {
			return r
		}
	}
	return nil
}

// find gives a configured replica; nil: there is none.
func (b *box) find(name string, number int) *replica {
	x := b.byBackend[name]
	if x == nil || number < 0 || number >= len(x.replicas) {
		return nil
	}
	return x.replicas[number]
}

// homes are the residencies of a configured backend's replicas.
func (b *box) homes(name string) ([]*residency.Replica, error) {
	x := b.byBackend[name]
	if x == nil {
		return nil, fmt.Errorf("%w %q", residency.ErrNoBackend, name)
	}
	var all []*residency.Replica
	for _, r := range x.replicas {
		all = append(all, r.home)
	}
	return all, nil
}

// limit says how many may run on a replica at once; negative: as many as it has slots.
func (r *replica) limit(n int) { r.probes = max(-1, n) }

// sleeps says that a replica works again only after a wake, or is being woken:
// that it does not answer is no failure.
func (r *replica) sleeps() bool { return r.home.State.Sleeps() || r.home.State == residency.Loading }

// available says that some replica takes work.
func (x *backend) available() bool {
	return slices.ContainsFunc(x.replicas, func(r *replica) bool { return r.probes != 0 || r.sleeps() })
}

// barred says that a shape may not run at all for now, whatever is free.
func (sh *shape) barred() (block, bool) {
	switch x := sh.backend; {
	case sh.class.paused:
		return block{reason: ReasonPaused, resource: sh.class.label, gpu: -1}, true
	case x.draining:
		return block{reason: ReasonDraining, resource: x.label, gpu: -1}, true
	case !x.available():
		return block{reason: ReasonBackendUnavailable, resource: x.label, gpu: -1}, true
	}
	return block{}, false
}

// neverFits says whether no replica could take the demand even on an empty
// card, going by the configured sizes and not by a momentary shrink.
func (b *box) neverFits(x *backend, vram Bytes) (detail string, never bool) {
	for _, r := range x.replicas {
		fits := true
		for _, a := range r.accounts {
			g := b.ledger.GPUOf(a)
			if most := b.ledger.Ceiling(g); most > 0 && b.ledger.DeclaredWeights(a)+vram > most {
				fits = false
				beside := ""
				if w := b.ledger.DeclaredWeights(a); w > 0 {
					beside = fmt.Sprintf(" on top of the %v that backend %s holds", w, x.cfg.Name)
				}
				detail = fmt.Sprintf("%v%s is more than the %v that %s can ever give", vram, beside, most, b.ledger.Name(g))
			}
		}
		if fits {
			return "", false
		}
	}
	return detail, true
}

// largest is the largest demand that some replica of a backend could ever take.
func (b *box) largest(x *backend) Bytes {
	var best Bytes
	for _, r := range x.replicas {
		most := Bytes(1) << 62
		for _, a := range r.accounts {
			if c := b.ledger.Ceiling(b.ledger.GPUOf(a)); c > 0 {
				most = min(most, max(0, c-b.ledger.Weights(a)))
			}
		}
		best = max(best, most)
	}
	return best
}

// trialAfter is the longest TrialAfter of the GPUs of a shape's backend.
func (b *box) trialAfter(sh *shape) time.Duration {
	longest := time.Duration(0)
	for _, r := range sh.backend.replicas {
		for _, a := range r.accounts {
			longest = max(longest, b.ledger.TrialAfter(b.ledger.GPUOf(a)))
		}
	}
	return longest
}

// failed says that a shape has run out of memory on a replica in what was taken for
// room, and that nothing which told of it has changed. What is predicted for it there
// bars nothing.
func (b *box) failed(sh *shape, r *replica, now time.Duration) bool {
	return !sh.key.retry && slices.ContainsFunc(r.accounts, func(a int) bool { return b.ledger.Barred(sh.known, a, now) })
}

// atRest says that the GPUs of a replica are at rest, and no lone run is under
// way there.
func (b *box) atRest(r *replica, now time.Duration) bool {
	return !slices.ContainsFunc(r.accounts, func(a int) bool {
		g := b.ledger.GPUOf(a)
		return !b.ledger.AtRest(g, now) || b.ledger.LoneRun(g) != nil
	})
}
