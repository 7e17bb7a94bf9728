package simulation

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
)

const testCard = 48 * admission.GiB

// shows says of each trap whether an engine that has been at work has it.
var shows = map[string]func(*bubble) bool{
	keepsMemory: func(b *bubble) bool {
		before := b.freed()
		time.Sleep(time.Minute)
		return b.used() == before
	},
	residue: func(b *bubble) bool {
		before := b.freed()
		time.Sleep(time.Minute)
		return b.used() == min(before, residueLeft)
	},
	freesLate: func(b *bubble) bool {
		before := b.freed()
		time.Sleep(lateBy - time.Millisecond)
		synctest.Wait()
		early := b.used()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		return early == before && b.used() == 0
	},
	afterCurrent: func(b *bubble) bool {
		before := b.freed()
		time.Sleep(time.Hour)
		idle := b.used()
		b.work(b.run)
		return idle == before && b.used() == 0
	},
	abortsInFlight: func(b *bubble) bool {
		got := b.begin(b.Context(), b.run)
		time.Sleep(b.kind.Shortest / 2)
		b.freed()
		r := <-got
		return r.took < b.kind.Shortest && (r.status != http.StatusOK || strings.Contains(r.body, `"abort"`))
	},
	diesOnFree: func(b *bubble) bool {
		b.freed()
		return b.dead()
	},
	diesAsleep: func(b *bubble) bool {
		b.freed()
		return b.do(b.run).status == 0 && b.dead()
	},
	hangsAsleep: func(b *bubble) bool {
		b.freed()
		got := b.begin(b.Context(), b.run)
		time.Sleep(time.Hour)
		if len(got) > 0 {
			return false
		}
		b.brought()
		return (<-got).status == http.StatusOK
	},
	slowWake: func(b *bubble) bool {
		b.freed()
		again := b.kind.Wake
		if again == 0 {
			again = b.kind.Load
		}
		return b.brought() >= slowBy*again
	},
	ignoresCallers: func(b *bubble) bool {
		ctx, leave := context.WithCancel(b.Context())
		got := b.begin(ctx, b.run)
		time.Sleep(b.kind.Shortest / 2)
		leave()
		synctest.Wait()
		goesOn := b.engine.busy(b.engine.models[0])
		<-got
		return goesOn
	},
	answersEarly: func(b *bubble) bool {
		r := b.do(b.run)
		synctest.Wait()
		return r.status == http.StatusOK && r.took == 0 && b.engine.busy(b.engine.models[0])
	},
	notExplicit: func(b *bubble) bool {
		before := b.used()
		r := b.do(b.free)
		return r.status == http.StatusBadRequest && b.used() == before
	},
	wantsBody: func(b *bubble) bool {
		before := b.used()
		empty := b.free
		empty.body = ""
		return b.do(empty).status == http.StatusBadRequest && b.used() == before
	},
	perModel: func(b *bubble) bool {
		if b.kind.Name == "triton" {
			b.do(call{"POST", "/v2/repository/models/bert/load", ""})
		} else {
			b.work(b.other)
		}
		b.freed()
		return b.used() >= b.kind.Others[0].Weights
	},
	oneAtATime: func(b *bubble) bool {
		b.work(b.other)
		return b.used() == b.kind.Others[0].Weights
	},
	refusesBusy: func(b *bubble) bool {
		got := b.begin(b.Context(), b.run)
		time.Sleep(b.kind.Shortest / 2)
		refused := b.do(b.free).status == http.StatusConflict
		<-got
		return refused && b.used() > 0
	},
}

// freed asks for the memory and returns what was in use before.
func (b *bubble) freed() admission.Bytes {
	b.Helper()
	before := b.used()
	if r := b.do(b.free); r.status/100 != 2 {
		b.Fatalf("%v: %+v", b.free, r)
	}
	return before
}

// brought gets the weights back and returns how long that took.
func (b *bubble) brought() time.Duration {
	b.Helper()
	if b.back.path == "" {
		r := b.work(b.run)
		return r.took
	}
	r := b.do(b.back)
	if r.status/100 != 2 {
		b.Fatalf("%v: %+v", b.back, r)
	}
	return r.took
}

func (b *bubble) dead() bool {
	synctest.Wait()
	return b.used() == 0 && b.do(b.run).status == 0 && b.do(call{"GET", "/health", ""}).status == 0
}

func TestEveryTrapOfAKindIsSeenWhereItIsSwitchedOnAndNowhereElse(t *testing.T) {
	known := make(map[string]bool)
	for _, trap := range Traps() {
		known[trap.Name] = true
		if trap.Does == "" || shows[trap.Name] == nil {
			t.Errorf("%s: it is not told what it does, or no engine looks", trap.Name)
		}
	}
	for _, kind := range Kinds() {
		for _, trap := range slices.Concat(kind.Traps, kind.Always) {
			if !known[trap] {
				t.Errorf("%s has %s, which Traps leaves out", kind.Name, trap)
			}
			look := func(name string, want bool, traps ...string) {
				t.Run(kind.Name+"/"+trap+"/"+name, func(t *testing.T) {
					inBubble(t, kind, testCard, traps, func(b *bubble) {
						b.load()
						if r := b.work(b.run); r.status != http.StatusOK {
							b.Fatalf("at work: %+v", r)
						}
						if got := shows[trap](b); got != want {
							b.Errorf("shows it: %v, want %v", got, want)
						}
					})
				})
			}
			always := slices.Contains(kind.Always, trap)
			look("on", true, trap)
			look("off", always)
		}
	}
}

func TestAFreeReallyFreesWhereNoTrapIsSwitchedOn(t *testing.T) {
	for _, kind := range Kinds() {
		if kindCalls[kind.Name].free.path == "" {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				b.load()
				b.work(b.run)
				if before := b.freed(); before == 0 || b.used() != 0 {
					t.Errorf("%v before and %v after, want something and nothing", before, b.used())
				}
				b.brought()
				if r := b.work(b.run); r.status != http.StatusOK {
					t.Errorf("at work again: %+v", r)
				}
			})
		})
	}
}

func TestAFreeWaitsForWhatRuns(t *testing.T) {
	for _, kind := range Kinds() {
		if kindCalls[kind.Name].free.path == "" || slices.Contains(kind.Always, abortsInFlight) || slices.Contains(kind.Always, refusesBusy) {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				b.load()
				b.work(b.run)
				got := b.begin(b.Context(), b.run)
				time.Sleep(kind.Shortest / 2)
				free := b.begin(b.Context(), b.free)
				synctest.Wait()
				if b.used() == 0 {
					t.Error("the memory went while it was in use")
				}
				if r := <-got; r.status != http.StatusOK {
					t.Errorf("the run that was there: %+v", r)
				}
				<-free
				time.Sleep(kind.Longest)
				if b.used() != 0 {
					t.Errorf("%v in use when it has ended", b.used())
				}
			})
		})
	}
}

// out are the words by which each engine is known to say that a card is full.
var out = map[string]string{
	"ollama": "cudaMalloc failed: out of memory", "llama-server": "cudaMalloc failed: out of memory", "llama-swap": "cudaMalloc failed: out of memory",
	"a1111": `"error":"OutOfMemoryError"`, "comfyui": `"exception_type":"torch.OutOfMemoryError"`,
	"triton": "Failed to allocate memory for requested buffer of size",
	"tgi":    `CUDA out of memory.","error_type":"generation"`, "tei": "CUDA_ERROR_OUT_OF_MEMORY", "rerank": "CUDA_ERROR_OUT_OF_MEMORY",
	"lmstudio":    "cudaMalloc failed: out of memory",
	"whisper-cpp": `{"error":"failed to process audio"}`, "whisper": "CUDA failed with error out of memory",
}

// bare are the engines whose errors have no figure, silent those that do not say what
// was wrong.
var (
	bare   = map[string]bool{"tgi": true, "tei": true, "rerank": true, "whisper": true}
	silent = map[string]bool{"whisper-cpp": true}
)

func TestAFullCardIsToldAsTheEngineTellsIt(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, kind.Weights+kind.PerRun-1, nil, func(b *bubble) {
				r := b.work(b.run)
				status, words := http.StatusInternalServerError, out[kind.Name]
				switch {
				case slices.Contains(kind.Always, answersEarly):
					status = http.StatusOK
				case kind.Name == "tgi", kind.Name == "tei", kind.Name == "rerank":
					status = http.StatusFailedDependency
				}
				if words == "" {
					words = "CUDA out of memory. Tried to allocate"
				}
				found := outofmemory.Scan(http.StatusInternalServerError, nil, nil)
				io.WriteString(found, r.body)
				if report, ok := found.Report(nil); ok == silent[kind.Name] || ok && (report.Tried == 0) != bare[kind.Name] {
					t.Errorf("it is not known by what it says, or without its figure: %v %+v in %s", ok, report, r.body)
				}
				if r.status != status || !strings.Contains(r.body, words) {
					t.Errorf("got %+v, want %d and %q", r, status, words)
				}
				if n := b.engine.OutOfMemory(); n != 1 {
					t.Errorf("it counts %d, want 1", n)
				}
			})
		})
	}
}

func TestAFullCardIsForgottenWhenThereIsRoom(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				others := testCard - kind.Weights/2
				if err := b.card.Alloc(others); err != nil {
					b.Fatal(err)
				}
				b.work(b.run)
				if b.used() != others || b.engine.OutOfMemory() != 1 {
					b.Errorf("%v in use, %d out of memory, want %v and 1", b.used(), b.engine.OutOfMemory(), others)
				}
				if err := b.card.Free(others); err != nil {
					b.Fatal(err)
				}
				if r := b.work(b.run); r.status != http.StatusOK || b.used() != kind.Weights+kind.PerRun {
					b.Errorf("got %+v, and %v in use", r, b.used())
				}
				if b.free.path == "" {
					return
				}
				if b.freed(); b.used() != 0 {
					b.Errorf("%v in use after a free", b.used())
				}
			})
		})
	}
}

func TestASwapWithoutAWaiterDelaysNoRequest(t *testing.T) {
	inBubble(t, LlamaSwap(), testCard, nil, func(b *bubble) {
		b.work(b.run)
		first := b.begin(b.Context(), b.run)
		synctest.Wait()
		ctx, leave := context.WithCancel(b.Context())
		second := b.begin(ctx, b.other)
		synctest.Wait()
		leave()
		<-second
		<-first
		if r := b.work(b.other); r.status != http.StatusOK || b.used() != b.kind.Others[0].Weights {
			b.Errorf("got %+v, and %v in use", r, b.used())
		}
	})
}

func TestWeightsThatCannotComeBackAreTriedAgain(t *testing.T) {
	for _, kind := range Kinds() {
		if kindCalls[kind.Name].back.path == "" {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				b.load()
				if kind.Lazy {
					b.work(b.run)
				}
				b.freed()
				if err := b.card.Alloc(testCard - kind.Weights + 1); err != nil {
					b.Fatal(err)
				}
				words := "CUDA out of memory"
				if own, ok := out[kind.Name]; ok {
					words = own
				}
				if r := b.do(b.back); r.status != http.StatusInternalServerError || !strings.Contains(r.body, words) {
					b.Errorf("beside another process: %+v", r)
				}
				if n := b.engine.OutOfMemory(); n != 1 {
					b.Errorf("it counts %d, want 1", n)
				}
				if err := b.card.Free(testCard - kind.Weights + 1); err != nil {
					b.Fatal(err)
				}
				b.brought()
				if r := b.work(b.run); r.status != http.StatusOK {
					b.Errorf("when there was room again: %+v", r)
				}
			})
		})
	}
}

func TestAWakeOvertakesASleepThatWaits(t *testing.T) {
	inBubble(t, VLLM(), testCard, nil, func(b *bubble) {
		b.load()
		run := b.begin(b.Context(), b.run)
		synctest.Wait()
		sleep := b.begin(b.Context(), b.free)
		synctest.Wait()
		b.brought()
		if r := <-sleep; r.took >= b.kind.Shortest {
			b.Errorf("the sleep went on: %+v", r)
		}
		if r := <-run; r.status != http.StatusOK || b.used() != b.kind.Weights {
			b.Errorf("got %+v and %v", r, b.used())
		}
		if r := b.work(b.run); r.status != http.StatusOK {
			b.Errorf("then %+v", r)
		}
	})
}

// The engine is asked for anything at any time, by callers who may leave, and
// ends in the middle of it. inBubble looks at what is left.
func TestWhateverHappensNoMemoryIsLost(t *testing.T) {
	for _, kind := range Kinds() {
		c := kindCalls[kind.Name]
		possible := []call{c.run, c.run, c.run, c.other, c.free, c.back}
		possible = slices.DeleteFunc(possible, func(c call) bool { return c.path == "" })
		t.Run(kind.Name, func(t *testing.T) {
			for seed := range uint64(40) {
				random := rand.New(rand.NewPCG(seed, 0))
				var traps []string
				for _, trap := range kind.Traps {
					if random.IntN(4) == 0 {
						traps = append(traps, trap)
					}
				}
				// Half of the cards are too small for all of it.
				size := kind.Weights + kind.PerRun + admission.Bytes(random.Int64N(int64(kind.Weights+1)))*2
				inBubble(t, kind, size, traps, func(b *bubble) {
					if random.IntN(2) == 0 {
						go b.engine.Load(b.Context())
					}
					var all []<-chan reply
					for range 12 {
						ctx, leave := context.WithCancel(b.Context())
						defer leave()
						if random.IntN(3) == 0 {
							time.AfterFunc(time.Duration(random.Int64N(int64(10*time.Second))), leave)
						}
						all = append(all, b.begin(ctx, possible[random.IntN(len(possible))]))
						time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second))))
						if m := look(b, b.card); m.Used > m.Capacity {
							b.Fatalf("seed %d: %+v", seed, m)
						}
					}
					if err := b.engine.Close(); err != nil {
						b.Errorf("seed %d: %v", seed, err)
					}
					for _, got := range all {
						<-got
					}
				})
			}
		})
	}
}

func TestATrapThatAKindDoesNotHaveIsNamed(t *testing.T) {
	err := Triton().CheckTraps([]string{"keeps-memory", "hangs-asleep"})
	if err == nil || !strings.Contains(err.Error(), `trap "hangs-asleep": triton has keeps-memory, residue`) {
		t.Errorf("got %v", err)
	}
	if err := ComfyUI().CheckTraps([]string{"answers-early"}); err != nil {
		t.Errorf("one that it has always: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("an engine was made with a trap that is none")
		}
	}()
	NewEngine(VLLM(), NewCard(1), Options{Traps: []string{"nonsense"}})
}
