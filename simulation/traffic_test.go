package simulation

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

// A change of this sum is a change of every figure that was ever published.
const scenesSum = "a82b01b549c54dcb"

func TestScenesAreTheSameEachTime(t *testing.T) {
	if !reflect.DeepEqual(Scenes(), Scenes()) {
		t.Fatal("two calls give two scenes")
	}
	text, err := json.Marshal(Scenes()[:3]) // the fourth is the second on another card
	if err != nil {
		t.Fatal(err)
	}
	if all := Scenes(); !reflect.DeepEqual(all[3].Jobs, all[1].Jobs) {
		t.Error("the scene with contention has other traffic than the backlog")
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(text))[:16]; got != scenesSum {
		t.Errorf("got %s, want %s", got, scenesSum)
	}
}

// queued is the mean wait of some of the jobs in one queue, one at a time.
func queued(jobs []Job, of func(Job) bool) float64 {
	var free, sum time.Duration
	n := 0
	for _, j := range jobs {
		start := max(free, j.At)
		if free = start + j.Execute; of(j) {
			sum += start - j.At
			n++
		}
	}
	return sum.Seconds() / float64(n)
}

func count(jobs []Job) (heavy, light int) {
	for _, j := range jobs {
		if j.Heavy {
			heavy++
		} else {
			light++
		}
	}
	return heavy, light
}

func TestScenesAreWhatTheySay(t *testing.T) {
	scenes := Scenes()
	steady, backlog, wide := scenes[0], scenes[1], scenes[2]
	if h, l := count(steady.Jobs); h != 12 || l < 140 || l > 160 {
		t.Errorf("steady: %d heavies and %d lights, want 12 and about 150", h, l)
	}
	if w := queued(steady.Jobs, func(j Job) bool { return !j.Heavy }); math.Abs(w-15.2) > 0.1 {
		t.Errorf("steady: a light waits %.2f s in one queue, want 15.2", w)
	}
	if h, l := count(backlog.Jobs); h != 4 || l != 150 {
		t.Errorf("backlog: %d heavies and %d lights, want 4 and 150", h, l)
	}
	if b := backlog.Bound(); b < 3.9 || b > 4.2 {
		t.Errorf("backlog: at best %.2f × one at a time, want about 4", b)
	}
	if h, l := count(wide.Jobs); h != 8 || l != 0 || len(wide.Callers) != 12 {
		t.Errorf("wide lights: %d heavies, %d lights, %d callers, want 8, 0, 12", h, l, len(wide.Callers))
	}
	if w := queued(wide.Jobs, func(Job) bool { return true }); math.Abs(w-3.0) > 0.2 {
		t.Errorf("wide lights: a heavy waits %.2f s with slots of its own, want 3.0", w)
	}
	for _, s := range scenes {
		for i, j := range s.Jobs {
			shortest, longest := time.Second, 2*time.Second
			if j.Heavy {
				shortest, longest = 17*time.Second, 20*time.Second
			}
			if j.Execute < shortest || j.Execute > longest || j.At < 0 || j.At > s.Length || i > 0 && j.At < s.Jobs[i-1].At {
				t.Fatalf("%s, job %d: %+v", s.Name, i, j)
			}
		}
		for i, times := range s.Callers {
			var sum time.Duration
			for _, d := range times {
				sum += d
			}
			if sum < s.Length {
				t.Errorf("%s: caller %d has nothing to ask after %v", s.Name, i, sum)
			}
			if i > 0 && times[0] == s.Callers[0][0] {
				t.Errorf("%s: callers 0 and %d ask the same", s.Name, i)
			}
		}
	}
}
