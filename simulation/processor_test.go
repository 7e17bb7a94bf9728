package simulation

import (
	"context"
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// recorded is what a recording of a real card shows of its runs.
type recorded struct {
	images, questions       int
	meanImage, meanQuestion time.Duration
	makespan                time.Duration
	imageStarts             []time.Duration
}

// recordingOf reads a recording of the runs of two engines on an H200.
func recordingOf(t *testing.T, name string) (r recorded) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "admission", "memory", "testdata", "h200", name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := csv.NewReader(f)
	lines.Comment = '#'
	all, err := lines.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var image, question time.Duration
	for _, line := range all[1:] {
		seconds, err := strconv.ParseFloat(line[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Duration(seconds * float64(time.Second))
		switch what := line[1]; {
		case what == "start flux":
			r.images, image, r.imageStarts = r.images+1, image-at, append(r.imageStarts, at)
		case what == "start vqa":
			r.questions, question = r.questions+1, question-at
		case strings.HasPrefix(what, "end flux"):
			image, r.makespan = image+at, at
		case strings.HasPrefix(what, "end vqa"):
			question, r.makespan = question+at, at
		}
	}
	r.meanImage, r.meanQuestion = image/time.Duration(r.images), question/time.Duration(r.questions)
	return r
}

// near wants a figure of the simulated card within 15 % of the real one's.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	t.Logf("%s: %v, on the real card %v (%+.1f %%)", what, got.Round(10*time.Millisecond), want.Round(10*time.Millisecond),
		100*(float64(got)/float64(want)-1))
	if off := (got - want).Abs(); float64(off) > 0.15*float64(want) {
		t.Errorf("%s: %v, on the real card %v", what, got, want)
	}
}

// sharing are two engines on one card, for runs of one after the other.
type sharing struct {
	image, question       *Engine
	mu                    sync.Mutex
	took                  map[*Engine]time.Duration
	runs                  map[*Engine]int
	aloneImage, aloneText time.Duration
}

func newSharing(parallel float64, aloneText time.Duration) *sharing {
	card := NewCard(140 * admission.GiB)
	engine := func(k Kind) *Engine {
		k.Weights, k.PerRun, k.Concurrency = 0, admission.MiB, 0
		return NewEngine(k, card, Options{Contention: true})
	}
	vqa := VQA()
	vqa.Parallel = parallel
	return &sharing{image: engine(Flux()), question: engine(vqa), took: map[*Engine]time.Duration{}, runs: map[*Engine]int{},
		aloneImage: 4800 * time.Millisecond, aloneText: aloneText}
}

func (s *sharing) run(t *testing.T, e *Engine) {
	alone := s.aloneText
	if e == s.image {
		alone = s.aloneImage
	}
	took, err := e.run(context.Background(), e.models[0], alone, 1, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
	s.took[e] += took
	s.runs[e]++
}

func (s *sharing) mean(e *Engine) time.Duration { return s.took[e] / time.Duration(s.runs[e]) }

// Three images one after the other and 48 questions, 16 at once. A question takes
// 0.74 s alone, and 16 of them 4.64 s: 2.55 have full speed.
func TestContentionIsThatOfARealCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := recordingOf(t, "contention")
		s := newSharing(2.55, 740*time.Millisecond)
		began := time.Now()
		var all sync.WaitGroup
		all.Go(func() {
			for range real.images {
				s.run(t, s.image)
			}
		})
		for range 16 {
			all.Go(func() {
				for range real.questions / 16 {
					s.run(t, s.question)
				}
			})
		}
		all.Wait()
		near(t, "an image beside 16 questions", s.mean(s.image), real.meanImage)
		near(t, "a question beside an image and 15 more", s.mean(s.question), real.meanQuestion)
		near(t, "makespan", time.Since(began), real.makespan)
	})
}

// Questions of 3 GiB: six at once, and two beside an image, as memory allowed. One
// takes a second alone, and six 1.88 s.
func TestWideQuestionsContendAsOnARealCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := recordingOf(t, "wide-lights")
		s := newSharing(3.2, time.Second)
		began := time.Now()
		var mu sync.Mutex
		asked, running, images, waiting := 0, 0, 0, false // guarded by mu
		changed := sync.NewCond(&mu)
		var all sync.WaitGroup
		all.Go(func() {
			for _, at := range real.imageStarts {
				time.Sleep(time.Until(began.Add(at - 1800*time.Millisecond))) // it waits for room
				mu.Lock()
				for waiting = true; running > 2; {
					changed.Wait()
				}
				waiting, images = false, 1
				mu.Unlock()
				s.run(t, s.image)
				mu.Lock()
				images = 0
				changed.Broadcast()
				mu.Unlock()
			}
		})
		for range 6 {
			all.Go(func() {
				for {
					mu.Lock()
					for asked < real.questions && (images > 0 || waiting) && running >= 2 {
						changed.Wait()
					}
					if asked == real.questions {
						changed.Broadcast()
						mu.Unlock()
						return
					}
					asked, running = asked+1, running+1
					mu.Unlock()
					s.run(t, s.question)
					mu.Lock()
					running--
					changed.Broadcast()
					mu.Unlock()
				}
			})
		}
		all.Wait()
		near(t, "an image beside two questions", s.mean(s.image), real.meanImage)
		near(t, "a question", s.mean(s.question), real.meanQuestion)
		near(t, "makespan", time.Since(began), real.makespan)
	})
}
