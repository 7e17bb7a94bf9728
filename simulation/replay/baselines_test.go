package replay

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestASingleQueueRunsOneAtATime(t *testing.T) {
	trace := read(t, "at,class,execute,vram,leave\n0,heavy,18,,\n1,light,1,,\n2,light,1,100GiB,\n3,light,1,,5\n4,light,2,,\n")
	tells(t, story(t, FIFO, card(), trace), `
		0 heavy of 0 starts
		2 light of 2 never_fits
		8 light of 3 leaves
		18 heavy of 0 ends
		18 light of 1 starts
		19 light of 1 ends
		19 light of 4 starts
		21 light of 4 ends`)
}

func TestTheClairvoyantUsesExactDurations(t *testing.T) {
	// The first 14 GiB are known to be free again just when the heavy starts;
	// the second could run at once but for the heavy's place. What fits beside
	// the heavy is not held up.
	trace := read(t, "at,class,execute,vram\n0,light,10,20GiB\n1,heavy,18,\n2,light,7,14GiB\n3.5,light,7,14GiB\n4,light,20,13GiB\n")
	tells(t, story(t, Clairvoyant, card(), trace), `
		0 light of 0 starts
		2 light of 2 starts
		4 light of 4 starts
		9 light of 2 ends
		10 light of 0 ends
		10 heavy of 1 starts
		24 light of 4 ends
		28 heavy of 1 ends
		28 light of 3.5 starts
		35 light of 3.5 ends`)
}

func TestTheClairvoyantKeepsToTheControllersLimits(t *testing.T) {
	for name, x := range map[string]struct {
		change      func(*Box)
		trace, want string
	}{
		"the queue's limit": {func(b *Box) { b.Admission.Classes[0].QueueLimit = 1 },
			"at,class,execute\n0,heavy,18\n1,heavy,18\n2,heavy,18\n19,heavy,18\n", `
			0 heavy of 0 starts
			2 heavy of 2 queue_full
			18 heavy of 0 ends
			18 heavy of 1 starts
			36 heavy of 1 ends
			36 heavy of 19 starts
			54 heavy of 19 ends`},
		"the queue's timeout": {func(b *Box) { b.Admission.Classes[0].QueueTimeout = 10 * time.Second },
			"at,class,execute\n0,heavy,18\n1,heavy,18\n9,heavy,18\n", `
			0 heavy of 0 starts
			1 heavy of 1 queue_timeout
			18 heavy of 0 ends
			18 heavy of 9 starts
			36 heavy of 9 ends`},
		"a deadline": {nil, "at,class,execute,deadline\n0,heavy,18,\n1,heavy,18,30\n", `
			0 heavy of 0 starts
			1 heavy of 1 deadline_unmeetable
			18 heavy of 0 ends`},
		"a backend's slots": {func(b *Box) { b.Admission.Backends[1].Slots = 1 },
			"at,class,execute\n0,light,2\n1,light,2\n", `
			0 light of 0 starts
			2 light of 0 ends
			2 light of 1 starts
			4 light of 1 ends`},
		"slots reserved for another class": {func(b *Box) {
			b.Routes[1].Backend = "flux"
			b.Admission.Backends[0].Slots, b.Admission.Backends[0].Reserved = 2, map[string]int{"heavy": 1}
		}, "at,class,execute\n0,light,2\n1,light,2\n1.5,heavy,18\n", `
			0 light of 0 starts
			1.5 heavy of 1.5 starts
			2 light of 0 ends
			2 light of 1 starts
			4 light of 1 ends
			19.5 heavy of 1.5 ends`},
		"memory that is kept": {func(b *Box) {
			b.Admission.Backends[0].ReturnsMemory = false
			b.Admission.Classes[1].QueueTimeout = 0
		}, "at,class,execute,vram\n0,heavy,18,\n1,light,1,14GiB\n2,light,1,13GiB\n", `
			0 heavy of 0 starts
			1 light of 1 never_started
			2 light of 2 starts
			3 light of 2 ends
			18 heavy of 0 ends`},
		"a client that leaves": {nil, "at,class,execute,leave\n0,heavy,18,\n1,heavy,18,10\n", `
			0 heavy of 0 starts
			11 heavy of 1 leaves
			18 heavy of 0 ends`},
	} {
		t.Run(name, func(t *testing.T) {
			box := card()
			if x.change != nil {
				x.change(box)
			}
			tells(t, story(t, Clairvoyant, box, read(t, x.trace)), x.want)
			if name == "slots reserved for another class" {
				tells(t, story(t, Admission, box, read(t, x.trace)), x.want)
			}
		})
	}
}

// TestTheClairvoyantPlacesEachAsEarlyAsCanBe compares it with a search moment
// by moment.
func TestTheClairvoyantPlacesEachAsEarlyAsCanBe(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 9))
		text := "at,class,execute,vram\n"
		at := 0
		for range 12 {
			at += r.IntN(3)
			text += fmt.Sprintf("%d,light,%d,%dGiB\n", at, 1+r.IntN(6), []int{5, 15, 30}[r.IntN(3)])
		}
		box, trace := card(), read(t, text)
		box.Admission.Classes[1].Slots, box.Admission.Classes[1].QueueTimeout = 3, 0
		log, err := Clairvoyant(box, trace)
		if err != nil {
			t.Fatal(err)
		}
		got := map[int32]time.Duration{}
		for _, e := range log.Events {
			if e.What == Started {
				got[e.Request] = e.At
			}
		}
		var runs [1000]int
		var held [1000]admission.Bytes
		last := map[admission.Bytes]int{}
		for i := range trace.Rows {
			row := &trace.Rows[i]
			length := int(row.Execute / time.Second)
			start := max(int(row.At/time.Second), last[row.VRAM])
			for free := 0; free < length; {
				if s := start + free; runs[s] >= 3 || held[s]+row.VRAM > 47*admission.GiB {
					start, free = s+1, 0
				} else {
					free++
				}
			}
			for s := start; s < start+length; s++ {
				runs[s]++
				held[s] += row.VRAM
			}
			last[row.VRAM] = start
			if want := time.Duration(start) * time.Second; got[int32(i)] != want {
				t.Fatalf("seed %d: request %d starts at %v, want %v in\n%s", seed, i, got[int32(i)], want, text)
			}
		}
	}
}
