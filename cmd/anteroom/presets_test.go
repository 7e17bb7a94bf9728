package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/websocket"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// What A1111's page asks for goes by WebSockets, each of which holds its memory from
// before it is opened until the page has its image.
func TestThePageOfA1111AsksAdmission(t *testing.T) {
	e := simulation.NewEngine(simulation.A1111(), simulation.NewCard(24*admission.GiB), simulation.Options{Speed: 1000})
	t.Cleanup(func() { e.Close() })
	engine := httptest.NewServer(e)
	t.Cleanup(engine.Close)
	file := write(t, `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
state: {file: ""}
gpus: {gpu0: {memory: 24GiB, source: declared}}
classes: {light: {slots: 2, vram: 9GiB}, heavy: {vram: 9GiB}}
backends: {studio: {url: "`+engine.URL+`", preset: a1111, resident: 4GiB, returns_memory: true}}
`)
	cfg, err := configs.Load(configs.Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	s, err := startServer(t.Context(), cfg, io.Discard, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.forceStop)
	booked := func() admission.Bytes { return s.controller.Snapshot().GPUs[0].Booked }
	// join opens a socket of the page and answers it until its function begins.
	join := func(function int) *websocket.Conn {
		ws, err := websocket.Dial(strings.Replace(s.URL(), "http", "ws", 1)+"/queue/join", "", s.URL())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"send_hash", "estimation", "send_data"} {
			if got := receive(t, ws); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			if want != "estimation" {
				websocket.JSON.Send(ws, map[string]any{"fn_index": function, "session_hash": "me", "data": []any{"a bird"}})
			}
		}
		return ws
	}
	first := join(0)
	if got := booked(); got != 13*admission.GiB {
		t.Errorf("with an image under way %v are booked, want 9GiB beside the weights", got)
	}
	// The button that ends it is asked for the same way, and has a slot of its own.
	second := join(1)
	if got := booked(); got != 22*admission.GiB {
		t.Errorf("with two things under way %v are booked, want 18GiB beside the weights", got)
	}
	for _, ws := range []*websocket.Conn{second, first} {
		for _, want := range []string{"process_starts", "process_completed"} {
			if got := receive(t, ws); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		// It is over for Anteroom when the page sees its end.
		if _, err := ws.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
	for len(s.controller.Running()) > 0 {
		runtime.Gosched()
	}
	if got := booked(); got != 4*admission.GiB {
		t.Errorf("%v are booked at the end, want the weights", got)
	}
}

func receive(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	var m struct{ Msg string }
	if err := websocket.JSON.Receive(ws, &m); err != nil {
		return fmt.Sprint(err)
	}
	return m.Msg
}

// Servers of speech that take a call for it are unloaded, and have their model again at
// the next request.
func TestServersOfSpeechAreUnloaded(t *testing.T) {
	for _, c := range []struct {
		preset, path, kind, body string
		engine                   simulation.Kind
	}{
		{"whisper", "/v1/audio/transcriptions", "multipart/form-data; boundary=B",
			"--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nSystran/faster-whisper-small\r\n" +
				"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nsound\r\n--B--\r\n", simulation.Whisper()},
		{"kokoro", "/v1/audio/speech", "application/json", `{"model":"kokoro","input":"A bird.","voice":"af_heart"}`, simulation.TTS()},
	} {
		t.Run(c.preset, func(t *testing.T) {
			card := simulation.NewCard(24 * admission.GiB)
			e := simulation.NewEngine(c.engine, card, simulation.Options{Speed: 1000})
			t.Cleanup(func() { e.Close() })
			server := httptest.NewServer(e)
			t.Cleanup(server.Close)
			cfg, err := configs.Load(configs.Options{File: write(t, `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
state: {file: ""}
gpus: {gpu0: {memory: 24GiB, source: declared}}
classes: {light: {slots: 2, vram: 1GiB}}
backends: {speech: {url: "`+server.URL+`", preset: `+c.preset+`, resident: 4GiB, reclaim: {preset: `+c.preset+`}}}
`)})
			if err != nil {
				t.Fatal(err)
			}
			s, err := startServer(t.Context(), cfg, io.Discard, nil, 1)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.forceStop)
			ask := func() {
				res, err := http.Post(s.URL()+c.path, c.kind, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
					t.Fatalf("%d: %.300s", res.StatusCode, text)
				}
			}
			ask()
			if m, err := card.Memory(); err != nil || m.Used == 0 {
				t.Fatalf("%+v, %v: want the model on the card", m, err)
			}
			if code, stdout, stderr := anteroom("unload", "--admin", s.AdminURL(), "speech"); code != 0 {
				t.Fatalf("%d, %s, %s", code, stdout, stderr)
			}
			for m, err := card.Memory(); m.Used > 0; m, err = card.Memory() {
				if err != nil {
					t.Fatal(err)
				}
				runtime.Gosched()
			}
			ask()
		})
	}
}
