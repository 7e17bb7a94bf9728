package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

const abandoned = admission.Aborted

// earlyAnswer bounds an answer that names the work it began.
const earlyAnswer = 1 << 20

// follow holds the grant of work that goes on after its answer until the
// backend says that it has ended. It reports whether there is such work; else
// the answer is as it was.
func (x *exchange) follow(res *http.Response) bool {
	text, err := io.ReadAll(io.LimitReader(res.Body, earlyAnswer+1))
	if err != nil || len(text) > earlyAnswer {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(text), broken{err}, res.Body), res.Body}
		return false
	}
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(text))
	b, e := x.backend(), &x.work
	job, err := b.NewJob(text)
	if err != nil {
		// It names no work: most likely it was refused.
		x.log.Warn("an early answer names no work", "backend", b.Name, "error", err.Error())
		e.end(nil)
		return true
	}
	began := x.now
	e.job.Store(true)
	limit := x.route.Class.ExecutionTimeout
	log, life := x.log, x.ladder.life
	x.ladder.steps.Go(func() {
		stop := func() bool { return true }
		if limit > 0 && b.HasCancel() {
			cancelled := time.AfterFunc(time.Until(began.Add(limit)), func() { cancelWork(life, b.Backend, log) })
			stop = cancelled.Stop
		}
		err := job.Wait(life)
		stop()
		if errors.Is(err, routing.ErrLate) {
			log.Error("work was not seen to end, and its grant is given back: the card may hold more than is booked",
				"backend", b.Name, "class", x.route.ClassName, "timeout", b.Config.Completion.Timeout.String())
		}
		e.full = errors.Is(err, routing.ErrMemory)
		e.end(err)
	})
	return true
}

// broken passes an error on, where there is one.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err == nil {
		return 0, io.EOF
	}
	return 0, b.err
}

type logger interface{ Warn(string, ...any) }

// cancelWork stops what nobody waits for any more. Its grant is held until the
// backend says that it has ended.
func cancelWork(ctx context.Context, b *routing.Backend, log logger) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := b.CancelWork(ctx); err != nil {
		log.Warn("work could not be cancelled", "backend", b.Name, "error", err.Error())
	}
}
