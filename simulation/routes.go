package simulation

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxBody bounds a request's body: images come as base64.
const maxBody = 64 << 20

// commonRoutes are those of everything that calls itself compatible with
// OpenAI's.
func commonRoutes(e *Engine, routes *Routes) {
	routes.HandleFunc("GET /health", e.health)
	modelRoutes(e, routes, nil)
}

// health says whether it has come up. That its weights have been unloaded since
// does not make it ill.
func (e *Engine) health(w http.ResponseWriter, _ *http.Request) {
	if e.up.Load() {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	} else {
		answer(w, http.StatusServiceUnavailable, map[string]string{"status": "loading"})
	}
}

func encoded(body any) []byte {
	text, err := json.Marshal(body)
	if err != nil {
		panic("simulation: " + err.Error()) // our own maps
	}
	return text
}

func answer(w http.ResponseWriter, status int, body any) {
	text := encoded(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	w.Write(text)
}

// freed answers a free that went well. Nil: with no body.
func (e *Engine) freed(w http.ResponseWriter, body any) {
	if body == nil {
		w.WriteHeader(http.StatusOK)
	} else {
		answer(w, http.StatusOK, body)
	}
	if e.traps[diesOnFree] {
		// The answer is out before the process ends.
		http.NewResponseController(w).Flush()
		e.die()
	}
}

// fail answers an error in the kind's shape, or as OpenAI's servers do.
func (e *Engine) fail(w http.ResponseWriter, status int, kind, message string) {
	if e.kind.Fail != nil {
		e.kind.Fail(w, status, kind, message)
		return
	}
	answer(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": nil}})
}

// fault is what an answer says of an error.
func (e *Engine) fault(err error) (status int, message string) {
	full := (*OutOfMemory)(nil)
	switch {
	case !errors.As(err, &full):
		return http.StatusServiceUnavailable, err.Error()
	case e.kind.Full != nil:
		return http.StatusInternalServerError, e.kind.Full(full)
	default:
		return http.StatusInternalServerError, full.Error()
	}
}

// failed answers what came to nothing. It is not read where the caller has
// left.
func (e *Engine) failed(w http.ResponseWriter, err error) {
	status, message := e.fault(err)
	e.fail(w, status, serverError, message)
}

const (
	serverError  = "server_error"
	invalidError = "invalid_request_error"
	missingError = "not_found_error"
)

// body takes a request's body whole, because net/http does not notice that a
// caller left while there is something to read. After false it has answered.
func (e *Engine) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		e.fail(w, http.StatusBadRequest, invalidError, err.Error())
	}
	return body, err == nil
}

// read decodes a request's body and says how long its run shall take. After
// false it has answered.
func (e *Engine) read(w http.ResponseWriter, r *http.Request, into any) (length time.Duration, ok bool) {
	body, ok := e.body(w, r)
	if !ok {
		return 0, false
	}
	err := json.Unmarshal(body, into)
	if err == nil {
		length, err = e.length(r)
	}
	if err != nil {
		e.fail(w, http.StatusBadRequest, invalidError, err.Error())
	}
	return length, err == nil
}

// named is the model that a request asks for. After false it has answered.
func (e *Engine) named(w http.ResponseWriter, name string) (*model, bool) {
	m := e.model(name)
	if m == nil {
		e.fail(w, http.StatusNotFound, missingError, "model '"+name+"' not found")
	}
	return m, m != nil
}

// readNamed is read and named, for a body that has the model's name. name points at the
// field of into that takes it.
func (e *Engine) readNamed(w http.ResponseWriter, r *http.Request, into any, name *string) (m *model, length time.Duration, ok bool) {
	if length, ok = e.read(w, r, into); ok {
		m, ok = e.named(w, *name)
	}
	return m, length, ok
}

func setTook(h http.Header, key string, took time.Duration) {
	h.Set(key, strconv.FormatFloat(took.Seconds(), 'f', -1, 64))
}

// whole runs a request and answers when all is done.
func (e *Engine) whole(w http.ResponseWriter, r *http.Request, m *model, length time.Duration, body func() any) {
	took, err := e.run(e.caller(r), m, length, 1, nil)
	if err != nil {
		e.failed(w, err)
		return
	}
	setTook(w.Header(), executeHeader, took)
	answer(w, http.StatusOK, body())
}

// feed is an answer that comes word by word. Each of its texts is sent as it
// is.
type feed struct {
	kind string // the media type
	word func(i int) string
	// end follows the last word, or the one at which a run was cut short.
	end func(reason string, took time.Duration) string
	// broken tells of an error after the first word. Nil: the connection is cut.
	broken func(error) string
}

// stream runs a request and answers word by word. What the run took is known at
// the end alone and comes as a trailer.
func (e *Engine) stream(w http.ResponseWriter, r *http.Request, m *model, length time.Duration, f feed) {
	begun := false
	send := func(text string) error {
		if !begun {
			w.Header().Set("Content-Type", f.kind)
			w.Header().Set("Cache-Control", "no-cache")
			begun = true
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	listening := true // a run that does not abort goes on when no client reads
	took, err := e.run(e.caller(r), m, length, len(words), func(i int) error {
		if !listening {
			return nil
		}
		err := send(f.word(i))
		if err != nil && !e.aborts() {
			listening, err = false, nil
		}
		return err
	})
	reason := "stop"
	if errors.Is(err, errCut) && e.kind.Cut != "" {
		reason, err = e.kind.Cut, nil
	}
	switch {
	case err == nil:
		if send(f.end(reason, took)) == nil {
			setTook(w.Header(), http.TrailerPrefix+executeHeader, took)
		}
	case !begun:
		e.failed(w, err)
	case f.broken != nil:
		send(f.broken(err))
	default:
		// The status is out: a cut connection alone says that this is no end.
		panic(http.ErrAbortHandler)
	}
}
