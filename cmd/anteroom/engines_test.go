package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation"
)

var everyTrap = flag.Bool("traps", false, "play ten minutes to three engines with each of their traps in turn")

// supervised is an engine that is started anew when it has died.
type supervised struct {
	kind  simulation.Kind
	card  *simulation.Card
	o     simulation.Options
	now   atomic.Pointer[simulation.Engine]
	oom   atomic.Int64
	died  atomic.Int32
	ended sync.WaitGroup
}

func (s *supervised) start() {
	o := s.o
	var once sync.Once
	o.Exit = func() {
		once.Do(func() {
			s.died.Add(1)
			s.ended.Go(func() {
				old := s.now.Load()
				s.start()
				old.Close()
				s.oom.Add(int64(old.OutOfMemory()))
			})
		})
	}
	e := simulation.NewEngine(s.kind, s.card, o)
	s.now.Store(e)
	s.ended.Go(func() { e.Load(context.Background()) })
}

func (s *supervised) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.now.Load().ServeHTTP(w, r)
}

// three is examples/one-card-three-engines with its engines, all of it faster.
type three struct {
	t       *testing.T
	speed   float64
	trapped bool // an engine has a trap
	card    *simulation.Card
	engines map[string]*supervised
	file    string // the configuration
	state   string // the state file; empty: none
	server  *server
	front   string

	mu       sync.Mutex
	answered map[string]int // guarded by mu; by what was asked and what came of it
}

func newThree(t *testing.T, speed float64, engine, trap string) *three {
	b := &three{t: t, speed: speed, trapped: trap != "", card: simulation.NewCard(48 * admission.GiB), engines: map[string]*supervised{},
		answered: map[string]int{}}
	comfyui, vllm, ollama := simulation.ComfyUI(), simulation.VLLM(), simulation.Ollama()
	comfyui.Weights, comfyui.PerRun = 24*admission.GiB, 10*admission.GiB
	vllm.Weights, vllm.PerRun = 22*admission.GiB, 0
	ollama.Model, ollama.Others = "llava", nil
	ollama.Weights, ollama.PerRun, ollama.ReturnsMemory = 5*admission.GiB, admission.GiB, true
	text, err := os.ReadFile("../../examples/one-card-three-engines/anteroom.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := string(text)
	for i, kind := range []simulation.Kind{comfyui, vllm, ollama} {
		s := &supervised{kind: kind, card: b.card, o: simulation.Options{Speed: speed, Seed: uint64(i + 1)}}
		if kind.Name == engine {
			s.o.Traps = []string{trap}
		}
		s.start()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		web := &http.Server{Handler: s}
		go web.Serve(l)
		t.Cleanup(func() { web.Close(); s.now.Load().Close(); s.ended.Wait() })
		b.engines[kind.Name] = s
		file = strings.ReplaceAll(file, []string{"127.0.0.1:8188", "127.0.0.1:8000", "127.0.0.1:11434"}[i], l.Addr().String())
	}
	b.file = b.write(file)
	b.serve()
	t.Cleanup(func() { b.server.forceStop() })
	return b
}

// serve starts a proxy before the engines.
func (b *three) serve() {
	cfg, err := configs.Load(configs.Options{File: b.file, Env: b.faster()})
	if err != nil {
		b.t.Fatal(err)
	}
	b.server, err = startServer(b.t.Context(), cfg, io.Discard, func(ctx context.Context, now <-chan string, observe func(admission.Reading)) {
		b.card.Watch(ctx, "gpu0", b.real(500*time.Millisecond), now, observe)
	}, 1)
	if err != nil {
		b.t.Fatal(err)
	}
	b.front = b.server.URL()
}

func (b *three) write(text string) string {
	file := filepath.Join(b.t.TempDir(), "anteroom.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return file
}

func (b *three) real(d time.Duration) time.Duration {
	return time.Duration(float64(d) / b.speed)
}

// faster makes the times of the file those of a box that runs faster, but for those
// that a slow machine must not reach: how long to wait, and how long memory may take
// to come back from an engine without a trap.
func (b *three) faster() []string {
	env := []string{"ANTEROOM_LISTEN=127.0.0.1:0", "ANTEROOM_ADMIN__LISTEN=127.0.0.1:0", "ANTEROOM_STATE__FILE=" + b.state,
		"ANTEROOM_TELEMETRY__TRACES__EXPORTER=none"}
	set := func(path string, d time.Duration) {
		env = append(env, "ANTEROOM_"+strings.ReplaceAll(strings.ToUpper(path), ".", "__")+"="+b.real(d).String())
	}
	for class, estimate := range map[string]time.Duration{"images": 18 * time.Second, "chat": 3 * time.Second, "captions": 1500 * time.Millisecond} {
		set("classes."+class+".estimate", estimate)
		set("classes."+class+".strict_after", 5*time.Second)
	}
	for _, backend := range []string{"comfyui", "vllm", "ollama"} {
		set("backends."+backend+".min_residency", 30*time.Second)
		if b.trapped {
			set("backends."+backend+".reclaim.settle", 10*time.Second)
		}
		set("backends."+backend+".breaker.open", 30*time.Second)
	}
	set("backends.comfyui.completion.every", 500*time.Millisecond)
	return env
}

// note counts what came of a request.
func (b *three) note(what, came string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered[what+": "+came]++
}

// ask sends a request and gives the answer. What says that memory ran out is
// counted, whatever its status.
func (b *three) ask(what, method, path, body string) (string, bool) {
	r, err := http.NewRequest(method, b.front+path, strings.NewReader(body))
	if err != nil {
		b.t.Error(err)
		return "", false
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		b.note(what, "no answer")
		return "", false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		b.note(what, "cut")
	case bytes.Contains(text, []byte("out of memory")):
		b.note(what, "out of memory")
	case what != "":
		b.note(what, res.Status)
	}
	return string(text), err == nil && res.StatusCode == http.StatusOK
}

// draw asks for an image and waits until the history has it.
func (b *three) draw(ctx context.Context) {
	text, ok := b.ask("image", "POST", "/prompt", `{"prompt":{"3":{}}}`)
	var job struct {
		ID string `json:"prompt_id"`
	}
	if !ok || json.Unmarshal([]byte(text), &job) != nil {
		return
	}
	tick := time.NewTicker(b.real(2 * time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if text, ok := b.ask("", "GET", "/history/"+job.ID, ""); !ok || strings.Contains(text, job.ID) {
			return
		}
	}
}

// play sends mixed traffic for so many seconds of the box: an image every 45 s, a
// chat every 6 s, and a caption every 2 s, which alone would keep Ollama busy all the
// time. On a slow machine the seconds are longer, and the traffic is the same.
func (b *three) play(length time.Duration) {
	var all sync.WaitGroup
	tick := time.NewTicker(b.real(time.Second))
	defer tick.Stop()
	for second := range int(length / time.Second) {
		if second%45 == 3 {
			all.Go(func() { b.draw(b.t.Context()) })
		}
		if second%6 == 0 {
			all.Go(func() { b.chat() })
		}
		if second%2 == 0 {
			all.Go(func() { b.caption() })
		}
		<-tick.C
	}
	all.Wait()
}

// swaps is how often each engine was unloaded.
func (b *three) swaps() map[string]uint64 {
	n := map[string]uint64{}
	for _, backend := range b.server.controller.Snapshot().Backends {
		for _, r := range backend.Replicas {
			n[backend.Name] += r.Swaps
		}
	}
	return n
}

func TestThreeEnginesShareACard(t *testing.T) {
	type box struct{ engine, trap string }
	boxes, length, speed := []box{{"", ""}}, 150*time.Second, 20.0
	if *everyTrap {
		length = 10 * time.Minute
		for _, kind := range []simulation.Kind{simulation.ComfyUI(), simulation.VLLM(), simulation.Ollama()} {
			for _, trap := range slices.Concat(kind.Traps) {
				boxes = append(boxes, box{kind.Name, trap})
			}
		}
	}
	for _, x := range boxes {
		t.Run(strings.Trim(x.engine+" "+x.trap, " "), func(t *testing.T) {
			b := newThree(t, speed, x.engine, x.trap)
			began := time.Now()
			b.play(length)
			memory, err := b.card.Memory()
			if err != nil {
				t.Fatal(err)
			}
			outOfMemory, died := int64(0), int32(0)
			for _, e := range b.engines {
				outOfMemory += e.oom.Load() + int64(e.now.Load().OutOfMemory())
				died += e.died.Load()
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			swaps := b.swaps()
			summary := fmt.Sprintf("%v; the card was asked for too much %d times, engines ran out of memory %d times and died %d times; swaps %v",
				b.answered, memory.Over, outOfMemory, died, swaps)
			t.Log(summary)
			for came, n := range b.answered {
				if strings.HasSuffix(came, "out of memory") || strings.HasSuffix(came, "no answer") || strings.HasSuffix(came, "cut") {
					t.Errorf("%d × %s: %s", n, came, summary)
				}
				if x.trap == "" && !strings.HasSuffix(came, "200 OK") {
					t.Errorf("%d × %s: %s", n, came, summary)
				}
			}
			if memory.Over > 0 || outOfMemory > 0 {
				t.Error(summary)
			}
			if x.trap == "" && swaps["vllm"]+swaps["comfyui"] < 2 {
				t.Errorf("the engines did not take turns: %s", summary)
			}
			periods := uint64(time.Since(began)/b.real(30*time.Second)) + 1
			for name, n := range swaps {
				if n > periods {
					t.Errorf("%s was unloaded %d times in %d times min_residency: %s", name, n, periods, summary)
				}
			}
		})
	}
}

func (b *three) want(what string, ok bool) {
	b.t.Helper()
	if !ok {
		b.t.Fatalf("%s fails: %v; %+v", what, b.answered, b.server.controller.Snapshot())
	}
}

func (b *three) chat() bool {
	_, ok := b.ask("chat", "POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"hello"}]}`)
	return ok
}

// caption asks Ollama, which keeps its model for good: five minutes of the box pass
// quickly on a slow machine.
func (b *three) caption() bool {
	_, ok := b.ask("caption", "POST", "/api/generate", `{"model":"llava","prompt":"what","stream":false,"keep_alive":-1}`)
	return ok
}

// A proxy that starts before engines which are loaded has not seen them load.
// What they hold is their own, and of one that dies meanwhile it is nobody's.
func TestAProxyStartsBeforeEnginesThatAreLoaded(t *testing.T) {
	for _, state := range []bool{true, false} {
		t.Run(fmt.Sprintf("state file %v", state), func(t *testing.T) {
			b := newThree(t, 100, "", "")
			if state {
				b.state = filepath.Join(t.TempDir(), "state.json")
				b.server.forceStop()
				b.serve()
			}
			b.want("the first chat", b.chat())
			b.want("the first caption", b.caption())
			b.server.forceStop()
			b.serve()
			b.want("a chat on a model that is loaded", b.chat())
			b.want("a caption on a model that is loaded", b.caption())
			for name, n := range b.swaps() {
				if n > 0 {
					t.Errorf("%s was unloaded %d times, want never: all fits", name, n)
				}
			}
			// It dies behind the proxy's back, and nobody starts it anew.
			if err := b.engines["vllm"].now.Load().Close(); err != nil {
				t.Fatal(err)
			}
			b.draw(t.Context())
			memory, err := b.card.Memory()
			if err != nil {
				t.Fatal(err)
			}
			if b.answered["image: 200 OK"] != 1 || memory.Over > 0 {
				t.Errorf("%v; the card was asked for too much %d times", b.answered, memory.Over)
			}
		})
	}
}
