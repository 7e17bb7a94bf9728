package simulation

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Flux is a home-made image server, as diffusers in a FastAPI app: 34 GiB at
// work, one image at a time, deaf to callers that leave. POST /unload and POST
// /load are its owner's own routes.
func Flux() Kind {
	return Kind{
		Name: "flux", Does: "a home-made image server (diffusers in a FastAPI app)", Model: "flux",
		Weights: 22 * admission.GiB, Load: 8 * time.Second,
		PerRun: 12 * admission.GiB, Concurrency: 1, Parallel: 1,
		Shortest: 17 * time.Second, Longest: 20 * time.Second,
		Traps:  []string{keepsMemory, residue, freesLate, diesOnFree, slowWake},
		Always: []string{ignoresCallers},
		Routes: func(e *Engine, routes *Routes) {
			commonRoutes(e, routes)
			ownerRoutes(e, routes)
			imageRoutes(e, routes)
		},
	}
}

// VQA is a small home-made server that answers questions about images, with the
// same routes of its owner's.
func VQA() Kind {
	return Kind{
		Name: "vqa", Does: "a small home-made server for questions about images", Model: "vqa",
		Weights: 512 * admission.MiB, Load: 2 * time.Second,
		PerRun:   480 * admission.MiB,
		Parallel: 2.5,
		Shortest: time.Second, Longest: 2 * time.Second,
		Aborts: true,
		Traps:  []string{keepsMemory, residue, freesLate, diesOnFree, slowWake, ignoresCallers},
		Routes: func(e *Engine, routes *Routes) {
			commonRoutes(e, routes)
			ownerRoutes(e, routes)
			chatRoutes(e, routes)
			routes.HandleFunc("POST /v1/vqa", func(w http.ResponseWriter, r *http.Request) {
				var a struct {
					Question string `json:"question"`
				}
				if length, ok := e.read(w, r, &a); ok {
					e.whole(w, r, e.models[0], length, func() any { return map[string]string{"answer": said} })
				}
			})
		},
	}
}

// ownerRoutes unload the weights and bring them back. A request brings them
// back too.
func ownerRoutes(e *Engine, routes *Routes) {
	routes.HandleFunc("POST /unload", func(w http.ResponseWriter, r *http.Request) {
		if err := e.free(r.Context(), e.models[0], true); err != nil {
			e.failed(w, err)
			return
		}
		e.freed(w, map[string]string{"status": "unloaded"})
	})
	routes.HandleFunc("POST /load", func(w http.ResponseWriter, r *http.Request) {
		if err := e.bring(r.Context(), e.models[0]); err != nil {
			e.failed(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]string{"status": "loaded"})
	})
}

func imageRoutes(e *Engine, routes *Routes) {
	routes.HandleFunc("POST /v1/images/generations", func(w http.ResponseWriter, r *http.Request) {
		var a struct {
			Prompt string `json:"prompt"`
			N      int    `json:"n"`
		}
		length, ok := e.read(w, r, &a)
		if !ok {
			return
		}
		n := min(max(a.N, 1), 10)
		e.whole(w, r, e.models[0], length, func() any {
			images := make([]any, n)
			for i := range images {
				images[i] = map[string]string{"b64_json": base64.StdEncoding.EncodeToString(picture(a.Prompt, i))}
			}
			return map[string]any{"created": e.clock.Now().Unix(), "data": images}
		})
	})
}

// picture is a PNG whose colour comes from the prompt.
func picture(prompt string, i int) []byte {
	h := fnv.New32a()
	fmt.Fprint(h, prompt, i)
	sum := h.Sum32()
	m := image.NewPaletted(image.Rect(0, 0, 64, 64), color.Palette{color.RGBA{byte(sum), byte(sum >> 8), byte(sum >> 16), 255}})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic("simulation: " + err.Error()) // into memory
	}
	return b.Bytes()
}

// words are what a small model says to everything, a token each, and said is
// all of it.
var (
	words = strings.SplitAfter("A small bird sits on the roof of a red house .", " ")
	said  = strings.Join(words, "")
)
