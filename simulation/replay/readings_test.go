package replay

import (
	"testing"
	"time"
)

// What waits for the memory of a run that has ended starts when a reading shows it
// free. A box that was at rest for a day is read before its next request comes.
func TestMemoryIsFreeWhenAReadingShowsIt(t *testing.T) {
	trace := read(t, "at,class,execute,vram\n1,heavy,10,\n2,light,1,20GiB\n100000.3,light,1,\n")
	for _, c := range []struct {
		name     string
		readings Readings
		want     string
	}{
		{"nothing is read", Readings{}, `
			1 heavy of 1 starts
			11 heavy of 1 ends
			11 light of 2 starts
			12 light of 2 ends
			100000.3 light of 100000.3 starts
			100001.3 light of 100000.3 ends`},
		{"a reading that is asked for", Readings{Every: 3 * time.Second, Asked: 250 * time.Millisecond}, `
			1 heavy of 1 starts
			11 heavy of 1 ends
			11.25 light of 2 starts
			12.25 light of 2 ends
			100000.3 light of 100000.3 starts
			100001.3 light of 100000.3 ends`},
		{"the next reading", Readings{Every: 3 * time.Second, Asked: 20 * time.Second}, `
			1 heavy of 1 starts
			11 heavy of 1 ends
			12 light of 2 starts
			13 light of 2 ends
			100000.3 light of 100000.3 starts
			100001.3 light of 100000.3 ends`},
		{"and its processes", Readings{Every: 3 * time.Second, Asked: 250 * time.Millisecond, Processes: true}, `
			1 heavy of 1 starts
			11 heavy of 1 ends
			11.25 light of 2 starts
			12.25 light of 2 ends
			100000.3 light of 100000.3 starts
			100001.3 light of 100000.3 ends`},
	} {
		t.Run(c.name, func(t *testing.T) {
			box := card()
			box.Admission.GPUs[0].Reads = c.readings.Every > 0
			box.Readings = c.readings
			tells(t, story(t, Admission, box, trace), c.want)
		})
	}
}
