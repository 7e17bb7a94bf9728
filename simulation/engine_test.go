package simulation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// nap is an engine's wait, which lasts until the test ends it.
type nap struct {
	length time.Duration
	wake   chan struct{}
	over   chan error // how it ended: nil, or its context's error
}

// naps stand in for time: each wait of an engine arrives here.
type naps chan nap

// napping is a clock whose sleeps are naps.
type napping struct {
	WallClock
	naps
}

func (n napping) Sleep(ctx context.Context, d time.Duration) error { return n.sleep(ctx, d) }

func (n naps) sleep(ctx context.Context, d time.Duration) error {
	one := nap{d, make(chan struct{}), make(chan error, 1)}
	n <- one
	var err error
	select {
	case <-one.wake:
	case <-ctx.Done():
		err = ctx.Err()
	}
	one.over <- err
	return err
}

func (n nap) end() { close(n.wake) }

// small is a kind whose figures are easy to add up.
func small(change func(*Kind)) Kind {
	k := VQA()
	k.Weights, k.PerRun = 8, 10
	if change != nil {
		change(&k)
	}
	return k
}

// newServer runs an engine with no waits of its own.
func newServer(t *testing.T, kind Kind, card *Card) (*Engine, string, naps) {
	t.Helper()
	waits := make(naps)
	e := NewEngine(kind, card, Options{Clock: napping{naps: waits}})
	server := httptest.NewServer(e)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
		if m := look(t, card); m.Used != 0 {
			t.Errorf("%d bytes are in use after the engine's end", m.Used)
		}
	})
	return e, server.URL, waits
}

// answered is what a client got.
type answered struct {
	status int
	header http.Header
	body   string
	err    error
}

func post(ctx context.Context, url, body string, header ...string) answered {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answered{err: err}
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answered{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, res.Header, string(text), err}
}

func begin(ctx context.Context, url, body string, header ...string) <-chan answered {
	got := make(chan answered, 1)
	go func() { got <- post(ctx, url, body, header...) }()
	return got
}

func get(t *testing.T, url string) answered {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, res.Header, string(text), err}
}

// loaded ends the waits of an engine that loads its weights.
func loaded(t *testing.T, e *Engine, waits naps) {
	t.Helper()
	done := make(chan error)
	go func() { done <- e.Load(t.Context()) }()
	for {
		select {
		case one := <-waits:
			one.end()
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestWeightsComePieceByPieceAndStay(t *testing.T) {
	card := NewCard(100)
	e, url, waits := newServer(t, small(nil), card)
	done := make(chan error)
	go func() { done <- e.Load(t.Context()) }()
	for i := range admission.Bytes(loadSteps) {
		one := <-waits
		if used := look(t, card).Used; used != i+1 || one.length != 250*time.Millisecond {
			t.Errorf("piece %d: %d bytes, a wait of %v, want %d and 250ms", i, used, one.length, i+1)
		}
		if a := get(t, url+"/health"); a.status != http.StatusServiceUnavailable {
			t.Errorf("/health while loading: %d %s", a.status, a.body)
		}
		one.end()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a := get(t, url+"/health"); a.status != http.StatusOK || !strings.Contains(a.body, "ok") {
		t.Errorf("/health when loaded: %d %s", a.status, a.body)
	}
	if err := e.Load(t.Context()); err != nil || look(t, card).Used != 8 {
		t.Errorf("loaded twice: %v, %+v", err, look(t, card))
	}
	if a := get(t, url+"/v1/models"); !strings.Contains(a.body, `"id":"vqa"`) {
		t.Errorf("/v1/models: %s", a.body)
	}
}

func TestTheFirstRequestLoadsTheWeights(t *testing.T) {
	_, url, waits := newServer(t, small(nil), NewCard(100))
	got := begin(t.Context(), url+"/v1/vqa", `{"question":"?"}`)
	for range loadSteps + 1 {
		(<-waits).end()
	}
	if a := <-got; a.status != http.StatusOK || !strings.Contains(a.body, `"answer":"A small bird`) {
		t.Errorf("got %+v", a)
	}
}

func TestWeightsThatDoNotFitLeaveNothingBehind(t *testing.T) {
	card := NewCard(4)
	e, _, waits := newServer(t, small(nil), card)
	done := make(chan error)
	go func() { done <- e.Load(t.Context()) }()
	for range 4 {
		(<-waits).end()
	}
	full := (*OutOfMemory)(nil)
	if err := <-done; !errors.As(err, &full) {
		t.Errorf("got %v, want out of memory", err)
	}
	if m := look(t, card); m.Used != 0 || m.Peak != 4 {
		t.Errorf("got %+v, want nothing in use", m)
	}
}

func TestAnAllocatorKeepsWhatARunTookUnlessToldOtherwise(t *testing.T) {
	for name, c := range map[string]struct {
		returns      bool
		after, again admission.Bytes
	}{
		"keeps":   {false, 18, 18},
		"returns": {true, 8, 18},
	} {
		t.Run(name, func(t *testing.T) {
			card := NewCard(100)
			e, url, waits := newServer(t, small(func(k *Kind) { k.ReturnsMemory = c.returns }), card)
			loaded(t, e, waits)
			for range 2 {
				got := begin(t.Context(), url+"/v1/vqa", `{}`)
				one := <-waits
				if used := look(t, card).Used; used != c.again {
					t.Errorf("at work: %d, want %d", used, c.again)
				}
				one.end()
				if a := <-got; a.status != http.StatusOK {
					t.Fatalf("got %+v", a)
				}
				if used := look(t, card).Used; used != c.after {
					t.Errorf("at rest: %d, want %d", used, c.after)
				}
			}
		})
	}
}

func TestAFullCardIsAnOutOfMemory500(t *testing.T) {
	card := NewCard(20)
	e, url, waits := newServer(t, small(nil), card)
	loaded(t, e, waits)
	first := begin(t.Context(), url+"/v1/vqa", `{}`)
	one := <-waits
	a := post(t.Context(), url+"/v1/vqa", `{}`)
	var body struct {
		Error struct{ Message, Type string }
	}
	json.Unmarshal([]byte(a.body), &body)
	if a.status != http.StatusInternalServerError || !strings.HasPrefix(body.Error.Message, "CUDA out of memory. Tried to allocate") {
		t.Errorf("got %+v", a)
	}
	if n, over := e.OutOfMemory(), look(t, card).Over; n != 1 || over != 1 {
		t.Errorf("%d answers, %d moments, want one of each", n, over)
	}
	one.end()
	if a := <-first; a.status != http.StatusOK {
		t.Errorf("the run that was there first: %+v", a)
	}
}

func TestFluxGoesOnAloneWhenItsCallerLeaves(t *testing.T) {
	card := NewCard(48 * admission.GiB)
	e, url, waits := newServer(t, Flux(), card)
	loaded(t, e, waits)
	ctx, leave := context.WithCancel(t.Context())
	first := begin(ctx, url+"/v1/images/generations", `{"prompt":"a bird","n":2}`)
	one := <-waits
	if one.length > 20*time.Second || one.length < 16*time.Second {
		t.Errorf("a run of %v, want 17 to 20 s", one.length)
	}
	leave()
	if a := <-first; a.err == nil {
		t.Fatalf("got %+v, want a caller that left", a)
	}
	second := begin(t.Context(), url+"/v1/images/generations", `{"prompt":"a bird","n":2}`)
	select {
	case <-waits:
		t.Fatal("a second run began beside the first")
	case err := <-one.over:
		t.Fatalf("the run ended with its caller: %v", err)
	default:
	}
	one.end()
	if err := <-one.over; err != nil {
		t.Errorf("the run was cut: %v", err)
	}
	(<-waits).end()
	a := <-second
	var body struct {
		Data []struct {
			B64 string `json:"b64_json"`
		}
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body.Data) != 2 {
		t.Fatalf("got %+v, want two images", a)
	}
	picture, err := base64.StdEncoding.DecodeString(body.Data[0].B64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(picture)); err != nil {
		t.Error(err)
	}
	if peak := look(t, card).Peak; peak != 34*admission.GiB {
		t.Errorf("a peak of %v, want 34 GiB: one run at a time", peak)
	}
}

func TestVQAStopsWhenItsCallerLeaves(t *testing.T) {
	card := NewCard(100)
	e, url, waits := newServer(t, small(nil), card)
	loaded(t, e, waits)
	ctx, leave := context.WithCancel(t.Context())
	first := begin(ctx, url+"/v1/vqa", `{}`)
	one := <-waits
	leave()
	if err := <-one.over; err == nil {
		t.Error("the run went on")
	}
	<-first
}

func TestRunsEndWithTheEngine(t *testing.T) {
	e, url, waits := newServer(t, Flux(), NewCard(48*admission.GiB))
	loaded(t, e, waits)
	got := begin(t.Context(), url+"/v1/images/generations", `{}`)
	<-waits
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if a := <-got; a.status != http.StatusServiceUnavailable {
		t.Errorf("got %+v, want 503", a)
	}
	if a := post(t.Context(), url+"/v1/images/generations", `{}`); a.status != http.StatusServiceUnavailable {
		t.Errorf("after the end: %+v, want 503", a)
	}
}

func TestAChatAnswersInOpenAIsShape(t *testing.T) {
	e, url, waits := newServer(t, small(nil), NewCard(100))
	loaded(t, e, waits)
	got := begin(t.Context(), url+"/v1/chat/completions", `{"model":"vqa","messages":[{"role":"user","content":"?"}]}`)
	(<-waits).end()
	var body struct {
		Object  string
		Choices []struct {
			Message      struct{ Role, Content string }
			FinishReason string `json:"finish_reason"`
		}
		Usage struct {
			Total int `json:"total_tokens"`
		}
	}
	a := <-got
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Object != "chat.completion" || len(body.Choices) != 1 ||
		body.Choices[0].Message.Role != "assistant" || body.Choices[0].FinishReason != "stop" || body.Usage.Total == 0 {
		t.Errorf("got %+v", a)
	}
}

func TestAStreamComesTokenByToken(t *testing.T) {
	e, url, waits := newServer(t, small(nil), NewCard(100))
	loaded(t, e, waits)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/chat/completions", strings.NewReader(`{"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	type response struct {
		*http.Response
		error
	}
	got := make(chan response, 1)
	go func() {
		res, err := http.DefaultClient.Do(r)
		got <- response{res, err}
	}()
	(<-waits).end()
	res := <-got
	if res.error != nil {
		t.Fatal(res.error)
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("Content-Type: %s", kind)
	}
	// Each token is here before the engine may go on to the next.
	var said strings.Builder
	lines := bufio.NewScanner(res.Body)
	for i := range words {
		if i > 0 {
			(<-waits).end()
		}
		said.WriteString(nextEvent(t, lines).Choices[0].Delta.Content)
	}
	if got := said.String(); got != strings.Join(words, "") {
		t.Errorf("got %q", got)
	}
	if last := nextEvent(t, lines); last.Choices[0].FinishReason != "stop" {
		t.Errorf("got %+v", last)
	}
	rest := ""
	for lines.Scan() {
		rest += lines.Text()
	}
	if rest != "data: [DONE]" {
		t.Errorf("got %q", rest)
	}
	if took, err := strconv.ParseFloat(res.Trailer.Get(executeHeader), 64); err != nil || took <= 0 {
		t.Errorf("trailer %q: %v", res.Trailer.Get(executeHeader), err)
	}
}

type chunk struct {
	Choices []struct {
		Delta        struct{ Content string }
		FinishReason string `json:"finish_reason"`
	}
}

func nextEvent(t *testing.T, lines *bufio.Scanner) (c chunk) {
	t.Helper()
	if !lines.Scan() {
		t.Fatal("the stream ended")
	}
	text, ok := strings.CutPrefix(lines.Text(), "data: ")
	if err := json.Unmarshal([]byte(text), &c); !ok || err != nil || len(c.Choices) != 1 {
		t.Fatalf("not an event: %q", lines.Text())
	}
	lines.Scan() // the empty line between events
	return c
}

func TestARunTakesAsLongAsItsRequestSays(t *testing.T) {
	e := NewEngine(small(nil), NewCard(100), Options{Speed: 10000})
	defer e.Close()
	server := httptest.NewServer(e)
	defer server.Close()
	a := post(t.Context(), server.URL+"/v1/vqa", `{}`, executeHeader, "12.5")
	if took, err := strconv.ParseFloat(a.header.Get(executeHeader), 64); err != nil || took < 12.5 {
		t.Errorf("took %v, %v, want 12.5 s of the simulated box or more", took, err)
	}
}

func TestTheSameSeedDrawsTheSameTimes(t *testing.T) {
	draw := func(seed uint64) (times []time.Duration) {
		e := NewEngine(VQA(), NewCard(100), Options{Seed: seed})
		r := httptest.NewRequest(http.MethodPost, "/v1/vqa", nil)
		for range 100 {
			d, err := e.length(r)
			if err != nil || d < time.Second || d > 2*time.Second {
				t.Fatalf("got %v, %v, want 1 to 2 s", d, err)
			}
			times = append(times, d)
		}
		return times
	}
	one, same, other := draw(1), draw(1), draw(2)
	differs := false
	for i := range one {
		if one[i] != same[i] {
			t.Fatalf("draw %d: %v and %v", i, one[i], same[i])
		}
		differs = differs || one[i] != other[i]
	}
	if !differs {
		t.Error("two seeds draw the same")
	}
}

func TestRefusesWhatItCannotRead(t *testing.T) {
	_, url, _ := newServer(t, small(nil), NewCard(100))
	for name, c := range map[string]struct{ body, seconds string }{
		"a body that is no JSON": {`{`, ""},
		"a time that is none":    {`{}`, "soon"},
		"a negative time":        {`{}`, "-1"},
		"a time beyond the hour": {`{}`, "3601"},
		"not a number":           {`{}`, "NaN"},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{executeHeader, c.seconds}
			if c.seconds == "" {
				header = nil
			}
			if a := post(t.Context(), url+"/v1/vqa", c.body, header...); a.status != http.StatusBadRequest ||
				!strings.Contains(a.body, "invalid_request_error") {
				t.Errorf("got %+v, want 400", a)
			}
		})
	}
}

func TestEveryKindFitsTheCardThatItIsMadeFor(t *testing.T) {
	names := make(map[string]bool)
	for _, k := range Kinds() {
		if names[k.Name] {
			t.Errorf("%s twice", k.Name)
		}
		names[k.Name] = true
		if k.Weights+k.PerRun > 48*admission.GiB || k.Longest < k.Shortest || k.Routes == nil || k.Model == "" {
			t.Errorf("got %+v", k)
		}
	}
}
