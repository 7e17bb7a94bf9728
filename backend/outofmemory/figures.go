package outofmemory

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Report is what an out-of-memory error says. An amount that it does not say is zero.
type Report struct {
	// Engine is the row of the table that was found, and Words are the words of the
	// answer; for a pattern of the configuration Engine is empty.
	Engine, Words string

	Tried    int64 // bytes that could not be allocated
	Free     int64 // bytes that were free on the GPU
	InUse    int64 // bytes that the engine's own process held of the GPU
	Capacity int64 // bytes of the GPU
	// Others are the other processes that it names, at most maxOthers.
	Others []Process
}

// String is one line for people: the words, and the figures that there are.
func (r *Report) String() string {
	text := r.Words
	if r.Engine != "" {
		text += " (" + r.Engine + ")"
	}
	for _, f := range [...]struct {
		bytes int64
		what  string
	}{{r.Tried, "tried"}, {r.Free, "free"}, {r.InUse, "in use by its process"}} {
		if f.bytes > 0 {
			text += fmt.Sprintf(", %.2f GiB %s", float64(f.bytes)/(1<<30), f.what)
		}
	}
	return text
}

// Process is another process on the GPU, by the PID that the engine sees.
type Process struct {
	PID   int
	Bytes int64
}

const maxOthers = 16

// amount is a number and its unit. Engines mean binary units, however they write them:
// torch's format_size divides by 1024 and wrote MB and GB before 2.1.
const amount = `([0-9][0-9.,]*) ?([KMGT]i?B?|[Bb]ytes?|B)?\b`

var (
	triedText = compile(
		`[Tt]ried to allocate `+amount,                // torch
		`[Tt]rying to allocate `+amount,               // XLA, TensorFlow, ONNX Runtime
		`Out of memory allocating `+amount,            // XLA, cupy
		`Requested +: `+amount,                        // torch, cudaMallocAsync
		`allocating `+amount+` on device`,             // llama.cpp
		`buffer of size `+amount,                      // llama.cpp, ONNX Runtime
		`allocation of size `+amount,                  // llama.cpp, Vulkan
		`[Rr]equested bytes of `+amount,               // ONNX Runtime
		`Requested size was `+amount,                  // TensorRT
		`Requested amount of GPU memory \(`+amount,    // TensorRT
		`byte size `+amount,                           // Triton
		`CUDA (?:calloc|calloc async|malloc) `+amount, // NCCL
		`Failed to allocate request for `+amount,      // XLA
		`Cannot allocate `+amount,                     // Paddle
		`failed to allocate [0-9.]+[KMGT] \(`+amount,  // TensorFlow
		`failed to allocate `+amount+` from device`,   // XLA
		`failed to allocate `+amount,                  // others
		`\(?`+amount+` KV cache is needed`,            // vLLM
		`could not allocate `+amount,                  // others
		`requested `+amount,                           // others
	)
	freeText = compile(
		`of which `+amount+` is free`,         // torch
		amount+` free[;)]`,                    // torch before 2.1
		`Free \(according to CUDA\): `+amount, // torch, cudaMallocAsync
		`available memory is only `+amount,    // Paddle
		`[Aa]vailable memory of `+amount,      // ONNX Runtime
		`available KV cache memory \(`+amount, // vLLM
		`Have: ?`+amount+` free`,              // AUTOMATIC1111
	)
	inUseText = compile(
		`this process has `+amount+` memory in use`, // torch
		amount+` reserved in total by PyTorch`,      // torch before 2.1
		`Currently allocated +: `+amount,            // torch, cudaMallocAsync
		`MPS allocated: `+amount,                    // torch, MPS
		`allocated so far: `+amount,                 // cupy
		amount+` memory has been allocated`,         // Paddle
	)
	capacityText = compile(
		`total capac(?:i)?ty of `+amount, // torch; 2.1 wrote capacty
		amount+` total capacity`,         // torch before 2.1
		`Device limit +: `+amount,        // torch, cudaMallocAsync
	)
	allocatedText = compile(`[Oo]f the allocated memory ` + amount + ` is allocated by PyTorch`)
	idleText      = compile(amount + ` is reserved by PyTorch but unallocated`)
	othersText    = regexp.MustCompile(`Process ([0-9]+) has ` + amount + ` memory in use`)
)

func compile(texts ...string) []*regexp.Regexp {
	list := make([]*regexp.Regexp, len(texts))
	for i, text := range texts {
		list[i] = regexp.MustCompile(text)
	}
	return list
}

// read takes the figures out of the text of an error.
func (r *Report) read(text string) {
	r.Tried, _ = first(triedText, text)
	r.Free, _ = first(freeText, text)
	r.Capacity, _ = first(capacityText, text)
	r.InUse, _ = first(inUseText, text)
	if r.InUse == 0 {
		// In a container torch does not find its own PID in the driver's list, and
		// says only what its allocator has.
		if n, _ := first(allocatedText, text); n > 0 {
			idle, _ := first(idleText, text)
			r.InUse = n + idle
		}
	}
	for _, m := range othersText.FindAllStringSubmatch(text, maxOthers) {
		pid, err := strconv.Atoi(m[1])
		if n := bytesOf(m[2], m[3]); err == nil && n > 0 {
			r.Others = append(r.Others, Process{PID: pid, Bytes: n})
		}
	}
}

// figureEnd is where the first figure of a text ends; 0: it has none.
func figureEnd(text string) int {
	for _, list := range [...][]*regexp.Regexp{triedText, freeText, inUseText} {
		if _, end := first(list, text); end > 0 {
			return end
		}
	}
	return 0
}

// first is the amount of the first of the expressions that finds one, and where it
// ends in the text.
func first(list []*regexp.Regexp, text string) (n int64, end int) {
	for _, e := range list {
		if m := e.FindStringSubmatchIndex(text); m != nil {
			unit := ""
			if m[4] >= 0 {
				unit = text[m[4]:m[5]]
			}
			if n := bytesOf(text[m[2]:m[3]], unit); n > 0 {
				return n, m[1]
			}
		}
	}
	return 0, 0
}

// mostBytes is more than any GPU has. A figure above it is none.
const mostBytes = 1 << 50

// bytesOf reads an amount; zero where it is none.
func bytesOf(number, unit string) int64 {
	number = strings.ReplaceAll(strings.TrimRight(number, ".,"), ",", "")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0
	}
	switch {
	case unit == "" || unit[0] == 'B' || unit[0] == 'b':
	default:
		n *= float64(int64(1) << (10 * (1 + strings.IndexByte("KMGT", unit[0]))))
	}
	if n < 1 || n > mostBytes {
		return 0
	}
	return int64(n)
}
