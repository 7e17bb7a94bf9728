package simulation

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Whisper is Speaches, which faster-whisper-server was called before. A model is loaded by
// its first request, and unloaded when it has not been asked for in 5 minutes.
func Whisper() Kind {
	return Kind{
		Name: "whisper", Does: "Speaches, formerly faster-whisper-server", Model: "Systran/faster-whisper-large-v3", Owner: "Systran",
		Weights: 3 * admission.GiB, Load: 3 * time.Second, PerRun: admission.GiB,
		Others: []Model{{Name: "Systran/faster-whisper-small", Weights: 512 * admission.MiB, Load: time.Second, PerRun: 512 * admission.MiB}},
		Lazy:   true, Concurrency: 1,
		Shortest: time.Second, Longest: 4 * time.Second,
		Full:   says("CUDA failed with error out of memory"),
		Traps:  []string{keepsMemory, residue, freesLate, slowWake},
		Always: []string{ignoresCallers, perModel, refusesBusy},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			switch {
			case kind == serverError && status == http.StatusInternalServerError:
				answer(w, status, map[string]string{"detail": "Internal server error", "error": message})
			default:
				failFastAPI(w, status, kind, message)
			}
		},
		Routes: func(e *Engine, routes *Routes) {
			plainHealth(e, routes, "/health", "OK")
			more := func(*model) map[string]any {
				return map[string]any{"language": []string{"en", "de"}, "task": "automatic-speech-recognition"}
			}
			modelRoutes(e, routes, more)
			modelRoute(e, routes, more)
			openAPI(e, routes, "/openapi.json", "Speaches", "0.8.3")
			s := speaches{e}
			routes.HandleFunc("POST /v1/audio/transcriptions", func(w http.ResponseWriter, r *http.Request) { s.hear(w, r, "transcribe") })
			routes.HandleFunc("POST /v1/audio/translations", func(w http.ResponseWriter, r *http.Request) { s.hear(w, r, "translate") })
			routes.HandleFunc("GET /api/ps", s.ps)
			routes.HandleFunc("POST /api/ps/{model...}", s.loadByHand)
			routes.HandleFunc("DELETE /api/ps/{model...}", s.unload)
		},
	}
}

// failFastAPI answers an error as FastAPI does.
func failFastAPI(w http.ResponseWriter, status int, kind, message string) {
	if kind == invalidError && status == http.StatusBadRequest {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"detail": []any{
			map[string]any{"type": "value_error", "loc": []string{"body"}, "msg": message, "input": nil},
		}})
		return
	}
	answer(w, status, map[string]string{"detail": message})
}

type speaches struct{ *Engine }

// whisperKeep is how long a model stays without a request.
const whisperKeep = keepAlive(5 * time.Minute)

func (s speaches) hear(w http.ResponseWriter, r *http.Request, task string) {
	form, length, ok := s.form(w, r)
	if !ok {
		return
	}
	file, ok := s.file(w, form, "file")
	if !ok {
		return
	}
	m, ok := s.exact(w, field(form, "model"))
	if !ok {
		return
	}
	defer func() {
		// An engine that has ended keeps nothing, and needs no timer.
		_ = ollama(s).keep(m, whisperKeep)
	}()
	if field(form, "stream") == "true" {
		s.stream(w, r, m, length, feed{
			kind: "text/event-stream",
			word: func(i int) string { return event(map[string]string{"text": words[i]}) },
			end:  func(string, time.Duration) string { return "" },
		})
		return
	}
	took, err := s.run(s.caller(r), m, length, 1, nil)
	if err != nil {
		s.failed(w, err)
		return
	}
	setTook(w.Header(), executeHeader, took)
	transcript(w, task, lasts(len(file)), field(form, "response_format"))
}

// file is what a form's file holds. After false it has answered.
func (e *Engine) file(w http.ResponseWriter, form *multipart.Form, name string) ([]byte, bool) {
	var head *multipart.FileHeader
	if f := form.File[name]; len(f) > 0 {
		head = f[0]
	}
	if head == nil {
		e.fail(w, http.StatusBadRequest, invalidError, "no '"+name+"' field in the request")
		return nil, false
	}
	f, err := head.Open()
	if err != nil {
		e.fail(w, http.StatusBadRequest, invalidError, err.Error())
		return nil, false
	}
	defer f.Close()
	body, err := io.ReadAll(f)
	if err != nil {
		e.fail(w, http.StatusBadRequest, invalidError, err.Error())
	}
	return body, err == nil
}

// lasts is how many seconds that many bytes of 16 bit mono PCM at 16 kHz sound.
func lasts(size int) float64 { return float64(size) / 32000 }

// transcript answers what was said in a recording of that many seconds.
func transcript(w http.ResponseWriter, task string, long float64, format string) {
	stamp := func(comma string) string {
		return fmt.Sprintf("00:00:00%s000 --> 00:%02d:%02d%s%03d", comma, int(long)/60, int(long)%60, comma, int(long*1000)%1000)
	}
	switch format {
	case "text":
		text(w, http.StatusOK, said)
	case "srt":
		text(w, http.StatusOK, "1\n"+stamp(",")+"\n"+said+"\n\n")
	case "vtt":
		w.Header().Set("Content-Type", "text/vtt")
		fmt.Fprint(w, "WEBVTT\n\n"+stamp(".")+"\n"+said+"\n\n")
	case "verbose_json":
		answer(w, http.StatusOK, map[string]any{
			"task": task, "language": "en", "duration": long, "text": said, "words": nil,
			"segments": []any{map[string]any{
				"id": 0, "seek": 0, "start": 0.0, "end": long, "text": said, "tokens": []int{}, "temperature": 0.0,
				"avg_logprob": -0.25, "compression_ratio": 1.0, "no_speech_prob": 0.01, "words": nil,
			}},
		})
	default:
		answer(w, http.StatusOK, map[string]string{"text": said})
	}
}

func (s speaches) ps(w http.ResponseWriter, _ *http.Request) {
	names := []string{}
	for _, m := range s.models {
		if m.ready.Load() {
			names = append(names, m.Name)
		}
	}
	answer(w, http.StatusOK, map[string]any{"models": names})
}

func (s speaches) loadByHand(w http.ResponseWriter, r *http.Request) {
	m, ok := s.exact(w, r.PathValue("model"))
	switch {
	case !ok:
		return
	case m.ready.Load():
		text(w, http.StatusConflict, "Model already loaded")
		return
	}
	if err := s.bring(r.Context(), m); err != nil {
		s.failed(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// unload refuses while the model is in use.
func (s speaches) unload(w http.ResponseWriter, r *http.Request) {
	m, ok := s.exact(w, r.PathValue("model"))
	switch {
	case !ok:
		return
	case !m.ready.Load():
		text(w, http.StatusNotFound, "Model not found")
		return
	case s.busy(m):
		text(w, http.StatusConflict, "Model "+m.Name+" is still in use. Cannot unload it.")
		return
	}
	if err := s.free(r.Context(), m, false); err != nil {
		s.failed(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// WhisperCPP is the server among whisper.cpp's examples: one recording at a time, and no
// call that frees memory.
func WhisperCPP() Kind {
	return Kind{
		Name: "whisper-cpp", Does: "whisper.cpp's server", Model: "models/ggml-large-v3.bin",
		Weights: 3 * admission.GiB, Load: 2 * time.Second, PerRun: 512 * admission.MiB, Concurrency: 1,
		Shortest: time.Second, Longest: 4 * time.Second,
		// Why it failed is in its log alone.
		Full:   says("failed to process audio"),
		Aborts: true,
		Traps:  []string{ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, _, message string) {
			answer(w, status, map[string]string{"error": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
				page(w, "Whisper.cpp Server", "POST a recording to /inference.")
			})
			routes.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
				if e.up.Load() && len(e.models[0].loading) == 0 {
					answer(w, http.StatusOK, map[string]string{"status": "ok"})
				} else {
					answer(w, http.StatusServiceUnavailable, map[string]string{"status": "loading model"})
				}
			})
			routes.HandleFunc("POST /inference", func(w http.ResponseWriter, r *http.Request) { inference(e, w, r) })
			routes.HandleFunc("POST /load", func(w http.ResponseWriter, r *http.Request) { otherWeights(e, w, r) })
		},
	}
}

func inference(e *Engine, w http.ResponseWriter, r *http.Request) {
	form, length, ok := e.form(w, r)
	if !ok {
		return
	}
	file, ok := e.file(w, form, "file")
	if !ok {
		return
	}
	took, err := e.run(e.caller(r), e.models[0], length, 1, nil)
	if err != nil {
		e.failed(w, err)
		return
	}
	setTook(w.Header(), executeHeader, took)
	transcript(w, "transcribe", lasts(len(file)), field(form, "response_format"))
}

// otherWeights unloads the weights and loads those of a file, which are as large.
func otherWeights(e *Engine, w http.ResponseWriter, r *http.Request) {
	form, _, ok := e.form(w, r)
	if !ok {
		return
	}
	name := field(form, "model")
	switch {
	case name == "":
		e.fail(w, http.StatusBadRequest, invalidError, "no 'model' field in the request")
		return
	case !strings.HasSuffix(name, ".bin"):
		e.fail(w, http.StatusBadRequest, invalidError, "model not found!")
		return
	}
	if err := e.free(r.Context(), e.models[0], true); err != nil {
		e.failed(w, err)
		return
	}
	if err := e.bring(r.Context(), e.models[0]); err != nil {
		e.failed(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/text")
	fmt.Fprint(w, "Load was successful!")
}

// TTS is Kokoro-FastAPI, which speaks as OpenAI's servers do. Its call that frees memory
// has to be allowed when it is started.
func TTS() Kind {
	return Kind{
		Name: "tts", Does: "Kokoro-FastAPI, text to speech, with ALLOW_DEV_UNLOAD", Model: "kokoro", Owner: "kokoro",
		Weights: admission.GiB, Load: 2 * time.Second, PerRun: admission.GiB, Concurrency: 1,
		Shortest: time.Second, Longest: 2 * time.Second,
		Aborts: true,
		Traps:  []string{keepsMemory, residue, freesLate, slowWake, ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			if kind == serverError {
				kind = "processing_error"
			}
			answer(w, status, map[string]any{"detail": map[string]string{"error": kind, "message": message, "type": kind}})
		},
		Routes: func(e *Engine, routes *Routes) {
			routes.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
				if e.up.Load() {
					answer(w, http.StatusOK, map[string]string{"status": "healthy"})
				} else {
					e.health(w, r)
				}
			})
			modelRoutes(e, routes, nil)
			modelRoute(e, routes, nil)
			openAPI(e, routes, "/openapi.json", "Kokoro TTS API", "0.3.0")
			routes.HandleFunc("GET /v1/audio/voices", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]any{"voices": []string{"af_heart", "am_adam", "bf_emma"}})
			})
			routes.HandleFunc("POST /v1/audio/speech", func(w http.ResponseWriter, r *http.Request) { speech(e, w, r) })
			routes.HandleFunc("POST /dev/unload", func(w http.ResponseWriter, r *http.Request) {
				if err := e.free(r.Context(), e.models[0], true); err != nil {
					e.failed(w, err)
					return
				}
				e.freed(w, map[string]string{"status": "unloaded"})
			})
		},
	}
}

// speech answers silence that lasts as long as a person would speak.
func speech(e *Engine, w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string  `json:"model"`
		Input  string  `json:"input"`
		Voice  string  `json:"voice"`
		Format string  `json:"response_format"`
		Speed  float64 `json:"speed"`
	}
	length, ok := e.read(w, r, &a)
	if !ok {
		return
	}
	const rate, letters = 24000, 15 // samples and letters a second
	long := time.Duration(len(a.Input)) * time.Second / letters
	samples := int(long.Seconds() * rate)
	f := feed{end: func(string, time.Duration) string { return "" }}
	part := func(all, i int) int { return all*(i+1)/len(words) - all*i/len(words) }
	switch a.Format {
	case "pcm", "wav":
		f.kind = "audio/" + a.Format
		f.word = func(i int) string {
			sound := strings.Repeat("\x00\x00", part(samples, i))
			if i == 0 && a.Format == "wav" {
				sound = wavHead(samples, rate) + sound
			}
			return sound
		}
	case "", "mp3":
		f.kind = "audio/mpeg"
		frames := int(long.Seconds()*44100)/1152 + len(words)
		f.word = func(i int) string { return strings.Repeat(silentFrame, part(frames, i)) }
	default:
		e.fail(w, http.StatusBadRequest, invalidError, "response_format "+a.Format+": the simulation has mp3, wav and pcm")
		return
	}
	e.stream(w, r, e.models[0], length, f)
}

// silentFrame is a frame of MPEG 1 layer III, 128 kbit/s at 44.1 kHz, of silence.
var silentFrame = "\xff\xfb\x90\x00" + strings.Repeat("\x00", 413)

// wavHead is the head of a file of 16 bit mono.
func wavHead(samples, rate int) string {
	var b bytes.Buffer
	size := uint32(samples * 2)
	b.WriteString("RIFF")
	binary.Write(&b, binary.LittleEndian, 36+size)
	b.WriteString("WAVEfmt ")
	for _, v := range []any{uint32(16), uint16(1), uint16(1), uint32(rate), uint32(rate * 2), uint16(2), uint16(16)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	b.WriteString("data")
	binary.Write(&b, binary.LittleEndian, size)
	return b.String()
}
