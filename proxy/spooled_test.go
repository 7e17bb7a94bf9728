package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestASpooledBodyIsTheSameWhereverItIs and gives all of its memory back: in blocks, in
// its file, and when it goes there because it has to wait or because no block is left.
func TestASpooledBodyIsTheSameWhereverItIs(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	want := make([]byte, 5*spoolBlock+77)
	rand.NewChaCha8([32]byte{}).Read(want)
	for name, c := range map[string]struct {
		isHere, waits bool
		left          int // blocks
	}{
		"in blocks": {true, false, 6}, "in the file": {false, false, 6}, "waits": {true, true, 6}, "few blocks": {true, false, 3}, "none": {true, true, 0},
	} {
		room := new(arena)
		var others [][]byte
		for range spoolMemory/spoolBlock - c.left {
			others = append(others, room.take())
		}
		s, err := spool(room, 0, c.isHere)
		if err != nil {
			t.Fatal(err)
		}
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(2*spoolBlock))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		s.end()
		if c.waits {
			if err := s.flush(); err != nil {
				t.Fatal(err)
			}
		}
		if here := c.isHere && !c.waits && c.left == 6; s.isHere != here {
			t.Errorf("%s: it is in memory: %v, want %v", name, s.isHere, here)
		}
		got := make([]byte, len(want)+1)
		if n, err := s.ReadAt(got, 0); n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) {
			t.Errorf("%s: read %d bytes, %v, or others than were written", name, n, err)
		}
		if n, err := s.ReadAt(got[:spoolBlock], spoolBlock-3); n != spoolBlock || err != nil || !bytes.Equal(got[:n], want[spoolBlock-3:][:n]) {
			t.Errorf("%s: in the middle read %d bytes, %v, or others than were written", name, n, err)
		}
		first, err := s.sender()
		if err != nil {
			t.Fatal(err)
		}
		second := first
		if s.isHere { // files share their offset
			if second, err = s.sender(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.flush(); err != nil { // while it is sent
			t.Fatal(err)
		}
		s.Close()
		var sent bytes.Buffer
		if n, err := io.Copy(&sent, first); n != int64(len(want)) || err != nil || !bytes.Equal(sent.Bytes(), want) {
			t.Errorf("%s: sent %d bytes, %v, or others than were written", name, n, err)
		}
		if text, err := io.ReadAll(struct{ io.Reader }{second}); second != first && (err != nil || !bytes.Equal(text, want)) {
			t.Errorf("%s: the second sent %d bytes, %v, or others than were written", name, len(text), err)
		}
		first.Close()
		second.Close()
		second.Close()
		room.give(others, false)
		if n := room.used(); n != 0 {
			t.Errorf("%s: %d blocks are still taken", name, n)
		}
		room.shrink()
	}
}

// A transport may close a body while it reads it, and another body gets its memory.
func TestABodyThatIsClosedWhileItIsSentKeepsItsMemory(t *testing.T) {
	room := new(arena)
	ones, twos := bytes.Repeat([]byte{1}, spoolBlock), bytes.Repeat([]byte{2}, spoolBlock)
	for range 200 {
		s, _ := spool(room, 1<<20, true)
		s.Write(ones)
		sender, err := s.sender()
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			for one := make([]byte, 999); ; {
				n, err := sender.Read(one)
				if bytes.IndexByte(one[:n], 2) >= 0 {
					t.Error("it read another body")
				}
				if err != nil {
					return
				}
			}
		})
		all.Go(func() { sender.Close() })
		s.Close()
		next, _ := spool(room, 1<<20, true)
		next.Write(twos)
		all.Wait()
		next.Close()
	}
	if n := room.used(); n != 0 {
		t.Errorf("%d blocks are still taken", n)
	}
}
