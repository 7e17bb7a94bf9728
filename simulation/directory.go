package simulation

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// directory is where processes share a card.
//
//	lock                                  held while anything below is read or written
//	card.json                             what is known of the whole card
//	holders/*                             what each Card holds; locked by it for as long as it lives
//	card0/device/mem_info_vram_{total,used}   as below /sys/class/drm, for a program that reads AMD's cards
//
// A holder whose lock can be had is dead: the kernel drops the locks of a
// process that ends, also of one that is killed, and unlike a process id a lock
// is never taken for another one.
type directory struct {
	path   string
	lock   *os.File
	holder *os.File
	swept  chan struct{} // closed when the sweeper has ended
	stop   chan struct{}
	atWork atomic.Bool // this holder's process has work
}

// sweepEvery is how soon the memory of a process that was killed is seen to be
// free while no process allocates.
const sweepEvery = 200 * time.Millisecond

// OpenCard opens the card that path holds and makes it there with that capacity
// where there is none. A process that comes later gets the capacity of the first. While
// a Card is open it watches for others that died.
func OpenCard(path string, capacity admission.Bytes) (*Card, error) {
	d := &directory{path: path, swept: make(chan struct{}), stop: make(chan struct{})}
	c := &Card{clock: WallClock{}, shared: d}
	if err := d.open(capacity); err != nil {
		return nil, fmt.Errorf("simulation: open the card in %s: %w", path, err)
	}
	if err := c.refresh(); err != nil {
		d.release()
		return nil, fmt.Errorf("simulation: read the card in %s: %w", path, err)
	}
	go d.sweep(c)
	return c, nil
}

func (d *directory) open(capacity admission.Bytes) (err error) {
	for _, below := range []string{"holders", filepath.Dir(memoryTotal)} {
		if err := os.MkdirAll(filepath.Join(d.path, below), 0o755); err != nil {
			return err
		}
	}
	if d.lock, err = os.OpenFile(filepath.Join(d.path, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return err
	}
	err = d.locked(func() error {
		_, err := os.Stat(d.file("card.json"))
		if errors.Is(err, os.ErrNotExist) {
			err = d.write(Memory{Capacity: capacity})
		}
		if err != nil {
			return err
		}
		if d.holder, err = os.CreateTemp(d.file("holders"), strconv.Itoa(os.Getpid())+"-"); err != nil {
			return err
		}
		return tryLock(d.holder)
	})
	if err != nil {
		d.release()
	}
	return err
}

const (
	memoryTotal = "card0/device/mem_info_vram_total"
	memoryUsed  = "card0/device/mem_info_vram_used"
	busyPercent = "card0/device/gpu_busy_percent"
)

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// locked runs do while no other process touches the directory.
func (d *directory) locked(do func() error) error {
	if err := lock(d.lock); err != nil {
		return err
	}
	defer unlock(d.lock)
	return do()
}

// read brings m up to date and removes dead holders. It returns what the files
// say, which still counts what the dead held. The caller holds the lock.
func (d *directory) read(m *Memory) (written Memory, err error) {
	text, err := os.ReadFile(d.file("card.json"))
	if err != nil {
		return written, err
	}
	if written, err = decode(text); err != nil {
		return written, fmt.Errorf("card.json: %w", err)
	}
	entries, err := os.ReadDir(d.file("holders"))
	if err != nil {
		return written, err
	}
	var used admission.Bytes
	for _, e := range entries {
		held, err := d.holding(filepath.Join(d.path, "holders", e.Name()))
		if err != nil {
			return written, err
		}
		used += held
	}
	*m = written
	m.Used = used
	return written, nil
}

// holding is what a holder has, and removes it if it is dead.
func (d *directory) holding(path string) (admission.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if tryLock(f) == nil {
		return 0, os.Remove(path)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	held, err := strconv.ParseInt(line, 10, 64)
	return admission.Bytes(held), err
}

// heldDigits is how long the number is with which a holder's file begins. After it
// stands whether its process has work: see works.
const heldDigits = 20

// hold stores what this Card holds. The caller holds the lock.
func (d *directory) hold(held admission.Bytes) error {
	// Digits of one length, so that the file never has to be cut.
	_, err := d.holder.WriteAt(fmt.Appendf(nil, "%0*d\n", heldDigits, held), 0)
	return err
}

// write stores m. The caller holds the lock.
func (d *directory) write(m Memory) error {
	for name, text := range map[string][]byte{
		"card.json": encode(m),
		memoryTotal: fmt.Appendln(nil, int64(m.Capacity)),
		memoryUsed:  fmt.Appendln(nil, int64(m.Used)),
	} {
		if err := d.replace(name, text); err != nil {
			return err
		}
	}
	return d.writeBusy()
}

// replace writes a file so that a reader without the lock, and one that comes
// after a crash, finds the old text or the new.
func (d *directory) replace(name string, text []byte) error {
	path := d.file(name)
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// stored is a Memory in card.json: whole numbers, because the text form of
// admission.Bytes is rounded.
type stored struct {
	Capacity int64 `json:"capacity"`
	Used     int64 `json:"used"`
	Peak     int64 `json:"peak"`
	Over     int   `json:"over"`
}

func encode(m Memory) []byte {
	text, err := json.Marshal(stored{int64(m.Capacity), int64(m.Used), int64(m.Peak), m.Over})
	if err != nil {
		panic("simulation: " + err.Error()) // numbers alone
	}
	return append(text, '\n')
}

func decode(text []byte) (Memory, error) {
	var s stored
	err := json.Unmarshal(text, &s)
	return Memory{admission.Bytes(s.Capacity), admission.Bytes(s.Used), admission.Bytes(s.Peak), s.Over}, err
}

// sweep looks for the dead until close. What it cannot read the next allocation
// reports.
func (d *directory) sweep(c *Card) {
	defer close(d.swept)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			c.refresh()
		}
	}
}

// close ends the sweeper and this holder.
func (d *directory) close() error {
	close(d.stop)
	<-d.swept
	err := d.locked(func() error { return os.Remove(d.holder.Name()) })
	d.release()
	return err
}

func (d *directory) release() {
	if d.holder != nil {
		d.holder.Close()
	}
	d.lock.Close()
}
