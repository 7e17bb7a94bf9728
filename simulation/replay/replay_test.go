package replay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// card is a 48 GiB card with 47 to give out, one heavy slot and a few light
// ones: the box of most stories here.
func card() *Box {
	return &Box{
		Name: "card",
		Admission: admission.Config{
			GPUs: []admission.GPU{{Name: "gpu0", Memory: 48 * admission.GiB, Reserve: admission.GiB}},
			Classes: []admission.Class{
				{Name: "heavy", Slots: 1, QueueLimit: 100, QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second},
				{Name: "light", Slots: 64, QueueLimit: 1000, QueueTimeout: 30 * time.Second, StrictAfter: 5 * time.Second},
			},
			Backends: []admission.Backend{
				{Name: "flux", Replicas: []admission.Replica{{Places: []admission.Place{{GPU: "gpu0"}}}}, ReturnsMemory: true},
				{Name: "vqa", Replicas: []admission.Replica{{Places: []admission.Place{{GPU: "gpu0"}}}}, ReturnsMemory: true},
			},
		},
		Routes: []Route{
			{Name: "images", Class: "heavy", Backend: "flux", VRAM: 34 * admission.GiB, Estimate: estimate(18)},
			{Name: "questions", Class: "light", Backend: "vqa", VRAM: 512 * admission.MiB, Estimate: estimate(1.5), Aborts: true},
		},
	}
}

func estimate(seconds float64) admission.Estimate {
	d := time.Duration(seconds * float64(time.Second))
	return admission.Estimate{P50: d, P95: d}
}

func read(t testing.TB, text string) *Trace {
	t.Helper()
	trace, err := Read("trace.csv", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func play(t testing.TB, how func(*Box, *Trace) (*Log, error), box *Box, trace *Trace) *Result {
	t.Helper()
	log, err := how(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Judge(box, trace, log)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// schedules are all ways to play a trace.
var schedules = map[string]func(*Box, *Trace) (*Log, error){"anteroom": Admission, "fifo": FIFO, "clairvoyant": Clairvoyant, "one tenant": OneTenant}

// story is a log in words: one line for each thing that happened.
func story(t testing.TB, how func(*Box, *Trace) (*Log, error), box *Box, trace *Trace) string {
	t.Helper()
	log, err := how(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Judge(box, trace, log); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range log.Events {
		row := &trace.Rows[e.Request]
		fmt.Fprintf(&b, "%g %s of %g ", e.At.Seconds(), trace.Class(row), row.At.Seconds())
		switch {
		case e.What == Started:
			b.WriteString("starts")
		case log.Code(e) != "":
			b.WriteString(string(log.Code(e)))
		case e.Fate == Left:
			b.WriteString("leaves")
		default:
			b.WriteString("ends")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// tells compares a story with the one that is wanted, line by line without the
// white space that the test's indentation brings.
func tells(t *testing.T, got, want string) {
	t.Helper()
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		lines = append(lines, strings.TrimSpace(line))
	}
	if want := strings.Join(lines, "\n") + "\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
