package simulation

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// jobs is the work of an engine that answers before it works: one job after the
// other, in order of arrival, whether or not a client asks for the result.
type jobs struct {
	*Engine
	// watch is told of the jobs; nil: nothing is.
	watch  watcher
	mu     sync.Mutex
	number int           // guarded by mu; of the latest
	all    []*job        // guarded by mu; the oldest first, those that have ended too
	last   chan struct{} // guarded by mu; closed when the latest and all before it have ended; nil: there was none
}

// job is one of them. What came of it may be read when ended is closed.
type job struct {
	id     string
	number int
	length time.Duration
	ask    any // what the kind wants to know of it later
	cancel context.CancelCauseFunc
	begun  chan struct{} // closed when its turn has come
	ended  chan struct{}
	told   chan struct{} // closed when the client that waited for it has been told
	took   time.Duration
	err    error
}

// watcher is told of a job, in order and by the job itself: it must not block.
type watcher interface {
	begun(j *job)       // its turn has come
	step(j *job, i int) // one of its samplingSteps is done, from 0 on
	ended(j *job)       // also of one whose turn never came
}

// maxJobs bounds what is remembered of jobs that have ended.
const maxJobs = 1000

// newID reads as a random UUID.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// add queues a job on m for r. An empty id: one is made.
func (q *jobs) add(r *http.Request, m *model, id string, length time.Duration, ask any) (*job, error) {
	if id == "" {
		id = newID()
	}
	// Its client has left by the time that it runs.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	j := &job{
		id: id, length: length, ask: ask, cancel: cancel,
		begun: make(chan struct{}), ended: make(chan struct{}), told: make(chan struct{}),
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	j.number = q.number + 1
	before, over := q.last, make(chan struct{})
	if before == nil {
		before = make(chan struct{})
		close(before)
	}
	err := q.after(func() {
		// One that is given up before its turn ends at once, but the next one's turn
		// comes no sooner for that.
		defer func() {
			if q.watch != nil {
				q.watch.ended(j)
			}
			_ = q.clock.Wait(context.Background(), before)
			close(over)
		}()
		defer close(j.ended)
		defer cancel(nil)
		_ = q.clock.Wait(ctx, before)
		if j.err = context.Cause(ctx); j.err == nil {
			close(j.begun)
			steps, step := 1, func(int) error { return nil }
			if q.watch != nil {
				q.watch.begun(j)
				steps, step = samplingSteps, func(i int) error { q.watch.step(j, i); return nil }
			}
			j.took, j.err = q.run(ctx, m, length, steps, step)
		}
	})
	if err != nil {
		cancel(err)
		return nil, err
	}
	q.number, q.last = j.number, over
	q.all = append(q.all, j)
	if len(q.all) > maxJobs && closed(q.all[0].ended) {
		q.all = slices.Delete(q.all, 0, 1)
	}
	return j, nil
}

// list are the jobs in their three states, the oldest first.
func (q *jobs) list() (pending, running, ended []*job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range q.all {
		switch {
		case closed(j.ended):
			ended = append(ended, j)
		case closed(j.begun):
			running = append(running, j)
		default:
			pending = append(pending, j)
		}
	}
	return pending, running, ended
}

// tell notes that what came of a job is known. Twice is once.
func (q *jobs) tell(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !closed(j.told) {
		close(j.told)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
