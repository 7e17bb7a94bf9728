package simulation

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/anteroom-gpu/anteroom/admission"
)

func look(t interface{ Fatal(...any) }, c *Card) Memory {
	m, err := c.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// playAllocations compares a card with a plain sum over any sequence of calls
// through several Cards on it.
func playAllocations(t *rapid.T, capacity admission.Bytes, cards []*Card) {
	held := make([][]admission.Bytes, len(cards))
	want := Memory{Capacity: capacity}
	steps := rapid.IntRange(1, 60).Draw(t, "steps")
	for range steps {
		i := rapid.IntRange(0, len(cards)-1).Draw(t, "card")
		if len(held[i]) > 0 && rapid.Bool().Draw(t, "free") {
			k := rapid.IntRange(0, len(held[i])-1).Draw(t, "which")
			n := held[i][k]
			held[i] = append(held[i][:k], held[i][k+1:]...)
			if err := cards[i].Free(n); err != nil {
				t.Fatal(err)
			}
			want.Used -= n
		} else {
			n := admission.Bytes(rapid.Int64Range(0, int64(capacity)).Draw(t, "bytes"))
			err := cards[i].Alloc(n)
			full := (*OutOfMemory)(nil)
			switch fits := want.Used+n <= capacity; {
			case fits && err != nil, !fits && !errors.As(err, &full):
				t.Fatalf("%d bytes with %+v: %v", n, want, err)
			case fits:
				want.Used += n
				want.Peak = max(want.Peak, want.Used)
				held[i] = append(held[i], n)
			default:
				want.Over++
				if full.Asked != n || full.Free != capacity-want.Used {
					t.Fatalf("got %+v, want %d of %d", full, n, capacity-want.Used)
				}
			}
		}
		for _, c := range cards {
			if got := look(t, c); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			if s := c.Samples(); len(s) > 0 && s[len(s)-1].Used != want.Used {
				t.Fatalf("the last sample is %+v, want %d", s[len(s)-1], want.Used)
			}
		}
	}
	for i, c := range cards {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for _, n := range held[i] {
			want.Used -= n
		}
	}
	if want.Used != 0 {
		t.Fatalf("the model holds %d", want.Used)
	}
}

func TestACardGivesWhatItHasAndNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := admission.Bytes(rapid.Int64Range(1, int64(80*admission.GiB)).Draw(t, "capacity"))
		c := NewCard(capacity)
		playAllocations(t, capacity, []*Card{c})
		if m := look(t, c); m.Used != 0 {
			t.Fatalf("after Close: %+v", m)
		}
	})
}

func TestACardIsSharedByGoroutines(t *testing.T) {
	c := NewCard(10)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if c.Alloc(3) == nil {
					c.Free(3)
				}
			}
		})
	}
	all.Wait()
	if m := look(t, c); m.Used != 0 || m.Peak > 9 || m.Peak == 0 {
		t.Errorf("got %+v, want nothing in use, a peak of 3 to 9", m)
	}
}

func TestOutOfMemoryReadsAsPyTorchSaysIt(t *testing.T) {
	c := NewCard(48 * admission.GiB)
	if err := c.Alloc(40 * admission.GiB); err != nil {
		t.Fatal(err)
	}
	err := c.Alloc(12 * admission.GiB)
	want := "CUDA out of memory. Tried to allocate 12.00 GiB. GPU 0 has a total capacity of 48.00 GiB of which 8.00 GiB is free. " +
		"Including non-PyTorch memory, this process has 40.00 GiB memory in use. Of the allocated memory 40.00 GiB is allocated by PyTorch, " +
		"and 0 bytes is reserved by PyTorch but unallocated. "
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGivingBackWhatIsNotHeldIsAMistakeOfOurs(t *testing.T) {
	c := NewCard(10)
	c.Alloc(4)
	defer func() {
		if r := recover(); r == nil || !strings.Contains(r.(string), "5 bytes given back where 4 are held") {
			t.Errorf("got %v, want a panic", r)
		}
		if err := c.Alloc(6); err != nil {
			t.Errorf("the card is of no use afterwards: %v", err)
		}
	}()
	c.Free(5)
}

func TestACardReportsAsASensorDoes(t *testing.T) {
	c := NewCard(10)
	c.Alloc(4)
	r := c.Reading("gpu7")
	if r.GPU != "gpu7" || r.Total != 10 || r.Used != 4 || r.Err != nil || r.At.IsZero() {
		t.Errorf("got %+v", r)
	}
}

func TestRemembersTheLatestSamples(t *testing.T) {
	c := NewCard(maxSamples * 2)
	for range maxSamples + 10 {
		c.Alloc(1)
	}
	s := c.Samples()
	if len(s) > maxSamples || s[len(s)-1].Used != maxSamples+10 || s[0].Used == 1 {
		t.Errorf("got %d samples from %d to %d", len(s), s[0].Used, s[len(s)-1].Used)
	}
}
