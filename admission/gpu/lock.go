package gpu

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Locks keep two processes from giving out the memory of one card. Each card that
// is read has a file in the runtime directory, named after its device (its UUID
// where the driver tells it, else as configured), and a process that uses the card
// holds a lock on it: alone, or with others where the card is shared. The kernel
// releases the locks of a process that ends. The zero value holds none; methods
// must not be called at once.
type Locks struct {
	Log *slog.Logger

	held  map[string]*os.File // by name
	names map[string]string   // of files, by the device as configured
}

// errLocked says that another process holds a lock.
var errLocked = errors.New("another process holds the lock")

// Take locks those of the cards, by their names in the configuration, that are
// not locked yet. Where another process has one of them it fails, and nothing has
// changed, unless the card is shared. A lock that is held stays as it is, whatever
// Shared says later.
func (l *Locks) Take(cards map[string]Config) error {
	taken := make(map[string]*os.File)
	var refused []error
	for name, c := range cards {
		if !c.Reads() {
			continue
		}
		file := l.name(c)
		if l.held[file] != nil {
			continue
		}
		next, err := l.take(name, file, c.Shared)
		switch {
		case err != nil:
			refused = append(refused, err)
		case next != nil:
			taken[file] = next
		}
	}
	if len(refused) > 0 {
		for _, f := range taken {
			f.Close()
		}
		return errors.Join(refused...)
	}
	if l.held == nil {
		l.held = make(map[string]*os.File)
	}
	maps.Copy(l.held, taken)
	return nil
}

// take locks one card; nil: it goes on without a lock.
func (l *Locks) take(name, file string, shared bool) (*os.File, error) {
	directory, err := runtimeDirectory()
	if err != nil {
		l.Log.Warn("the card is not locked: another process may give out the same memory", "gpu", name, "error", err.Error())
		return nil, nil
	}
	path := filepath.Join(directory, file)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = lockFile(f, shared)
	}
	switch {
	case err == nil:
		f.Truncate(0)
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		return f, nil
	case !errors.Is(err, errLocked):
		l.Log.Warn("the card is not locked: another process may give out the same memory", "gpu", name, "error", err.Error())
	case shared:
		l.Log.Warn("the card is shared with a process that does not share it: it counts all memory that it does not know as in use",
			"gpu", name, "file", path, "pid", holder(f))
	default:
		err = fmt.Errorf("gpus.%s: another Anteroom uses this card (PID %s, which holds %s): stop it, "+
			"or set gpus.%s.shared: true here and there", name, holder(f), path, name)
		f.Close()
		return nil, err
	}
	f.Close()
	return nil, nil
}

// holder is the PID in a lock's file.
func holder(f *os.File) string {
	text, _ := io.ReadAll(io.NewSectionReader(f, 0, 20))
	if pid := strings.TrimSpace(string(text)); pid != "" {
		return pid
	}
	return "unknown"
}

// Keep releases the locks of all but these cards.
func (l *Locks) Keep(cards map[string]Config) {
	wanted := make(map[string]bool)
	for _, c := range cards {
		if c.Reads() {
			wanted[l.name(c)] = true
		}
	}
	for name, f := range l.held {
		if !wanted[name] {
			f.Close()
			delete(l.held, name)
		}
	}
}

// Release releases all.
func (l *Locks) Release() { l.Keep(nil) }

var unsafeInName = regexp.MustCompile(`[^0-9A-Za-z.:-]+`)

// name is the name of a card's file. It stays what it was when it was first asked
// for: a driver that comes or goes later changes no lock.
func (l *Locks) name(c Config) string {
	key := c.Source + " " + c.Device
	name := l.names[key]
	if name == "" {
		device := identify(c)
		if device == "" {
			device = "gpu-" + c.Device
		}
		name = unsafeInName.ReplaceAllString(device, "_") + ".lock"
		if l.names == nil {
			l.names = make(map[string]string)
		}
		l.names[key] = name
	}
	return name
}

// identify asks the driver for a card's identity. Empty: it does not tell, or not
// in time.
func identify(c Config) string {
	told := make(chan string, 1)
	go func() {
		for _, s := range c.sources() {
			r := admission.Reading{}
			s.read(&r, false)
			if r.Device != "" {
				told <- r.Device
				return
			}
		}
		told <- ""
	}()
	select {
	case device := <-told:
		return device
	case <-time.After(usual.patience):
		return ""
	}
}

// runDirectory is that of the machine's services.
var runDirectory = "/run/anteroom"

// runtimeDirectory is where the locks are, made if it is not there:
// $XDG_RUNTIME_DIR/anteroom, else /run/anteroom where that can be written, else one
// of this user's own among the temporary files.
func runtimeDirectory() (string, error) {
	if own := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(own) {
		directory := filepath.Join(own, "anteroom")
		if writable(directory) {
			return directory, nil
		}
	}
	if writable(runDirectory) {
		return runDirectory, nil
	}
	directory := filepath.Join(os.TempDir(), "anteroom-"+strconv.Itoa(os.Getuid()))
	if !writable(directory) {
		return "", fmt.Errorf("%s is not a directory of this user that can be written: want XDG_RUNTIME_DIR to name one", directory)
	}
	return directory, nil
}

// writable says that a directory is there, or could be made, belongs to this user
// and can be written.
func writable(directory string) bool {
	if err := os.Mkdir(directory, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false
	}
	info, err := os.Lstat(directory)
	if err != nil || !info.IsDir() || !ownedByUs(info) {
		return false
	}
	f, err := os.CreateTemp(directory, ".try-*")
	if err != nil {
		return false
	}
	f.Close()
	os.Remove(f.Name())
	return true
}
