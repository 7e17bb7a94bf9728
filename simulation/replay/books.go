package replay

import (
	"slices"

	"github.com/anteroom-gpu/anteroom/admission"
)

// books add up what a schedule takes, from the definition of booked memory and
// without the controller's ledger, so that a mistake of the ledger is found.
type books struct {
	box      *Box
	gpus     map[string]int
	budget   []admission.Bytes // by GPU
	booked   []admission.Bytes
	classes  []int // running, by class
	backends [][]replicaBook
}

type replicaBook struct {
	runs   int
	demand admission.Bytes // Σ of what runs
	places []placeBook
}

type placeBook struct {
	gpu            int
	resident, kept admission.Bytes
}

func newBooks(box *Box) *books {
	b := &books{box: box, gpus: map[string]int{}, classes: make([]int, len(box.Admission.Classes))}
	for i, g := range box.Admission.GPUs {
		b.gpus[g.Name] = i
		b.budget = append(b.budget, budget(g))
	}
	b.booked = make([]admission.Bytes, len(b.budget))
	for _, cfg := range box.Admission.Backends {
		replicas := make([]replicaBook, len(cfg.Replicas))
		for i, r := range cfg.Replicas {
			for _, p := range r.Places {
				replicas[i].places = append(replicas[i].places, placeBook{gpu: b.gpus[p.GPU], resident: p.Resident})
			}
		}
		b.backends = append(b.backends, replicas)
	}
	return b
}

// booked is what a replica has booked on one of its GPUs.
func (r *replicaBook) booked(p placeBook) admission.Bytes {
	if r.runs == 0 {
		return p.kept
	}
	return max(p.kept, p.resident+r.demand)
}

// start and end book one run. They report whether a class or a replica then
// runs more than it may; bytes are for the caller to compare.
func (b *books) start(class, backend, replica int, vram admission.Bytes) (overSlots bool) {
	b.classes[class]++
	r := &b.backends[backend][replica]
	r.runs++
	r.demand += vram
	b.add()
	limit := b.box.Admission.Backends[backend].Slots
	return b.classes[class] > b.box.Admission.Classes[class].Slots || limit > 0 && r.runs > limit
}

func (b *books) end(class, backend, replica int, vram admission.Bytes) {
	b.classes[class]--
	r := &b.backends[backend][replica]
	for i := range r.places {
		p := &r.places[i]
		stays := r.booked(*p)
		if b.box.Admission.Backends[backend].ReturnsMemory {
			stays = p.resident // the weights stay loaded
		}
		p.kept = max(p.kept, stays)
	}
	r.runs--
	r.demand -= vram
	b.add()
}

// move books that a replica which runs nothing frees, or takes its weights again.
func (b *books) move(what What, backend, replica int) {
	r := &b.backends[backend][replica]
	for i := range r.places {
		p := &r.places[i]
		if what == Freed {
			p.kept = 0
		} else {
			p.kept = max(p.kept, p.resident)
		}
	}
	b.add()
}

// add sums what is booked on each GPU anew.
func (b *books) add() {
	clear(b.booked)
	for i := range b.backends {
		for k := range b.backends[i] {
			r := &b.backends[i][k]
			for _, p := range r.places {
				b.booked[p.gpu] += r.booked(p)
			}
		}
	}
}

// over says whether more is booked on a GPU than it has.
func (b *books) over() bool {
	for i, n := range b.booked {
		if n > b.budget[i] {
			return true
		}
	}
	return false
}

// fitting gives the first replica that could take a request while nothing else
// runs; -1: none.
func (b *books) fitting(r *route, vram admission.Bytes) int {
	return slices.IndexFunc(b.backends[r.backend], func(x replicaBook) bool {
		for _, p := range x.places {
			if p.resident+vram > b.budget[p.gpu] {
				return false
			}
		}
		return true
	})
}
