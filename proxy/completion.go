package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// Some engines answer when they have put the work into a queue of their own. The work goes
// on after the answer, and a goroutine follows it to its end: the grant is held, the
// controller's drain waits for it, and the route's history learns how long it took.

// maxSubmit is the longest answer in which a job is looked for. A longer answer is a result
// and not a receipt.
const maxSubmit = 64 << 10

// job is work that goes on after its request was answered.
type job struct {
	*backend.Job
	how     *backend.Completion
	work    *attempt
	backend *replica
	log     *slog.Logger
	// host and header are those of the request of the job's caller.
	host   string
	header http.Header
	// overdue is when it has run for longer than its class may; zero: never.
	overdue time.Time

	ctx    context.Context // ends when the outcome of the job is not needed any more
	stop   context.CancelCauseFunc
	told   chan error // its end, seen in a stream that a client reads; buffered
	left   chan struct{}
	leaves sync.Once
	// tells is the stream that tells of its end; the zero one: none does.
	tells     source
	following *jobs // among which it is

	cancelled bool // the cancel call was made
	looks     int
	silent    int // polls in a row without an answer
	refused   int // the last of these polls for which nothing listened at the address
}

var (
	errJobFailed   = errors.New("proxy: the job failed")
	errJobLost     = errors.New("proxy: the backend is gone, and the job with it")
	errJobUnknown  = errors.New("proxy: the backend does not know the job any more")
	errJobTimeout  = errors.New("proxy: the job did not end within completion.timeout")
	errJobReleased = fmt.Errorf("proxy: the job's grant was given back by hand: %w", context.Canceled)
	errJobClosed   = fmt.Errorf("proxy: the proxy ends: %w", context.Canceled)
)

// jobMemory is the end of a job for want of memory, with what its result says.
type jobMemory struct{ said *outofmemory.Report }

func (e *jobMemory) Error() string { return "proxy: the job failed: " + e.said.String() }
func (e *jobMemory) Unwrap() error { return backend.ErrMemory }

// begin looks for a job in an answer, and follows the job. The answer's body has been read
// then, and is ready for the client. It reports false if the answer names no job.
func (x *exchange) begin(e *attempt, res *http.Response) bool {
	if res.StatusCode/100 != 2 || !isJSON(res.Header) {
		return false
	}
	b := readHead(res, maxSubmit)
	if b == nil {
		return false
	}
	res.Body = b
	if err := b.cut(); err != nil {
		e.end(err)
		return true
	}
	found, err := e.completion.Job(x.in.URL.Path, *b.buffer)
	if err != nil {
		// This is no mistake: some backends answer some requests early and others when they
		// are done.
		x.log.Debug("an answer tells of no job", "route", x.route.Name, "reason", err.Error())
		e.end(nil)
		return true
	}
	x.follow(e, found)
	return true
}

func isJSON(header http.Header) bool {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "application/json" || kind == "text/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}

// follow starts to look for a job's end. It ends the attempt then.
func (x *exchange) follow(e *attempt, found *backend.Job) {
	j := &job{Job: found, how: e.completion, work: e, backend: e.to, header: make(http.Header),
		told: make(chan error, 1), left: make(chan struct{}), following: &x.jobs,
		log: x.log.With("route", x.route.Name, "class", x.route.ClassName, "backend", x.route.Backend, "trace_id",
			x.trace.SpanContext().TraceID().String())}
	if j.backend.Config.PreserveHost {
		j.host = x.in.Host
	}
	for _, name := range [...]string{"Authorization", "Cookie", "X-Api-Key"} {
		if v := x.in.Header[name]; v != nil {
			j.header[name] = v
		}
	}
	if limit := x.route.Class.ExecutionTimeout; limit > 0 {
		j.overdue = x.now.Add(limit)
	}
	if grant := e.grant; grant != nil {
		j.log = j.log.With("grant", grant.ID())
	} else {
		j.Cancel = backend.Call{} // mode observe ends nothing
	}
	j.ctx, j.stop = context.WithCancelCause(context.Background())
	if found.Event != "" {
		j.tells = x.sourceOf(found.Event)
	}
	e.job.Store(j)
	x.jobs.add(j)
	go func() {
		err := j.run()
		x.jobs.remove(j)
		if errors.Is(err, backend.ErrMemory) {
			x.trace.OutOfMemory(telemetry.OOMPassed)
		}
		e.end(err)
		j.stop(nil)
	}()
}

// leave says that the caller has not got the answer that names its job. It may be called on
// a nil job, and more than once.
func (j *job) leave() {
	if j != nil {
		j.leaves.Do(func() { close(j.left) })
	}
}

// run polls until the job has ended, or until it is known that its end cannot be found out.
func (j *job) run() error {
	giveUp, next := time.NewTimer(j.how.Timeout), time.NewTimer(j.how.Every)
	defer giveUp.Stop()
	defer next.Stop()
	var overdue <-chan time.Time
	if !j.overdue.IsZero() {
		t := time.NewTimer(time.Until(j.overdue))
		defer t.Stop()
		overdue = t.C
	}
	unheard := j.untilUnheard()
	defer unheard.Stop()
	left := j.left
	for {
		why := ""
		select {
		case <-j.ctx.Done():
			return context.Cause(j.ctx)
		case err := <-j.told:
			return err
		case <-giveUp.C:
			j.log.Warn("a job did not end within completion.timeout: its grant is given back, though it may still run", "after", j.how.Timeout.String())
			return errJobTimeout
		case <-left:
			left, why = nil, "its caller left"
		case <-unheard.C:
			go j.listen()
			continue
		case <-overdue:
			overdue, why = nil, "execution_timeout passed"
		case <-next.C:
		}
		ended, err := j.look()
		if ended {
			return err
		}
		if why != "" {
			j.cancel(why)
		}
		next.Reset(j.pause())
	}
}

const (
	// lookTime is how long one poll may take. An engine that works is slow to answer.
	lookTime = 10 * time.Second
	// slowest is the longest time between two polls while polls fail.
	slowest = 10 * time.Second
	// enough is how many polls in a row must fail before a backend counts as gone.
	enough = 3
	// goneEvery is after how many polls the engine is asked whether it still knows the job.
	// The answer to that question may be long.
	goneEvery = 8
)

// pause is the time until the next poll.
func (j *job) pause() time.Duration {
	pause := j.how.Every
	for range min(j.silent, 10) {
		pause = min(2*pause, max(j.how.Every, slowest))
	}
	return pause
}

// look polls the backend once.
func (j *job) look() (ended bool, err error) {
	j.looks++
	status, answer, err := j.ask(j.Poll)
	switch {
	case j.ctx.Err() != nil:
		return true, context.Cause(j.ctx)
	case err != nil:
		return j.missed(err), errJobLost
	}
	j.refused = 0
	if ended, err := j.judge(status, answer); ended {
		return true, err
	}
	if status >= 500 {
		j.silent++ // the backend may be busy, but it is there
		return false, nil
	}
	j.silent = 0
	if j.Gone.Method != "" && j.looks%goneEvery == 0 {
		return j.lookForIt()
	}
	return false, nil
}

// lookForIt asks whether the engine still knows a job that has not ended by the last poll.
// If the engine does not know it, the job may have ended between the two calls, so it polls
// once more.
func (j *job) lookForIt() (ended bool, err error) {
	status, answer, err := j.ask(j.Gone)
	if err != nil || !j.Unknown(status, answer) {
		return false, nil
	}
	status, answer, err = j.ask(j.Poll)
	if err != nil {
		return false, nil
	}
	if ended, err := j.judge(status, answer); ended {
		return true, err
	}
	return true, errJobUnknown
}

// judge says how a job ended, by what Poll was answered.
func (j *job) judge(status int, answer []byte) (ended bool, err error) {
	ended, failed := j.Ended(status, answer)
	if !ended {
		return false, nil
	}
	if failed || !j.TellsFailure() {
		if said := j.backend.ResultOutOfMemory(answer); said != nil {
			return true, &jobMemory{said}
		}
	}
	if failed {
		return true, errJobFailed
	}
	return true, nil
}

// missed counts a poll that was not answered, and says whether the backend is gone: nothing
// listens at its address, or it does not answer and its breaker is open.
func (j *job) missed(err error) (gone bool) {
	j.silent++
	j.refused++
	if !errors.Is(err, backend.ErrRefused) {
		j.refused = 0
	}
	_, open := j.backend.Open()
	if gone = j.refused >= enough || open && j.silent >= enough; gone {
		j.log.Warn("a job's backend is gone: its grant is given back", "error", err.Error())
	}
	return gone
}

// cancel makes the cancel call, if there is one and it was not made.
func (j *job) cancel(why string) {
	if j.Cancel.Method == "" || j.cancelled {
		return
	}
	j.cancelled = true
	status, _, err := j.ask(j.Cancel)
	if err == nil && status >= 400 {
		err = fmt.Errorf("answered with %d", status)
	}
	if err != nil {
		j.log.Warn("a job could not be cancelled", "because", why, "error", err.Error())
		return
	}
	j.log.Info("a job was cancelled", "because", why)
}

func (j *job) ask(c backend.Call) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(j.ctx, lookTime)
	defer cancel()
	return j.backend.Ask(ctx, c, j.host, j.header)
}

// jobs are those that are being followed.
type jobs struct {
	mu     sync.Mutex
	open   map[*job]struct{} // guarded by mu
	events map[string]*job   // guarded by mu; jobs whose end shows in a stream of events, by event
	// listeners are the streams that tell of them. They stay when their client has
	// left, and longer where none has come yet.
	listeners map[string]*listener // guarded by mu; by source
	closed    bool                 // guarded by mu
	// passed are ends of jobs that are not known yet: the end of a quick job may arrive
	// before the answer that names the job. The oldest entry is overwritten.
	passed [64]ending // guarded by mu
	oldest int        // guarded by mu
}

// ending is a job's end that was seen in a stream of events.
type ending struct {
	event string
	err   error
}

func (s *jobs) add(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		j.stop(errJobClosed)
		return
	}
	if s.open == nil {
		s.open, s.events = make(map[*job]struct{}), make(map[string]*job)
	}
	s.open[j] = struct{}{}
	if j.Event == "" {
		return
	}
	for _, e := range s.passed {
		if e.event == j.Event {
			j.told <- e.err
			return
		}
	}
	s.events[j.Event] = j
}

func (s *jobs) remove(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, j)
	if s.events[j.Event] == j {
		delete(s.events, j.Event)
	}
	if l := s.listeners[j.tells.key]; l != nil && !s.isAwaited(l) {
		l.leave()
	}
}

// tell gives an end to the job of that event.
func (s *jobs) tell(event string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.events[event]; j != nil {
		delete(s.events, event)
		j.told <- err
		return
	}
	s.passed[s.oldest] = ending{event, err}
	s.oldest = (s.oldest + 1) % len(s.passed)
}

// release ends the following of the job that held a grant.
func (s *jobs) release(grant uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j := range s.open {
		if g := j.work.grant; g != nil && g.ID() == grant {
			j.stop(errJobReleased)
		}
	}
}

// ReleaseGrant gives a grant back by hand; a job that holds it is followed no
// more. It says whether the grant was running.
func (h *Handler) ReleaseGrant(id uint64) bool {
	ok := h.controller.ReleaseGrant(id)
	h.jobs.release(id)
	return ok
}

// close ends the following of all jobs.
func (s *jobs) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for j := range s.open {
		j.stop(errJobClosed)
	}
	for _, l := range s.listeners {
		l.cut()
	}
}
