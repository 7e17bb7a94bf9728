package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

type request struct {
	Entry[request]
	Place[request]
	shape *Shape[request]
}

// box is a queue with its shapes, all in one group.
type box struct {
	Queue[request]
	group  Group[request]
	shapes []*Shape[request]
}

func newBox(shapes int) *box {
	b := new(box)
	for range shapes {
		b.shapes = append(b.shapes, &Shape[request]{Group: &b.group})
	}
	return b
}

// push adds a request that arrives at second now.
func (b *box) push(now, shape int, tenant string, boost int) *request {
	r := &request{shape: b.shapes[shape]}
	b.Arrive(time.Duration(now)*time.Second, &r.Entry, r)
	r.Tenant, r.Boost, r.Expires, r.Size = b.Tenant(tenant), time.Duration(boost)*time.Second, Forever, 10
	b.Push(&r.Entry, &r.Place, r.shape)
	return r
}

// start takes out what fair queueing starts next.
func (b *box) start(shape int, share float64, expected time.Duration) *request {
	r := b.shapes[shape].Next()
	b.Remove(&r.Place)
	b.Charge(&r.Entry, share, expected)
	return r
}

func TestTenantsShareByWeight(t *testing.T) {
	b := newBox(1)
	b.Reset(map[string]float64{"double": 2})
	for i := range 300 {
		b.push(i, 0, "double", 0)
		b.push(i, 0, "single", 0)
	}
	started := map[string]int{}
	for range 300 {
		started[b.start(0, 1, time.Second).Tenant.Name()]++
	}
	if started["double"] != 200 || started["single"] != 100 {
		t.Errorf("started %v, want 200 of the tenant with weight 2 and 100 of the other", started)
	}
}

func TestIdleTimeIsNoCredit(t *testing.T) {
	b := newBox(1)
	for i := range 20 {
		b.push(i, 0, "busy", 0)
	}
	for range 10 {
		b.start(0, 1, time.Second)
	}
	for i := range 10 {
		b.push(20+i, 0, "late", 0)
	}
	started := map[string]int{}
	for range 10 {
		started[b.start(0, 1, time.Second).Tenant.Name()]++
	}
	if d := started["busy"] - started["late"]; d < -2 || d > 2 {
		t.Errorf("started %v after one was idle, want them to alternate", started)
	}
}

func TestTheRealDurationReplacesTheExpectedOne(t *testing.T) {
	b := newBox(1)
	for i := range 4 {
		b.push(i, 0, "a", 0)
		b.push(i, 0, "b", 0)
	}
	first := b.start(0, 1, time.Second)
	second := b.start(0, 1, time.Second)
	b.Correct(&first.Entry, 10*time.Second)
	b.Correct(&second.Entry, time.Second)
	for i := range 3 {
		if got := b.start(0, 1, time.Second).Tenant; got != second.Tenant {
			t.Fatalf("start %d is of %s, whose first request took 10 s; want %s", i, got.Name(), second.Tenant.Name())
		}
	}
}

func TestIdleAccountsAreBounded(t *testing.T) {
	b := newBox(1)
	kept, anonymous := b.push(0, 0, "waits", 0), b.Tenant("")
	for i := range 3 * maxIdleTenants {
		b.Tenant(fmt.Sprint("t", i))
	}
	if n := len(b.tenants); n > maxIdleTenants+1 {
		t.Errorf("%d accounts are open, want %d at most", n, maxIdleTenants+1)
	}
	if b.Tenant("waits") != kept.Tenant || b.Tenant("") != anonymous {
		t.Error("an account that is in use was closed")
	}
}

// A charge moves all flows of a tenant in a shape, and the order of all of them has
// to be put right.
func TestATenantWithSeveralPriorities(t *testing.T) {
	b := newBox(1)
	add := func(tenant string, tag float64, boost int) *request {
		if b.Tenant(tenant).waiting == 0 {
			b.Tenant(tenant).tag = tag
		}
		return b.push(0, 0, tenant, boost)
	}
	x := add("x", 0, 5)
	add("x", 0, 0)
	for _, other := range []struct {
		name string
		tag  float64
	}{{"b", 6}, {"d", 4}, {"e", 5}, {"f", 20}} {
		add(other.name, other.tag, 0)
	}
	b.retag(x.Tenant, 10)
	last := 0.0
	for b.Len() > 0 {
		r := b.shapes[0].Next()
		if r.Tenant.tag < last {
			t.Errorf("%s with tag %v starts after tag %v", r.Tenant.name, r.Tenant.tag, last)
		}
		last = r.Tenant.tag
		b.Remove(&r.Place)
	}
}

// TestAgainstSortedLists plays drawn events and compares every answer with that
// of plain slices, sorted anew each time.
func TestAgainstSortedLists(t *testing.T) {
	for seed := range uint64(30) {
		draw := rand.New(rand.NewPCG(seed, 1)).IntN
		b := newBox(3)
		var waiting []*request // in order of arrival
		var now time.Duration
		remove := func(r *request) {
			b.Remove(&r.Place)
			waiting = slices.DeleteFunc(waiting, func(x *request) bool { return x == r })
		}
		for step := range 600 {
			now += time.Duration(draw(3)) * time.Second
			switch {
			case draw(2) == 0 || len(waiting) == 0:
				r := &request{shape: b.shapes[draw(3)]}
				b.Arrive(now, &r.Entry, r)
				who := draw(9)
				r.Tenant, r.Boost, r.Size = b.Tenant(fmt.Sprint("t", who)), time.Duration(draw(3)*5)*time.Second, int64(draw(100))
				if r.Expires = Forever; draw(2) == 0 {
					r.Expires = now + time.Duration(draw(60))*time.Second
				}
				b.Push(&r.Entry, &r.Place, r.shape)
				waiting = append(waiting, r)
			case draw(3) == 0:
				remove(waiting[draw(len(waiting))])
			case draw(20) == 0:
				all := b.group.Clear()
				if !slices.Equal(all, waiting) {
					t.Fatalf("seed %d, step %d: Clear returned %d entries, want the %d that wait", seed, step, len(all), len(waiting))
				}
				b.Reset(map[string]float64{"a": float64(1 + draw(3))})
				for i := range b.shapes {
					*b.shapes[i] = Shape[request]{Group: &b.group}
				}
				for _, r := range all {
					b.Push(&r.Entry, &r.Place, r.shape)
				}
			default:
				if r := waiting[draw(len(waiting))].shape.Next(); r != nil {
					remove(r)
					b.Charge(&r.Entry, 1/float64(1+draw(4)), time.Duration(1+draw(9))*time.Second)
					b.Correct(&r.Entry, time.Duration(1+draw(9))*time.Second)
				}
			}
			if err := b.compare(now, waiting); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
	}
}

func (b *box) compare(now time.Duration, waiting []*request) error {
	if got := slices.Collect(b.group.All()); !slices.Equal(got, waiting) || b.Len() != len(waiting) || b.group.Len() != len(waiting) {
		return fmt.Errorf("the group yields %d entries and the queue has %d, want %d", len(got), b.Len(), len(waiting))
	}
	size, soonest := int64(0), (*request)(nil)
	perTenant := map[*Tenant[request]]int{}
	for _, r := range waiting {
		size += r.Size
		perTenant[r.Tenant]++
		if r.Expires < Forever && (soonest == nil || r.Expires < soonest.Expires) {
			soonest = r
		}
	}
	if size != b.group.Size() {
		return fmt.Errorf("the group's size is %d, want %d", b.group.Size(), size)
	}
	for tenant, n := range perTenant {
		if tenant.Waiting() != n {
			return fmt.Errorf("%d of tenant %q wait, want %d", tenant.Waiting(), tenant.Name(), n)
		}
	}
	next := Forever
	if soonest != nil {
		next = soonest.Expires
	}
	if soonest != nil && soonest.Expires > now {
		soonest = nil
	}
	if got := b.Expired(now); got != soonest || b.NextExpiry() != next {
		return fmt.Errorf("the next entry expires at %v, want %v; expired is %p, want %p", b.NextExpiry(), next, got, soonest)
	}
	until, before := now+30*time.Second, []*request(nil)
	for _, r := range waiting {
		if r.Expires < until {
			before = append(before, r)
		}
	}
	got := b.ExpireBefore(until, nil)
	slices.SortFunc(got, func(x, y *request) int { return slices.Index(waiting, x) - slices.Index(waiting, y) })
	if !slices.Equal(got, before) {
		return fmt.Errorf("%d entries expire before %v, want %d", len(got), until, len(before))
	}
	for i, sh := range b.shapes {
		var mine []*request
		for _, r := range waiting {
			if r.shape == sh {
				mine = append(mine, r)
			}
		}
		if err := compareShape(sh, mine); err != nil {
			return fmt.Errorf("shape %d: %w", i, err)
		}
	}
	return nil
}

func compareShape(sh *Shape[request], mine []*request) error {
	ranked := slices.Clone(mine)
	slices.SortStableFunc(ranked, func(x, y *request) int {
		if x.Before(&y.Entry) {
			return -1
		}
		return 1
	})
	var eldest, fair *request
	for i, r := range ranked {
		if eldest == nil {
			eldest = r
		}
		if n := sh.Ahead(&r.Place, len(mine)); n != i {
			return fmt.Errorf("%d rank before entry %d, want %d", n, r.ID(), i)
		}
		before := 0
		for _, x := range mine {
			if x.ID() < r.ID() && x.Tenant == r.Tenant && x.Boost == r.Boost {
				before++
			}
		}
		if n := r.InFlow(len(mine)); n != before {
			return fmt.Errorf("%d are before entry %d in its flow, want %d", n, r.ID(), before)
		}
		// Of the firsts of all flows: the smallest tag, then the first by rank.
		if before == 0 && (fair == nil || r.Tenant.tag < fair.Tenant.tag) {
			fair = r
		}
	}
	if sh.Len() != len(mine) || sh.Eldest() != eldest || sh.Next() != fair {
		return fmt.Errorf("%d wait, eldest %p, next %p; want %d, %p, %p", sh.Len(), sh.Eldest(), sh.Next(), len(mine), eldest, fair)
	}
	return nil
}
