package simulation

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEveryRequestOfASceneIsSentOnce(t *testing.T) {
	s := Scene{
		Length: time.Hour, // of which a caller that begins late has enough
		Jobs: []Job{{At: 0, Heavy: true, Execute: 17 * time.Second}, {At: time.Second, Execute: time.Second},
			{At: time.Second, Execute: 2 * time.Second}},
		Callers: [][]time.Duration{{1500 * time.Millisecond}},
	}
	var mu sync.Mutex
	got := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		length := r.Header.Get(executeHeader)
		got[r.Method+" "+r.URL.Path+" "+length]++
		w.Header().Set(executeHeader, length)
	}))
	defer server.Close()
	seen := Callers{Base: server.URL, Speed: 1000}.Play(t.Context(), s)
	want := map[string]int{"POST " + heavyPath + " 17": 1, "POST " + lightPath + " 1": 1, "POST " + lightPath + " 2": 1, "POST " + lightPath + " 1.5": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(seen) != 4 {
		t.Fatalf("got %+v", seen)
	}
	for i, o := range seen {
		if o.Status != http.StatusOK || o.Ended < o.Sent || o.Execute == 0 || i > 0 && o.Sent < seen[i-1].Sent {
			t.Errorf("got %+v", o)
		}
	}
}

func TestAnAnswerThatIsNoneIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		err     string
	}{
		"an error":                 {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "CUDA out of memory", 500) }, 500, "CUDA out of memory"},
		"no time":                  {func(http.ResponseWriter, *http.Request) {}, 0, executeHeader},
		"a connection that is cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			seen := Callers{Base: server.URL, Speed: 1}.Play(t.Context(), Scene{Jobs: []Job{{Heavy: true}}})
			if len(seen) != 1 || seen[0].Status != c.status || seen[0].Err == nil || !strings.Contains(seen[0].Err.Error(), c.err) {
				t.Errorf("got %+v, want %d and %q", seen, c.status, c.err)
			}
		})
	}
}

func TestAPlayEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	s := Scene{Length: time.Hour, Jobs: []Job{{At: time.Hour}}, Callers: [][]time.Duration{{time.Hour}}}
	if seen := (Callers{Base: "http://127.0.0.1:0"}).Play(ctx, s); len(seen) != 0 {
		t.Errorf("got %+v, want nothing", seen)
	}
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func outcome(heavy bool, sent, execute, ended float64) Outcome {
	return Outcome{Heavy: heavy, Sent: seconds(sent), Execute: seconds(execute), Asked: seconds(execute), Ended: seconds(ended), Status: http.StatusOK}
}

func TestAResultIsWhatClientsSaw(t *testing.T) {
	seen := []Outcome{
		outcome(true, 0, 18, 20),    // waits 2
		outcome(true, 5, 17, 40),    // waits 18; begins at 23, 3 after the first ended
		outcome(true, 50, 20, 70),   // no client waited for it
		outcome(false, 0, 1, 1.5),   // waits 0.5
		outcome(false, 10, 2, 13.5), // waits 1.5
		{Status: http.StatusInternalServerError, Sent: 1, Ended: seconds(90)},
		{Sent: 2, Ended: seconds(100)}, // no answer
	}
	seen[0].Late, seen[1].Asked = seconds(1), seconds(14) // sent 1 late; ran 3 longer
	got := Summarize(Scene{}, seen, Memory{Peak: 7, Over: 2}, 1)
	want := Result{
		Light: Light{Requests: 2, Wait: 1, Execute: 1.5, Total: 2.5}, Heavy: Heavy{Requests: 3, Wait: 20. / 3, Gap: 3},
		Throughput: 5 / (70. / 60), Peak: 7, OutOfMemory: 1, Over: 2, Failed: 1, Late: 4. / 7,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCallersWithoutPauseCountUntilTheEnd(t *testing.T) {
	s := Scene{Length: time.Minute, Callers: [][]time.Duration{nil}}
	seen := []Outcome{outcome(false, 0, 1, 1), outcome(false, 59, 2, 61), outcome(true, 55, 18, 73)}
	got := Summarize(s, seen, Memory{}, 0)
	if got.Light.Requests != 1 || got.Heavy.Requests != 1 || got.Throughput != 1 {
		t.Errorf("got %+v, want one light in the minute, and one heavy after it", got)
	}
}

func TestNothingAnsweredIsNoFigure(t *testing.T) {
	if got := Summarize(Scene{}, nil, Memory{}, 0); got != (Result{}) {
		t.Errorf("got %+v", got)
	}
}

func TestTheMedianIsOfTimesAndTheWorstOfMemory(t *testing.T) {
	var a, b, c Result
	a.Light.Wait, b.Light.Wait, c.Light.Wait = 3, 1, 2
	a.Failed = 1
	a.Heavy.Gap, b.Heavy.Gap, c.Heavy.Gap = 5, 6, 4
	b.OutOfMemory, c.Over, a.Peak = 1, 2, 9
	got := Median([]Result{a, b, c})
	if got.Light.Wait != 2 || got.Heavy.Gap != 5 || got.OutOfMemory != 1 || got.Over != 2 || got.Peak != 9 || got.Failed != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestAResultsJSONIsAContract(t *testing.T) {
	text, err := json.Marshal(Result{})
	want := `{"light":{"requests":0,"wait_s":0,"execute_s":0,"total_s":0},"heavy":{"requests":0,"wait_s":0,"gap_s":0},` +
		`"throughput_rpm":0,"peak_vram_bytes":0,"oom":0,"over_budget":0,"failed":0,"late_s":0}`
	if err != nil || string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestARunThatSharesTheProcessorIsNotLate(t *testing.T) {
	slow := outcome(false, 0, 3, 3)
	slow.Asked, slow.Late = seconds(1), seconds(0.5)
	if got := Summarize(Scene{Contention: true}, []Outcome{slow}, Memory{}, 0); got.Late != 0.5 {
		t.Errorf("%g s late, want the 0.5 by which it was sent late", got.Late)
	}
}
