package simulation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Gradio is an app made with Gradio 6 of two functions: /predict draws a text, and
// /caption says what is on an image. A request joins a queue and is answered at
// once; its result is told to each client that listens to its session. It has no
// call that frees memory.
func Gradio() Kind {
	return Kind{
		Name: "gradio", Does: "an app made with Gradio", Model: "sdxl-turbo",
		Weights: 7 * admission.GiB, Load: 6 * time.Second,
		PerRun: 4 * admission.GiB, Concurrency: 1,
		Shortest: 8 * time.Second, Longest: 12 * time.Second,
		Always: []string{answersEarly, ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, _, message string) {
			answer(w, status, map[string]string{"detail": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			g := &gradio{jobs: jobs{Engine: e}, uploads: make(map[string][]byte)}
			g.pageRoutes(routes)
			routes.HandleFunc("POST "+gradioPrefix+"/queue/join", g.join)
			routes.HandleFunc("GET "+gradioPrefix+"/queue/data", g.data)
			routes.HandleFunc("POST "+gradioPrefix+"/call/{function}", g.call)
			routes.HandleFunc("GET "+gradioPrefix+"/call/{function}/{event}", g.told)
			// The newer one, whose body has the parameters by their names.
			routes.HandleFunc("POST "+gradioPrefix+"/call/v2/{function}", g.call)
			routes.HandleFunc("GET "+gradioPrefix+"/call/v2/{function}/{event}", g.told)
			routes.HandleFunc("POST "+gradioPrefix+"/run/{function}", g.direct)
			routes.HandleFunc("POST "+gradioPrefix+"/cancel", g.cancel)
			routes.HandleFunc("GET "+gradioPrefix+"/heartbeat/{session}", g.heartbeat)
			routes.HandleFunc("POST "+gradioPrefix+"/upload", g.upload)
			// A file's path has no segment of its own: /file=/tmp/gradio/….
			routes.HandleFunc("GET "+gradioPrefix+"/{file}", g.file)
			routes.HandleFunc("GET "+gradioPrefix+"/{file}/{path...}", g.file)
			routes.HandleFunc("GET "+gradioPrefix+"/queue/status", func(w http.ResponseWriter, _ *http.Request) {
				pending, _, _ := g.list()
				answer(w, http.StatusOK, map[string]any{"queue_size": len(pending)})
			})
		},
	}
}

const gradioPrefix = "/gradio_api"

type gradio struct {
	jobs

	files   sync.Mutex
	uploads map[string][]byte // guarded by files; by path
}

// gradioAsk is what a job is to know.
type gradioAsk struct {
	session  string // empty: it was called by name, and its own stream tells of it
	function string
	root     string        // the URL that the app was asked at
	dropped  chan struct{} // closed when it has been cancelled, though it may go on
}

// gradioFunctions are the names, by their index.
var gradioFunctions = []string{"predict", "caption"}

func (g *gradio) join(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Data     []json.RawMessage `json:"data"`
		Session  string            `json:"session_hash"`
		Function int               `json:"fn_index"`
	}
	length, ok := g.read(w, r, &a)
	if !ok {
		return
	}
	switch {
	case a.Session == "":
		g.fail(w, http.StatusBadRequest, invalidError, "Session hash not found.")
		return
	case a.Function < 0 || a.Function >= len(gradioFunctions):
		g.fail(w, http.StatusInternalServerError, serverError, "Could not find function with that index.")
		return
	}
	g.enter(w, r, length, a.Session, gradioFunctions[a.Function])
}

// enter queues a job and answers which one.
func (g *gradio) enter(w http.ResponseWriter, r *http.Request, length time.Duration, session, function string) {
	j, err := g.add(r, g.models[0], "", length, &gradioAsk{session, function, root(r), make(chan struct{})})
	if err != nil {
		g.failed(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"event_id": j.id})
}

// root is the URL that the caller sees the app at.
func root(r *http.Request) string {
	scheme := cmp.Or(r.Header.Get("X-Forwarded-Proto"), "http")
	return scheme + "://" + cmp.Or(r.Header.Get("X-Forwarded-Host"), r.Host)
}

// next is the oldest of a session's jobs that no client was told of. Nil: there is none.
func (g *gradio) next(session string) (j *job, ahead, waiting int) {
	pending, running, ended := g.list()
	for _, j := range append(append(ended, running...), pending...) {
		if j.ask.(*gradioAsk).session == session && !closed(j.told) {
			return j, len(running), len(pending)
		}
	}
	return nil, 0, 0
}

// data tells a session what comes of its jobs, one after the other, and ends
// when there are no more. Those that join meanwhile are told of too.
func (g *gradio) data(w http.ResponseWriter, r *http.Request) {
	session := r.FormValue("session_hash")
	j, ahead, waiting := g.next(session)
	if j == nil {
		g.fail(w, http.StatusNotFound, missingError, "Session not found")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	send := func(message string, j *job, more map[string]any) bool {
		body := map[string]any{"msg": message}
		if j != nil {
			body["event_id"] = j.id
		}
		for k, v := range more {
			body[k] = v
		}
		_, err := io.WriteString(w, event(body))
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
	for ; j != nil; j, ahead, waiting = g.next(session) {
		if !send("estimation", j, map[string]any{"rank": ahead, "queue_size": waiting, "rank_eta": j.length.Seconds()}) {
			return
		}
		dropped := j.ask.(*gradioAsk).dropped
		for _, happens := range []chan struct{}{j.begun, j.ended} {
			select {
			case <-happens:
			case <-j.ended:
			case <-dropped:
			case <-r.Context().Done():
				g.leaves(session)
				return
			}
			if happens == j.begun && closed(j.begun) && !send("process_starts", j, map[string]any{"eta": j.length.Seconds()}) {
				return
			}
		}
		if !send("process_completed", j, g.outcome(j)) {
			return
		}
		g.tell(j)
	}
	send("close_stream", nil, nil)
}

// leaves takes those jobs of a session out whose turn has not come, as its stream has gone.
func (g *gradio) leaves(session string) {
	pending, _, _ := g.list()
	for _, j := range pending {
		if j.ask.(*gradioAsk).session == session {
			j.cancel(errRemoved)
			g.tell(j)
		}
	}
}

// outcome is what is told of a job at its end, or when it has been cancelled. An error is
// no status here: the answer has begun long before.
func (g *gradio) outcome(j *job) map[string]any {
	if closed(j.ask.(*gradioAsk).dropped) {
		return map[string]any{"success": true, "output": map[string]any{}}
	}
	if j.err != nil {
		_, message := g.fault(j.err)
		return map[string]any{"success": false, "title": "Error", "output": map[string]any{"error": message}}
	}
	return map[string]any{"success": true, "title": nil, "output": map[string]any{
		"data": made(j), "is_generating": false, "duration": j.took.Seconds(), "average_duration": j.length.Seconds(),
		"render_config": nil, "changed_state_ids": []any{},
	}}
}

// made is what a job's function returns.
func made(j *job) []any {
	a := j.ask.(*gradioAsk)
	if a.function == "caption" {
		return []any{said}
	}
	name := "/tmp/gradio/" + j.id + "/image.png"
	return []any{map[string]any{
		"path": name, "url": a.root + gradioPrefix + "/file=" + name, "size": nil, "orig_name": "image.png", "mime_type": nil,
		"is_stream": false, "meta": map[string]string{"_type": "gradio.FileData"},
	}}
}

// byName is a call of a function by its name, whose data is read and not looked at. After
// false it has answered.
func (g *gradio) byName(w http.ResponseWriter, r *http.Request) (length time.Duration, ok bool) {
	var a struct {
		Data []json.RawMessage `json:"data"`
	}
	if length, ok = g.read(w, r, &a); !ok {
		return 0, false
	}
	for _, name := range gradioFunctions {
		if name == r.PathValue("function") {
			return length, true
		}
	}
	g.fail(w, http.StatusNotFound, missingError, "Not Found")
	return 0, false
}

func (g *gradio) call(w http.ResponseWriter, r *http.Request) {
	if length, ok := g.byName(w, r); ok {
		g.enter(w, r, length, "", r.PathValue("function"))
	}
}

// of is the job of that id. Nil: there is none.
func (g *gradio) of(id string) *job {
	pending, running, ended := g.list()
	for _, j := range append(append(ended, running...), pending...) {
		if j.id == id {
			return j
		}
	}
	return nil
}

// told is the stream of a job that was called by name.
func (g *gradio) told(w http.ResponseWriter, r *http.Request) {
	j := g.of(r.PathValue("event"))
	if j == nil || closed(j.told) {
		g.fail(w, http.StatusNotFound, missingError, "Event not found")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	select {
	case <-j.ended:
	case <-r.Context().Done():
		return
	}
	g.tell(j)
	if j.err != nil {
		fmt.Fprint(w, "event: error\ndata: null\n\n")
		return
	}
	fmt.Fprintf(w, "event: complete\ndata: %s\n\n", encoded(made(j)))
}

// direct answers when the work is done, outside the queue's streams.
func (g *gradio) direct(w http.ResponseWriter, r *http.Request) {
	length, ok := g.byName(w, r)
	if !ok {
		return
	}
	j, err := g.add(r, g.models[0], "", length, &gradioAsk{"", r.PathValue("function"), root(r), make(chan struct{})})
	if err != nil {
		g.failed(w, err)
		return
	}
	select {
	case <-j.ended:
	case <-r.Context().Done():
		return
	}
	g.tell(j)
	if j.err != nil {
		_, message := g.fault(j.err)
		answer(w, http.StatusInternalServerError, map[string]string{"error": message})
		return
	}
	answer(w, http.StatusOK, g.outcome(j)["output"])
}

// cancel takes a job out whose turn has not come. One that runs goes on, and nothing more
// is told of it.
func (g *gradio) cancel(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Event string `json:"event_id"`
	}
	if _, ok := g.read(w, r, &a); !ok {
		return
	}
	if j := g.of(a.Event); j != nil {
		g.jobs.mu.Lock()
		dropped := j.ask.(*gradioAsk).dropped
		if !closed(dropped) && !closed(j.ended) {
			close(dropped)
		}
		g.jobs.mu.Unlock()
		if !closed(j.begun) {
			j.cancel(errRemoved)
		}
	}
	answer(w, http.StatusOK, map[string]bool{"success": true})
}

// gradioBeat is how often a session is told that the app lives.
const gradioBeat = 15 * time.Second

// heartbeat is open as long as the session is.
func (g *gradio) heartbeat(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(g.life, stop)()
	for {
		if _, err := io.WriteString(w, "data: ALIVE\n\n"); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		if g.clock.Sleep(ctx, gradioBeat) != nil {
			return
		}
	}
}

// maxUploads bounds how many files are kept.
const maxUploads = 100

func (g *gradio) upload(w http.ResponseWriter, r *http.Request) {
	form, _, ok := g.form(w, r)
	if !ok {
		return
	}
	paths := []string{}
	for _, head := range form.File["files"] {
		f, err := head.Open()
		if err != nil {
			g.fail(w, http.StatusBadRequest, invalidError, err.Error())
			return
		}
		body, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			g.fail(w, http.StatusBadRequest, invalidError, err.Error())
			return
		}
		name := "/tmp/gradio/" + newID() + "/" + path.Base(path.Clean("/"+head.Filename))
		g.files.Lock()
		if len(g.uploads) >= maxUploads {
			clear(g.uploads)
		}
		g.uploads[name] = body
		g.files.Unlock()
		paths = append(paths, name)
	}
	answer(w, http.StatusOK, paths)
}

// file answers what a job made or what was uploaded.
func (g *gradio) file(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(strings.TrimPrefix(r.URL.Path, gradioPrefix+"/"), "file=")
	if !ok {
		g.fail(w, http.StatusNotFound, missingError, "Not Found")
		return
	}
	g.files.Lock()
	body, uploaded := g.uploads[name]
	g.files.Unlock()
	id := path.Base(path.Dir(name))
	switch j := g.of(id); {
	case uploaded:
		w.Header().Set("Content-Type", http.DetectContentType(body))
		w.Write(body)
	case j != nil && closed(j.ended) && j.err == nil:
		w.Header().Set("Content-Type", "image/png")
		w.Write(picture(id, 0))
	default:
		g.fail(w, http.StatusForbidden, missingError, "File not allowed: "+name+".")
	}
}
