package replay

import (
	"bytes"
	"encoding/xml"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

var pictures = map[string]struct {
	draw func(*Box, *Trace, *Log) ([]byte, error)
	says []string
}{
	"gantt": {DrawGantt, []string{"What ran and what waited", "heavy runs", "heavy waits", "light runs", "time since the start of the trace ("}},
	"waits": {DrawWaits, []string{"How long requests waited", "heavy: ", "light: ", "share of requests that have started",
		"wait (seconds, logarithmic)", "100 %"}},
	"vram": {DrawVRAM, []string{"Memory against the budget", "heavy", "light", "GiB booked", "budget 47GiB", "time since the start of the trace ("}},
}

// look reads a picture as XML and gives its words. What lies outside of it is a
// mistake.
func look(t *testing.T, svg []byte) (words string) {
	t.Helper()
	height := 0.0
	d := xml.NewDecoder(bytes.NewReader(svg))
	var b strings.Builder
	for {
		token, err := d.Token()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		switch x := token.(type) {
		case xml.CharData:
			b.Write(x)
		case xml.StartElement:
			at := map[string]float64{}
			for _, a := range x.Attr {
				if f, err := strconv.ParseFloat(a.Value, 64); err == nil {
					at[a.Name.Local] = f
				}
			}
			if x.Name.Local == "svg" {
				if height = at["height"]; x.Name.Space != "http://www.w3.org/2000/svg" || at["width"] != pictureWidth || height <= 0 {
					t.Errorf("it begins with %v", x)
				}
				continue
			}
			if at["x"] < 0 || at["y"] < 0 || at["width"] < 0 || at["height"] < 0 || at["x"]+at["width"] > pictureWidth || at["y"]+at["height"] > height {
				t.Errorf("%v lies outside of %v × %v", x, pictureWidth, height)
			}
			if x.Name.Local == "text" && at["font-size"] != 0 && at["font-size"] < 12 {
				t.Errorf("%v is too small to read", x)
			}
		}
	}
}

func TestPicturesAreXMLAndSayWhatTheyShow(t *testing.T) {
	trace := read(t, "at,class,execute,leave\n0,heavy,18,\n1,heavy,17,\n2,light,1.5,\n3,heavy,18,1\n")
	log, err := Admission(card(), trace)
	if err != nil {
		t.Fatal(err)
	}
	for name, picture := range pictures {
		t.Run(name, func(t *testing.T) {
			svg, err := picture.draw(card(), trace, log)
			if err != nil {
				t.Fatal(err)
			}
			words := look(t, svg)
			for _, want := range append(picture.says, "card, 4 requests of trace.csv") {
				if !strings.Contains(words, want) {
					t.Errorf("%q is not in its words: %s", want, words)
				}
			}
			again, _ := picture.draw(card(), trace, log)
			if !bytes.Equal(svg, again) {
				t.Error("the second time it is another")
			}
		})
	}
}

func TestPicturesShowTheColoursOfTheClasses(t *testing.T) {
	trace := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n2,light,1.5\n")
	log, err := Admission(card(), trace)
	if err != nil {
		t.Fatal(err)
	}
	svg, err := DrawGantt(card(), trace, log)
	if err != nil {
		t.Fatal(err)
	}
	// A legend's bar and those of the requests.
	for colour, want := range map[string]int{navy.full: 3, navy.pale: 2, red.full: 2, red.pale: 0} {
		if got := strings.Count(string(svg), `fill="`+colour+`"`); got != want {
			t.Errorf("%d bars have colour %s, want %d in\n%s", got, colour, want, svg)
		}
	}
}

func TestPicturesOfAnyTraceAreWhole(t *testing.T) {
	for seed := range uint64(30) {
		trace := read(t, jumble(rand.New(rand.NewPCG(seed, 1)), 80))
		box := card()
		box.Name = `a <b> & "c".yaml`
		box.Admission.Backends[1].ReturnsMemory = false
		log, err := Admission(box, trace)
		if err != nil {
			t.Fatal(err)
		}
		if seed%3 > 0 {
			if log, err = schedules[[]string{1: "fifo", 2: "clairvoyant"}[seed%3]](box, trace); err != nil {
				t.Fatal(err)
			}
		}
		for name, picture := range pictures {
			svg, err := picture.draw(box, trace, log)
			if err != nil {
				t.Fatal(err)
			}
			if words := look(t, svg); !strings.Contains(words, box.Name) {
				t.Errorf("%s does not name the configuration: %s", name, words)
			}
		}
	}
}

func TestPicturesOfTheExamplesAreWhole(t *testing.T) {
	for _, e := range examples {
		if e.config != e.trace {
			continue
		}
		t.Run(e.trace, func(t *testing.T) {
			box, trace, log := run(t, e.config, e.trace)
			for _, picture := range pictures {
				svg, err := picture.draw(box, trace, log)
				if err != nil {
					t.Fatal(err)
				}
				look(t, svg)
				if len(svg) > 1<<20 {
					t.Errorf("a picture has %v", admission.Bytes(len(svg)))
				}
			}
		})
	}
}

func TestAPictureOfNothingThatRanIsStillOne(t *testing.T) {
	trace := read(t, "at,class,execute,vram\n0,heavy,18,100GiB\n")
	log, err := Admission(card(), trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, picture := range pictures {
		svg, err := picture.draw(card(), trace, log)
		if err != nil {
			t.Fatal(err)
		}
		look(t, svg)
	}
}

func TestMemoryKeepsItsPeakInThePicture(t *testing.T) {
	box, trace, log := run(t, "flood", "flood")
	r := figures(t, box, trace, log)
	p, err := newPlan(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	m := sampleMemory(p, log, 500)
	highest := admission.Bytes(0)
	for _, c := range m.columns {
		sum := c.held[0]
		for _, n := range c.classes[0] {
			sum += n
		}
		if sum != c.total[0] {
			t.Fatalf("the layers of a column add up to %v, want %v", sum, c.total[0])
		}
		highest = max(highest, sum)
	}
	if int64(highest) != r.Peak["gpu0"] || int64(m.peak[0]) != r.Peak["gpu0"] {
		t.Errorf("the picture's peak is %v, written beside it is %v, want %v", highest, m.peak[0], admission.Bytes(r.Peak["gpu0"]))
	}
}

func TestAxesHaveRoundMarks(t *testing.T) {
	for _, x := range []struct {
		from, to float64
		wanted   int
		want     []float64
	}{
		{0, 1800, 12, []float64{0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800}},
		{0, 50, 6, []float64{0, 10, 20, 30, 40, 50}},
		{133, 194, 12, []float64{140, 150, 160, 170, 180, 190}},
		{0, 0.4, 4, []float64{0, 0.1, 0.2, 0.30000000000000004, 0.4}},
		{3, 3, 4, []float64{3}},
	} {
		got := marks(x.from, x.to, x.wanted)
		if len(got) != len(x.want) {
			t.Errorf("from %v to %v: got %v, want %v", x.from, x.to, got, x.want)
			continue
		}
		for i := range got {
			if got[i] != x.want[i] {
				t.Errorf("from %v to %v: got %v, want %v", x.from, x.to, got, x.want)
			}
		}
	}
}
