package history

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

func TestTimesAreKeptByCompany(t *testing.T) {
	const vram = 34 * memory.GiB
	h := new(History)
	for i := range 6 {
		h.Learn(vram, 5*time.Second)
		h.LearnBeside(vram, time.Duration(48+i)*100*time.Millisecond, nil)
		h.LearnBeside(vram, time.Duration(90+i)*100*time.Millisecond, []string{"light"})
		if i < 3 {
			h.LearnBeside(vram, time.Minute, []string{"rare"})
		}
	}
	check := func(h *History) {
		t.Helper()
		b := h.Beside(vram)
		if b == nil || len(*b) != 2 || (*b)[Alone].P50 != 5100*time.Millisecond || (*b)["light"].P50 != 9300*time.Millisecond ||
			(*b)["light"].P95 != 9500*time.Millisecond {
			t.Errorf("it knows %v, want 5.1 s alone, 9.3 s beside light, and nothing yet beside what was there three times", b)
		}
		if l := h.Learned(); len(l) != 1 || len(l[0].Beside) != 2 {
			t.Errorf("it lists %+v, want one demand with two companies", l)
		}
	}
	check(h)
	if h.Beside(memory.GiB) != nil {
		t.Error("something is known of a demand that never ran")
	}
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	again := new(History)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	check(again)

	// What the model takes now counts, and not what it took once.
	for range rememberedBeside {
		again.LearnBeside(vram, time.Second, []string{"light"})
	}
	if got := (*again.Beside(vram))["light"].P95; got != time.Second {
		t.Errorf("after %d runs of 1 s it is %v", rememberedBeside, got)
	}
}
