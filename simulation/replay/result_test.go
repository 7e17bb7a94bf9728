package replay

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestWritesTheFiguresAsDocumented(t *testing.T) {
	trace := read(t, "at,class,execute,leave\n0,heavy,18,\n1,heavy,17,\n2,light,1.5,\n3,heavy,18,1\n")
	got, err := json.Marshal(play(t, Admission, card(), trace))
	if err != nil {
		t.Fatal(err)
	}
	// Two heavies, the second waits for 17 s; three requests are done in 35 s.
	want := `{"config":"card","classes":{"heavy":{"requests":3,"completed":2,"refused":{"queue_full":0},"left":1,` +
		`"wait_s":{"mean":8.5,"p50":0,"p90":17,"p99":17,"max":17},"total_s":{"mean":26,"p50":18,"p90":34,"p99":34,"max":34}},` +
		`"light":{"requests":1,"completed":1,"refused":{"queue_full":0},"left":0,` +
		`"wait_s":{"mean":0,"p50":0,"p90":0,"p99":0,"max":0},"total_s":{"mean":1.5,"p50":1.5,"p90":1.5,"p99":1.5,"max":1.5}}},` +
		`"makespan_s":35,"bound_s":35,"throughput_rps":0.085714,"peak_vram_bytes":{"gpu0":37044092928},"over_budget":0,` +
		`"slot_utilisation":{"heavy":1,"light":0.00067},"decisions":"sha256:`
	if !strings.HasPrefix(string(got), want) {
		t.Errorf("got\n%s\nwant\n%s…", got, want)
	}
}

func TestTheBoundIsThatOfTheScarcestResource(t *testing.T) {
	gib := admission.GiB
	for name, x := range map[string]struct {
		change func(*Box)
		trace  string
		want   float64
	}{
		"the slots of a class": {nil, "at,class,execute\n0,heavy,18\n0,heavy,18\n0,heavy,18\n", 54},
		"the slots of a backend": {func(b *Box) { b.Admission.Backends[1].Slots = 2 },
			"at,class,execute\n0,light,3\n0,light,3\n0,light,3\n", 4.5},
		// 3 × 40 GiB × 3 s over 47 GiB.
		"memory":           {nil, "at,class,execute,vram\n0,light,3,40GiB\n0,light,3,40GiB\n0,light,3,40GiB\n", 360.0 / 47},
		"the last arrival": {nil, "at,class,execute\n0,heavy,18\n30,light,2\n", 32},
		"two cards together": {func(b *Box) {
			b.Admission.GPUs = append(b.Admission.GPUs, admission.GPU{Name: "gpu1", Memory: 47 * gib})
			b.Admission.Backends[1].Replicas = append(b.Admission.Backends[1].Replicas, admission.Replica{Places: []admission.Place{{GPU: "gpu1"}}})
		}, "at,class,execute,vram\n0,light,3,40GiB\n0,light,3,40GiB\n0,light,3,40GiB\n0,light,3,40GiB\n", 480.0 / 94},
	} {
		t.Run(name, func(t *testing.T) {
			box := card()
			if x.change != nil {
				x.change(box)
			}
			if got := play(t, Admission, box, read(t, x.trace)).Bound; got != round(x.want) {
				t.Errorf("got %v, want %v", got, round(x.want))
			}
		})
	}
}

func TestCountsTheMomentsOverTheBudget(t *testing.T) {
	// What a schedule that knows nothing of memory would do: all at once.
	box := card()
	trace := read(t, "at,class,execute,vram\n0,light,3,20GiB\n1,light,3,20GiB\n2,light,3,20GiB\n")
	var log Log
	for i := range int32(3) {
		log.start(time.Duration(i)*time.Second, i, 0)
	}
	for i := range int32(3) {
		log.end(time.Duration(i+3)*time.Second, i, Completed)
	}
	r, err := Judge(box, trace, &log)
	if err != nil {
		t.Fatal(err)
	}
	if r.OverBudget != 1 || r.Peak["gpu0"] != int64(60*admission.GiB) {
		t.Errorf("over the budget %d times with a peak of %v, want once with 60GiB", r.OverBudget, admission.Bytes(r.Peak["gpu0"]))
	}
}

func TestFindsALogThatCannotBeTrue(t *testing.T) {
	trace := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n")
	for name, write := range map[string]func(*Log){
		"a request that is not mentioned":     func(l *Log) { l.start(0, 0, 0); l.end(18*time.Second, 0, Completed) },
		"an end without a start":              func(l *Log) { l.end(0, 0, Completed) },
		"two starts":                          func(l *Log) { l.start(0, 0, 0); l.start(0, 0, 0) },
		"a start before the request is there": func(l *Log) { l.start(0, 1, 0) },
		"more than there are slots":           func(l *Log) { l.start(0, 0, 0); l.start(time.Second, 1, 0) },
		"a step back":                         func(l *Log) { l.start(20*time.Second, 1, 0); l.start(0, 0, 0) },
		"an end after a refusal":              func(l *Log) { l.refuse(0, 0, "x"); l.end(0, 0, Completed) },
	} {
		var log Log
		write(&log)
		if _, err := Judge(card(), trace, &log); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestQuantilesAreTimesThatOccurred(t *testing.T) {
	var d []time.Duration
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i)*time.Second)
	}
	if got, want := spreadOf(d), (Spread{Mean: 50.5, P50: 50, P90: 90, P99: 99, Max: 100}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := spreadOf(d[:1]), (Spread{1, 1, 1, 1, 1}); got != want {
		t.Errorf("of one: got %v, want %v", got, want)
	}
	if got := spreadOf(nil); got != (Spread{}) {
		t.Errorf("of none: got %v", got)
	}
}

func TestATableSaysItForPeople(t *testing.T) {
	box := card()
	box.Fair = true
	trace := read(t, "at,class,execute,tenant\n0,heavy,18,a\n1,heavy,17,b\n2,light,1.5,a\n")
	fifo := *box
	fifo.Name = "card (fifo)"
	var out bytes.Buffer
	if err := WriteTable(&out, []*Result{play(t, Admission, box, trace), play(t, FIFO, &fifo, trace)}); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, line := range strings.Split(out.String(), "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"class run requests completed refused left wait mean p50 p90 p99 max total p50 p99 slots used",
		"heavy card 2 2 0 0 8.50 0 17.0 17.0 17.0 18.0 34.0 100 %",
		"light card 1 1 0 0 0 0 0 0 0 1.50 1.50 0 %",
		"light card (fifo) 1 1 0 0 33.0 33.0 33.0 33.0 33.0 34.5 34.5 0 %",
		"b heavy card 1 1 0 0 17.0 17.0 17.0 17.0 17.0 34.0 34.0",
		"card 35.0 s 35.0 s 1.000 0.09 gpu0 34.5GiB 0 b9625660a018",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("there is no line %q in\n%s", want, out.String())
		}
	}
}
