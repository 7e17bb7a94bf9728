package routing

import "sync"

// events are the ends of jobs that are waited for, or have come before anybody
// waited. Its zero value is ready.
type events struct {
	mu      sync.Mutex
	waiting map[string]chan struct{} // guarded by mu
	early   []string                 // guarded by mu; the last that nobody waited for
}

// mostEarly bounds what is remembered: whoever waits does so at once.
const mostEarly = 64

// watch gives what is closed when the event happens, or has. The caller drops it.
func (e *events) watch(id string) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting == nil {
		e.waiting = make(map[string]chan struct{})
	}
	c := make(chan struct{})
	e.waiting[id] = c
	for _, known := range e.early {
		if known == id {
			delete(e.waiting, id)
			close(c)
			break
		}
	}
	return c
}

func (e *events) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiting, id)
}

func (e *events) happened(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.waiting[id]; c != nil {
		close(c)
		delete(e.waiting, id)
		return
	}
	if len(e.early) == mostEarly {
		e.early = append(e.early[:0], e.early[1:]...)
	}
	e.early = append(e.early, id)
}
