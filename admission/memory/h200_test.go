package memory

import (
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The files in testdata/h200 were recorded on an NVIDIA H200 (driver 580) with
// PyTorch 2.11 servers: when requests began and ended, and what nvidia-smi said
// of the card and of each process.

// outside says that an amount is not within an interval, by more than what the
// driver holds itself beside the processes, or a hundredth: figures are rounded.
func outside(held, low, high Bytes) bool {
	slack := max(32*MiB, held/100)
	return held < low-slack || held > high+slack
}

// recording is one of these files, played against a ledger.
type recording struct {
	t        *testing.T
	l        *Ledger
	names    []string // of the accounts
	figures  map[string]Place
	demands  map[string]Bytes
	running  map[string][]*Run
	now      time.Duration
	figured  bool // process figures are told
	readings int
	misses   []string
}

type row struct {
	at    time.Duration
	event string
	mib   map[string]Bytes
}

func readRecording(t *testing.T, name string, events []row) []row {
	f, err := os.Open("testdata/h200/" + name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows := slices.Clone(events)
	for _, line := range lines[1:] {
		s, err := strconv.ParseFloat(line[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		r := row{at: time.Duration(s * float64(time.Second)), event: line[1], mib: map[string]Bytes{}}
		if r.event == "reading" {
			for i, column := range lines[0][2:] {
				n, err := strconv.Atoi(line[i+2])
				if err != nil {
					t.Fatal(err)
				}
				r.mib[strings.TrimSuffix(column, "_mib")] = Bytes(n) * MiB
			}
		}
		// What took a while is told when it has ended.
		if words := strings.Fields(r.event); len(words) == 5 && words[2] == "took" {
			took, err := strconv.ParseFloat(words[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, row{at: r.at - time.Duration(took*float64(time.Second)), event: words[0] + " " + words[1] + " begins"})
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return int(a.at - b.at) })
	return rows
}

func (r *recording) account(name string) int { return slices.Index(r.names, name) }

func (r *recording) play(rows []row) {
	for i, x := range rows {
		// Rows of one moment happened in their order.
		r.now = x.at + time.Duration(i)*time.Microsecond
		words := strings.Fields(x.event)
		if words[0] == "reading" {
			r.read(x)
			continue
		}
		a := r.account(words[1])
		switch words[0] {
		case "start":
			run := &Run{Accounts: []int{a}, Demand: r.demands[words[1]]}
			r.running[words[1]] = append(r.running[words[1]], run)
			r.l.Start(r.now, run)
		case "end":
			all := r.running[words[1]]
			res := Result{Outcome: Good}
			if words[2] != "200" {
				res.Outcome = Failed
			}
			r.l.End(r.now, all[0], res)
			r.running[words[1]] = all[1:]
		case "gone":
			r.l.Gone(r.now, a)
		case "back":
			r.l.Back(r.now, a)
		case "reclaim":
			if words[2] == "begins" {
				r.l.Unloading(r.now, a)
			} else {
				r.l.Unloaded(r.now, a, false)
			}
		case "wake":
			if words[2] == "begins" {
				r.l.Loading(r.now, a, r.l.Weights(a))
			} else {
				r.l.Loaded(r.now, a, true)
			}
		}
	}
}

func (r *recording) read(x row) {
	reading := Reading{GPU: "gpu0", Total: 143000 * MiB, Used: x.mib["card"], Source: "nvml"}
	if r.figured {
		for name, n := range x.mib {
			if name == "card" || n == 0 {
				continue
			}
			p := Process{PID: 1000 + len(reading.Processes), Name: name, Used: n}
			if r.account(name) >= 0 {
				p.Backend = name
			}
			reading.Processes = append(reading.Processes, p)
		}
		if reading.Processes == nil {
			reading.Processes = []Process{}
		}
	}
	r.l.Observe(r.now, r.now, reading)
	r.readings++
	others := x.mib["others"] + x.mib["hog"]
	if t := r.l.GPUs[0]; outside(others, t.XLow, t.XHigh) {
		r.misses = append(r.misses, fmt.Sprintf("%v: others hold %v, the ledger says %v to %v", r.now, others, t.XLow, t.XHigh))
	}
	for i, name := range r.names {
		r.readings++
		held := x.mib[name]
		h := r.l.Accounts[i]
		exceeds := held > r.figures[name].Weights+r.demands[name]*Bytes(max(1, len(r.running[name])))
		switch {
		case r.figured && (h.Low != held || h.High != held):
			r.t.Errorf("%v: %s holds %v, the ledger says %v to %v", r.now, name, held, h.Low, h.High)
		case outside(held, h.Low, h.High):
			why := ""
			if exceeds {
				why = ", more than its figures"
			}
			r.misses = append(r.misses, fmt.Sprintf("%v: %s holds %v%s, the ledger says %v to %v", r.now, name, held, why, h.Low, h.High))
		}
	}
}

// recordings are the figures that fit each file, in MiB.
var recordings = []struct {
	file     string
	backends []string
	weights  []Bytes
	demands  []Bytes
	returns  []bool
	events   []row // what a proxy would have seen beside what was written down
	misses   int   // intervals that did not hold what was there, by totals alone
}{
	{"first-runs", []string{"flux", "vqa"}, []Bytes{32330, 1684}, []Bytes{3612, 2050}, []bool{false, true}, nil, 1},
	{"unmanaged-and-crash", []string{"flux", "vqa"}, []Bytes{32330, 1686}, []Bytes{3612, 138}, []bool{false, true}, []row{
		{at: 700 * time.Millisecond, event: "gone vqa"}, {at: 10 * time.Second, event: "back vqa"},
		{at: 17750 * time.Millisecond, event: "gone flux"}, {at: 23500 * time.Millisecond, event: "back flux"},
	}, 3},
	{"sleep-and-free", []string{"llm", "flux"}, []Bytes{21090, 32330}, []Bytes{0, 3612}, []bool{true, false}, nil, 0},
	{"wide-lights", []string{"flux", "vqa"}, []Bytes{24404, 1966}, []Bytes{12800, 3072}, []bool{true, true}, nil, 1},
	{"contention", []string{"flux", "vqa"}, []Bytes{32330, 1966}, []Bytes{3614, 32}, []bool{false, true}, nil, 0},
}

func newRecording(t *testing.T, i int, figured bool) *recording {
	x := recordings[i]
	r := &recording{t: t, l: new(Ledger), names: x.backends, figures: map[string]Place{}, demands: map[string]Bytes{},
		running: map[string][]*Run{}, figured: figured}
	g := r.l.AddGPU(0, GPU{Name: "gpu0", Reads: true})
	for k, name := range x.backends {
		p := Place{Backend: name, GPU: g, Weights: x.weights[k] * MiB, Returns: x.returns[k]}
		r.figures[name], r.demands[name] = p, x.demands[k]*MiB
		r.l.AddAccount(p)
	}
	return r
}

// TestRecordedReadings plays what a real card showed: with process figures each
// account is what the driver says at every reading; by totals alone what each
// really holds is within its interval.
func TestRecordedReadings(t *testing.T) {
	for i, x := range recordings {
		t.Run(x.file+"/by_processes", func(t *testing.T) {
			newRecording(t, i, true).play(readRecording(t, x.file, x.events))
		})
		t.Run(x.file+"/by_totals", func(t *testing.T) {
			r := newRecording(t, i, false)
			r.play(readRecording(t, x.file, x.events))
			t.Logf("%d of %d inside", r.readings-len(r.misses), r.readings)
			if len(r.misses) > x.misses {
				t.Errorf("%d outside, want %d:\n%s", len(r.misses), x.misses, strings.Join(r.misses, "\n"))
			}
		})
	}
}
