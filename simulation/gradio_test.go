package simulation

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// joins queues a job of a session and returns its event.
func (b *bubble) joins(session string) string {
	b.Helper()
	var a struct {
		Event string `json:"event_id"`
	}
	r := b.do(call{"POST", "/gradio_api/queue/join", `{"data":["?"],"fn_index":0,"session_hash":"` + session + `"}`})
	if err := json.Unmarshal([]byte(r.body), &a); err != nil || a.Event == "" {
		b.Fatalf("it joins with %+v", r)
	}
	return a.Event
}

// Gradio's client opens no second stream while it has one.
func TestAStreamTellsOfWhatJoinsWhileItIsOpen(t *testing.T) {
	inBubble(t, Gradio(), testCard, nil, func(b *bubble) {
		b.load()
		first := b.joins("s")
		stream := b.begin(b.Context(), call{"GET", "/gradio_api/queue/data?session_hash=s", ""})
		synctest.Wait()
		second := b.joins("s")
		r := <-stream
		for _, event := range []string{first, second} {
			if !strings.Contains(r.body, `"event_id":"`+event+`","msg":"process_completed"`) {
				t.Errorf("nothing of the end of %s in %s", event, r.body)
			}
		}
		if !strings.HasSuffix(r.body, `data: {"msg":"close_stream"}`+"\n\n") {
			t.Errorf("it ends with %s", r.body[max(0, len(r.body)-100):])
		}
	})
}

func TestAStreamThatGoesTakesWhatWaitsWithIt(t *testing.T) {
	inBubble(t, Gradio(), testCard, nil, func(b *bubble) {
		b.load()
		b.joins("s")
		b.joins("s")
		b.joins("other")
		ctx, leave := context.WithCancel(b.Context())
		stream := b.begin(ctx, call{"GET", "/gradio_api/queue/data?session_hash=s", ""})
		synctest.Wait()
		leave()
		<-stream
		synctest.Wait()
		if r := b.do(call{"GET", "/gradio_api/queue/status", ""}); r.body != `{"queue_size":1}` {
			t.Errorf("waiting: %s, want that of the other session", r.body)
		}
		r := b.do(call{"GET", "/gradio_api/queue/data?session_hash=s", ""})
		if n := strings.Count(r.body, "process_completed"); n != 1 {
			t.Errorf("%d jobs of the session have ended, want the one that ran:\n%s", n, r.body)
		}
	})
}

func TestACancelledJobIsToldAtOnceAndOneThatRunsGoesOn(t *testing.T) {
	inBubble(t, Gradio(), testCard, nil, func(b *bubble) {
		b.load()
		begun := time.Now()
		running := b.joins("runs")
		waiting := b.joins("waits")
		for _, event := range []string{running, waiting} {
			session := map[string]string{running: "runs", waiting: "waits"}[event]
			stream := b.begin(b.Context(), call{"GET", "/gradio_api/queue/data?session_hash=" + session, ""})
			synctest.Wait()
			b.do(call{"POST", "/gradio_api/cancel", `{"event_id":"` + event + `"}`})
			if r := <-stream; !strings.Contains(r.body, `"msg":"process_completed","output":{},"success":true`) {
				t.Errorf("of %s: %s", session, r.body)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v", took)
		}
		if b.used() != b.kind.Weights+b.kind.PerRun {
			t.Errorf("%v in use: the job that ran has ended", b.used())
		}
	})
}

func TestASessionIsToldThatTheAppLivesUntilItLeavesOrTheAppEnds(t *testing.T) {
	inBubble(t, Gradio(), testCard, nil, func(b *bubble) {
		ctx, leave := context.WithCancel(b.Context())
		left := b.begin(ctx, call{"GET", "/gradio_api/heartbeat/s", ""})
		stays := b.begin(b.Context(), call{"GET", "/gradio_api/heartbeat/t", ""})
		time.Sleep(2*gradioBeat + time.Second)
		leave()
		if r := <-left; strings.Count(r.body, "data: ALIVE\n\n") != 3 {
			t.Errorf("in %v it is told %q", r.took, r.body)
		}
		if err := b.engine.Close(); err != nil {
			t.Error(err)
		}
		<-stays
	})
}

func TestAnUploadCanBeFetchedAndNothingElseCan(t *testing.T) {
	inBubble(t, Gradio(), testCard, nil, func(b *bubble) {
		b.load()
		r := b.do(call{"POST", "/gradio_api/upload", attached("files", "../../etc/a b.txt", "hello") + end})
		var paths []string
		if err := json.Unmarshal([]byte(r.body), &paths); err != nil || len(paths) != 1 || !strings.HasSuffix(paths[0], "/a b.txt") {
			t.Fatalf("an upload is answered %+v", r)
		}
		file := "/gradio_api/file=" + strings.ReplaceAll(paths[0], " ", "%20")
		if r := b.do(call{"GET", file, ""}); r.status != 200 || r.body != "hello" {
			t.Errorf("%s is %+v", file, r)
		}
		event := b.joins("s")
		image := "/gradio_api/file=/tmp/gradio/" + event + "/image.png"
		if r := b.do(call{"GET", image, ""}); r.status != 403 {
			t.Errorf("before it has been drawn: %+v", r)
		}
		b.do(call{"GET", "/gradio_api/queue/data?session_hash=s", ""})
		if r := b.do(call{"GET", image, ""}); r.status != 200 || !strings.Contains(r.body, "PNG") {
			t.Errorf("when it has been drawn: %d", r.status)
		}
	})
}
