package simulation

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Model is a set of weights that an engine can hold.
type Model struct {
	Name string
	// Weights are held from their loading on, which takes Load. Zero: they come
	// and go with each run and are part of PerRun.
	Weights admission.Bytes
	Load    time.Duration
	// PerRun is what one run takes beside the weights.
	PerRun admission.Bytes
}

// Kind is a sort of model server: what it takes, for how long, and how it
// behaves. Its routes are all that differs beside these figures.
type Kind struct {
	Name string
	Does string // what it stands for, in a few words
	// Model, Weights, Load and PerRun are its first model, as in Model.
	Model   string
	Weights admission.Bytes
	Load    time.Duration
	PerRun  admission.Bytes
	// Others are further models, loaded when a request names them. A kind that has
	// none answers to every name.
	Others []Model
	// Lazy leaves loading to the first request. False: Load does it, at the start.
	Lazy bool
	// Explicit loads the first model at the start, the others when told to, and
	// none for a request.
	Explicit bool
	// Single unloads one model before it loads another.
	Single bool
	// Wake is how long weights take that have been unloaded before, because they
	// wait in main memory. Zero: as long as the first time.
	Wake time.Duration
	// ReturnsMemory gives PerRun back to the card when a run ends. False: it
	// stays in the engine's allocator for the next run.
	ReturnsMemory bool
	// Shortest and Longest bound a run's time, which is drawn evenly.
	Shortest, Longest time.Duration
	// Concurrency is how many runs there are at once on a model; others wait
	// inside the engine. Zero: no bound.
	Concurrency int
	// Parallel is how many runs at once have full speed where Options.Contention is on;
	// more of them share it. Zero: any number.
	Parallel float64
	// Aborts stops a run when its caller leaves. False: it goes on.
	Aborts bool
	// Cut is the finish reason of an answer whose run was aborted by a sleep.
	// Empty: that is an error.
	Cut string
	// Owner is who owns the models, in OpenAI's list of them. Empty: the simulation.
	Owner string
	// Full is what it says of a card that is full. Nil: what PyTorch says, which is
	// how OutOfMemory reads.
	Full func(*OutOfMemory) string
	// Traps are the names that Options may switch on; Always are the traps that
	// the kind has of itself, which may be named too and change nothing.
	Traps, Always []string
	// Fail answers an error in the engine's shape. Nil: in OpenAI's.
	Fail func(w http.ResponseWriter, status int, kind, message string)
	// Routes adds the kind's routes.
	Routes func(*Engine, *Routes)
}

// models are all that it can load, the first one first.
func (k Kind) models() []Model {
	return append([]Model{{k.Model, k.Weights, k.Load, k.PerRun}}, k.Others...)
}

// CheckTraps says which of the names is none of the kind's traps, and which it
// has.
func (k Kind) CheckTraps(names []string) error {
	for _, n := range names {
		if slices.Contains(k.Traps, n) || slices.Contains(k.Always, n) {
			continue
		}
		has := slices.Concat(k.Traps, k.Always)
		if len(has) == 0 {
			return fmt.Errorf("trap %q: %s has none", n, k.Name)
		}
		return fmt.Errorf("trap %q: %s has %s", n, k.Name, strings.Join(has, ", "))
	}
	return nil
}

// Kinds are the engines that can be asked for by name.
func Kinds() []Kind {
	return []Kind{
		Flux(), VQA(), Ollama(), VLLM(), SGLang(), ComfyUI(), A1111(), Triton(), LlamaServer(), LlamaSwap(), Gradio(),
		TGI(), LMStudio(), TEI(), Rerank(), Infinity(), Whisper(), WhisperCPP(), TTS(), Diffusers(),
	}
}

// says is a Full that always reads alike.
func says(text string) func(*OutOfMemory) string { return func(*OutOfMemory) string { return text } }
