package simulation

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	heavyPath = "/v1/images/generations"
	lightPath = "/v1/vqa"
)

// Outcome is what a client saw of one request, in times of the simulated box.
type Outcome struct {
	Heavy bool
	// Sent and Ended are after the beginning of the scene; Ended is the last byte.
	Sent, Ended time.Duration
	Execute     time.Duration // as the engine says
	Late        time.Duration // how much later it was sent than the scene says
	Asked       time.Duration // how long it was to run
	Status      int           // 0: no whole answer
	Err         error         // why not
}

// Wait is all the time that was not work.
func (o Outcome) Wait() time.Duration { return o.Ended - o.Sent - o.Execute }

// Callers are how a scene's traffic reaches what is in front of the engines.
type Callers struct {
	// Base is the URL of what they ask.
	Base string
	// Transport carries their requests; nil: sockets.
	Transport http.RoundTripper
	// Clock is what they come by; nil: the wall clock.
	Clock Clock
	// Speed is how many times faster than the scene says they come; 0: 1.
	Speed float64
}

// Play sends a scene's traffic and returns when all of it has been answered, in
// the order in which it was sent. When ctx ends the rest fails.
func (c Callers) Play(ctx context.Context, s Scene) []Outcome {
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Clock == nil {
		c.Clock = WallClock{}
	}
	if c.Speed == 0 {
		c.Speed = 1
	}
	p := player{Callers: c, client: &http.Client{Transport: c.Transport}, start: c.Clock.Now(), done: make(chan struct{})}
	defer p.client.CloseIdleConnections()
	if p.left = len(s.Jobs) + len(s.Callers); p.left == 0 {
		return nil
	}
	for _, j := range s.Jobs {
		p.comes(func() {
			if p.Clock.Sleep(ctx, p.start.Add(p.real(j.At)).Sub(p.Clock.Now())) == nil {
				p.ask(ctx, j, p.now()-j.At)
			}
		})
	}
	for _, times := range s.Callers {
		p.comes(func() {
			for _, t := range times {
				if ctx.Err() != nil || p.Clock.Now().Sub(p.start) >= p.real(s.Length) {
					return
				}
				p.ask(ctx, Job{Execute: t}, 0)
			}
		})
	}
	_ = p.Clock.Wait(context.Background(), p.done)
	slices.SortStableFunc(p.seen, func(a, b Outcome) int { return cmp.Compare(a.Sent, b.Sent) })
	return p.seen
}

type player struct {
	Callers
	client *http.Client
	start  time.Time
	done   chan struct{} // closed when the last caller has gone

	mu   sync.Mutex
	left int       // guarded by mu; callers that have not gone
	seen []Outcome // guarded by mu
}

// comes lets one caller do what it wants.
func (p *player) comes(do func()) {
	p.Clock.Go(func() {
		do()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.left--; p.left == 0 {
			close(p.done)
		}
	})
}

func (p *player) real(d time.Duration) time.Duration { return time.Duration(float64(d) / p.Speed) }

func (p *player) now() time.Duration {
	return time.Duration(float64(p.Clock.Now().Sub(p.start)) * p.Speed)
}

// ask sends one request, late by that much, and notes what came of it.
func (p *player) ask(ctx context.Context, j Job, late time.Duration) {
	path, body := lightPath, `{"question":"What is in this image?"}`
	if j.Heavy {
		path, body = heavyPath, `{"prompt":"a bird on a roof","n":1}`
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Base+path, strings.NewReader(body))
	if err != nil {
		panic("simulation: " + err.Error()) // Base is a listener's address
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(executeHeader, strconv.FormatFloat(j.Execute.Seconds(), 'f', -1, 64))
	o := Outcome{Heavy: j.Heavy, Sent: p.now(), Late: late, Asked: j.Execute}
	o.Status, o.Execute, o.Err = p.send(r)
	o.Ended = p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, o)
}

func (p *player) send(r *http.Request) (status int, execute time.Duration, err error) {
	answer, err := p.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return answer.StatusCode, 0, fmt.Errorf("%s: %.200s", answer.Status, body)
	}
	seconds, err := strconv.ParseFloat(answer.Header.Get(executeHeader), 64)
	if err != nil {
		return 0, 0, fmt.Errorf("an answer without %s: %w", executeHeader, err)
	}
	return answer.StatusCode, time.Duration(math.Round(seconds * float64(time.Second))), nil
}
