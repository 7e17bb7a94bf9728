package simulation

import (
	"cmp"
	"context"
	"fmt"
	"io"
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
	Status      int           // 0: no whole answer
	Err         error         // why not
}

// Wait is all the time that was not work.
func (o Outcome) Wait() time.Duration { return o.Ended - o.Sent - o.Execute }

// Play sends a scene's traffic to what listens at base and returns when all of
// it has been answered, in the order in which it was sent. When ctx ends the
// rest fails.
func Play(ctx context.Context, base string, s Scene, speed float64) []Outcome {
	p := player{base: base, speed: speed, client: &http.Client{Transport: newTransport()}, start: time.Now()}
	defer p.client.CloseIdleConnections()
	for _, j := range s.Jobs {
		p.callers.Go(func() {
			if sleep(ctx, time.Until(p.start.Add(p.real(j.At)))) == nil {
				p.ask(ctx, j.Heavy, j.Execute)
			}
		})
	}
	for _, times := range s.Callers {
		p.callers.Go(func() {
			for _, t := range times {
				if ctx.Err() != nil || time.Since(p.start) >= p.real(s.Length) {
					return
				}
				p.ask(ctx, false, t)
			}
		})
	}
	p.callers.Wait()
	slices.SortFunc(p.seen, func(a, b Outcome) int { return cmp.Compare(a.Sent, b.Sent) })
	return p.seen
}

type player struct {
	base    string
	speed   float64
	client  *http.Client
	start   time.Time
	callers sync.WaitGroup

	mu   sync.Mutex
	seen []Outcome // guarded by mu
}

func (p *player) real(d time.Duration) time.Duration { return time.Duration(float64(d) / p.speed) }

func (p *player) now() time.Duration {
	return time.Duration(float64(time.Since(p.start)) * p.speed)
}

// ask sends one request and notes what came of it.
func (p *player) ask(ctx context.Context, heavy bool, execute time.Duration) {
	path, body := lightPath, `{"question":"What is in this image?"}`
	if heavy {
		path, body = heavyPath, `{"prompt":"a bird on a roof","n":1}`
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+path, strings.NewReader(body))
	if err != nil {
		panic("simulation: " + err.Error()) // base is a listener's address
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(executeHeader, strconv.FormatFloat(execute.Seconds(), 'f', -1, 64))
	o := Outcome{Heavy: heavy, Sent: p.now()}
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
	return answer.StatusCode, time.Duration(seconds * float64(time.Second)), nil
}
