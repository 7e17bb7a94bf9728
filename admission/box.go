package admission

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/queue"
)

// class, backend and replica are the configured things with their state.
type class struct {
	cfg     Class
	index   int
	label   string // for explanations
	gone    bool
	paused  bool
	waiting queue.Group[Ticket]
	granted uint64
	refused uint64
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

	residence
}

// residence is where a replica is between loaded and let go.
type residence struct {
	stance    stance
	order     *order        // under way; nil: none
	since     time.Duration // when it let go or came back
	loaded    time.Duration // when it last came to hold its weights
	ended     time.Duration // when the last run on it did
	empty     bool          // it has let go and not worked since
	byHand    bool          // an operator made it let go
	held      []Bytes       // before it let go, by account
	starts    float64       // recent ones; see wanted
	startsAt  time.Duration
	reload    time.Duration // as last seen; 0: never
	notBefore time.Duration // it is told to let go, after it was not seen to
	wakeAfter time.Duration // a wake that failed
	failures  int
	swaps     uint64
	note      string // what the last order came to
}

// reserve is what a class has for itself of a replica's slots.
type reserve struct {
	class int // index
	slots int
	count int // index into usage.reserves
}

// NewScheduler lays the books for a box. The epoch is when its age is zero.
func NewScheduler(cfg Config, epoch time.Time) (*Scheduler, error) {
	s := &Scheduler{
		epoch:        epoch,
		deviceIndex:  map[string]int{},
		classIndex:   map[string]*class{},
		backendIndex: map[string]*backend{},
		shapes:       map[shapeKey]*shape{},
		policy:       cfg.Tenants,
		recheck:      forever,
	}
	s.queue.Reset(cfg.Tenants.Weights)
	for _, g := range cfg.GPUs {
		if _, dup := s.deviceIndex[g.Name]; dup {
			return nil, fmt.Errorf("admission: gpu %q is listed twice", g.Name)
		}
		s.addDevice(&device{cfg: g, observed: -1})
	}
	for _, c := range cfg.Classes {
		if s.classIndex[c.Name] != nil {
			return nil, fmt.Errorf("admission: class %q is listed twice", c.Name)
		}
		if c.Slots < 1 {
			return nil, fmt.Errorf("admission: class %q has %d slots: want 1 or more", c.Name, c.Slots)
		}
		s.addClass(&class{cfg: c})
	}
	for _, b := range cfg.Backends {
		if s.backendIndex[b.Name] != nil {
			return nil, fmt.Errorf("admission: backend %q is listed twice", b.Name)
		}
		if len(b.Replicas) == 0 {
			return nil, fmt.Errorf("admission: backend %q has no replica", b.Name)
		}
		for _, r := range b.Replicas {
			for _, p := range r.Places {
				if _, ok := s.deviceIndex[p.GPU]; !ok {
					return nil, fmt.Errorf("admission: backend %q is on gpu %q, which is not configured", b.Name, p.GPU)
				}
			}
		}
		s.addBackend(&backend{cfg: b})
	}
	return s, nil
}

func (s *Scheduler) addDevice(d *device) {
	s.deviceIndex[d.cfg.Name] = len(s.devices)
	s.devices = append(s.devices, d)
	s.live.booked = append(s.live.booked, 0)
	s.live.alone = append(s.live.alone, 0)
}

func (s *Scheduler) addClass(c *class) {
	c.index, c.label = len(s.classes), "class "+c.cfg.Name
	if !c.gone {
		s.classIndex[c.cfg.Name] = c
	}
	s.classes = append(s.classes, c)
	s.live.classes = append(s.live.classes, 0)
}

func (s *Scheduler) addBackend(b *backend) {
	b.index, b.label, b.replicas = len(s.backends), "backend "+b.cfg.Name, nil
	if !b.gone {
		s.backendIndex[b.cfg.Name] = b
	}
	s.backends = append(s.backends, b)
	s.swappable = s.swappable || b.cfg.Reclaims
	s.live.backends = append(s.live.backends, 0)
	for i, cfg := range b.cfg.Replicas {
		r := &replica{backend: b, index: len(s.replicas), number: i, name: cfg.Name, probes: -1}
		for _, name := range slices.Sorted(maps.Keys(b.cfg.Reserved)) {
			if c := s.classIndex[name]; c != nil && b.cfg.Slots > 0 && b.cfg.Reserved[name] > 0 {
				r.reserves = append(r.reserves, reserve{c.index, b.cfg.Reserved[name], len(s.live.reserves)})
				s.live.reserves = append(s.live.reserves, 0)
			}
		}
		for _, p := range cfg.Places {
			gpu, ok := s.deviceIndex[p.GPU]
			if !ok {
				continue // the GPU is gone, and with it what was booked there
			}
			r.accounts = append(r.accounts, len(s.accounts))
			s.accounts = append(s.accounts, &account{backend: b, replica: i, gpu: gpu, resident: p.Resident, sight: sight{learns: b.cfg.LearnsResident}})
			s.live.holdings = append(s.live.holdings, holding{})
		}
		b.replicas = append(b.replicas, r)
		s.replicas = append(s.replicas, r)
		s.live.replicas = append(s.live.replicas, 0)
	}
}
