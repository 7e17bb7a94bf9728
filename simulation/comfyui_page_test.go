package simulation

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// serve puts an engine behind a real server. Nothing takes time there.
func serve(t *testing.T, kind Kind) (url string) {
	t.Helper()
	e := NewEngine(kind, NewCard(testCard), Options{Speed: 1e6})
	web := httptest.NewServer(e)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		web.Close()
	})
	return web.URL
}

func TestASocketIsToldOfItsPromptFromTheQueueToTheImage(t *testing.T) {
	url := serve(t, ComfyUI())
	ws, err := websocket.Dial(strings.Replace(url, "http", "ws", 1)+"/ws?clientId=me", "", url)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	type message struct {
		Type string
		Data struct {
			SID    string
			Prompt string `json:"prompt_id"`
			Node   *string
			Value  int
			Output struct{ Images []struct{ Filename string } }
		}
	}
	var m message
	if err := websocket.JSON.Receive(ws, &m); err != nil || m.Type != "status" || m.Data.SID != "me" {
		t.Fatalf("first it is told %+v, %v", m, err)
	}
	if err := websocket.JSON.Send(ws, map[string]any{"type": "feature_flags", "data": map[string]any{}}); err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(url+"/prompt", "application/json", strings.NewReader(`{"client_id":"me","prompt_id":"one","prompt":{"3":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	var told []string
	for step := 0; ; {
		m = message{}
		if err := websocket.JSON.Receive(ws, &m); err != nil {
			t.Fatalf("after %q: %v", told, err)
		}
		switch {
		case m.Type == "status", m.Type == "feature_flags":
			continue
		case m.Data.Prompt != "one":
			t.Errorf("%s is of %q", m.Type, m.Data.Prompt)
		case m.Type == "progress":
			if step++; m.Data.Value != step {
				t.Errorf("step %d where %d was due", m.Data.Value, step)
			}
			if step > 1 {
				continue
			}
		case m.Type == "executed" && m.Data.Output.Images[0].Filename != "one.png":
			t.Errorf("it made %+v", m.Data.Output)
		}
		told = append(told, m.Type)
		if m.Type == "executing" && m.Data.Node == nil {
			break
		}
	}
	want := []string{"execution_start", "execution_cached", "executing", "progress", "executing", "executed", "execution_success", "executing"}
	if !slices.Equal(told, want) {
		t.Errorf("it is told %q, want %q", told, want)
	}
	if res, err = http.Get(url + "/view?filename=one.png"); err != nil || res.Header.Get("Content-Type") != "image/png" {
		t.Fatalf("its image is %v, %v", res, err)
	}
	res.Body.Close()
}

func TestComfyUIRefusesAPageOfAnotherOriginOnLoopback(t *testing.T) {
	url := serve(t, ComfyUI())
	for origin, want := range map[string]int{"": 200, url: 200, "http://127.0.0.1:1": 403, "http://example.com": 403} {
		req, err := http.NewRequest("GET", url+"/api/queue", nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("a page of %q gets %s, want %d", origin, res.Status, want)
		}
	}
}
