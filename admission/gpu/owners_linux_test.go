package gpu

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

// engine is a process that a test starts, and those that it starts in turn.
type engine struct {
	Name     string   // for the test
	Listen   string   // an address
	Start    []engine // in its process group, and with its socket
	Group    bool     // it leads a process group of its own
	Vanishes bool     // it ends when it has started the others
}

// running is an engine that has begun.
type running struct {
	Name, Address string
	PID           int
}

func init() {
	helpers["engine"] = func(text string) {
		var e engine
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			panic(err)
		}
		if err := e.run(); err != nil {
			panic(err)
		}
	}
}

// run is the life of an engine's process: until its standard input ends.
func (e engine) run() error {
	me := running{Name: e.Name, PID: os.Getpid()}
	var socket *os.File
	if e.Listen != "" {
		l, err := net.Listen("tcp", e.Listen)
		if err != nil {
			return err
		}
		me.Address = l.Addr().String()
		if socket, err = l.(*net.TCPListener).File(); err != nil {
			return err
		}
	}
	for _, other := range e.Start {
		c, err := other.command(os.Args[0])
		if err != nil {
			return err
		}
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
		if socket != nil {
			c.ExtraFiles = []*os.File{socket}
		}
		if err := c.Start(); err != nil {
			return err
		}
		if !e.Vanishes {
			defer c.Wait()
		}
	}
	text, err := json.Marshal(me)
	if err != nil {
		return err
	}
	if _, err := fmt.Println(string(text)); err != nil || e.Vanishes {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (e engine) command(program string) (*exec.Cmd, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	c := exec.Command(program)
	c.Env = append(os.Environ(), "GPU_TEST_PROCESS=engine "+string(text), "GORACE=atexit_sleep_ms=0")
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: e.Group}
	return c, nil
}

func (e engine) count() int {
	n := 1
	for _, other := range e.Start {
		n += other.count()
	}
	return n
}

// begin starts an engine, in a process group of its own, and gives what runs
// by name. The function ends it.
func begin(t testing.TB, program string, e engine) (map[string]running, func()) {
	t.Helper()
	e.Group = true
	c, err := e.command(program)
	must(t, err)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	end := func() {
		in.Close()
		io.Copy(io.Discard, out) // until the last of them has ended
		c.Wait()
	}
	t.Cleanup(end)
	all := make(map[string]running)
	for d := json.NewDecoder(out); len(all) < e.count(); {
		var r running
		must(t, d.Decode(&r))
		all[r.Name] = r
	}
	return all, end
}

// ownersHere goes by the hints in this machine's /proc.
func ownersHere(t testing.TB, hints ...Hint) *Owners {
	t.Helper()
	old := hostNamespace
	t.Cleanup(func() { hostNamespace = old })
	hostNamespace, _ = os.Readlink("/proc/self/ns/pid")
	return NewOwners(hints)
}

// owned says of each process whose it is, as "name: backend/replica".
func owned(o *Owners, processes ...map[string]running) string {
	var list []admission.Process
	var names []string
	for _, of := range processes {
		for _, r := range of {
			list = append(list, admission.Process{PID: r.PID})
			names = append(names, r.Name)
		}
	}
	o.assign("", list)
	for i, p := range list {
		if names[i] += ": nobody"; p.Backend != "" {
			names[i] = strings.Replace(names[i], "nobody", fmt.Sprintf("%s/%d", p.Backend, p.Replica), 1)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func wantOwned(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

const anyPort = "127.0.0.1:0"

func TestAProcessBelongsToTheListenerThatStartedIt(t *testing.T) {
	flux, _ := begin(t, os.Args[0], engine{Name: "flux", Listen: anyPort, Start: []engine{
		{Name: "flux worker", Start: []engine{{Name: "flux worker's worker"}}}, {Name: "flux group", Group: true}}})
	other, _ := begin(t, os.Args[0], engine{Name: "other", Listen: anyPort, Start: []engine{{Name: "other worker"}}})
	idle, _ := begin(t, os.Args[0], engine{Name: "stranger", Listen: anyPort})
	o := ownersHere(t, Hint{Backend: "flux", Address: flux["flux"].Address}, Hint{Backend: "vqa", Replica: 1, Address: other["other"].Address})
	wantOwned(t, owned(o, flux, other, idle), "flux group: flux/0, flux worker's worker: flux/0, flux worker: flux/0, flux: flux/0, "+
		"other worker: vqa/1, other: vqa/1, stranger: nobody")
}

func TestOneThatStartedTheListenerBelongsToItInOneProcessGroup(t *testing.T) {
	near, _ := begin(t, os.Args[0], engine{Name: "loads", Start: []engine{{Name: "serves", Listen: anyPort}, {Name: "beside"}}})
	far, _ := begin(t, os.Args[0], engine{Name: "launcher", Start: []engine{{Name: "apart", Listen: anyPort, Group: true}}})
	o := ownersHere(t, Hint{Backend: "near", Address: near["serves"].Address}, Hint{Backend: "far", Address: far["apart"].Address})
	wantOwned(t, owned(o, near, far), "apart: far/0, beside: nobody, launcher: nobody, loads: near/0, serves: near/0")
}

func TestAListenerThatHandedItsSocketOnAndEnded(t *testing.T) {
	all, _ := begin(t, os.Args[0], engine{Name: "daemon",
		Start: []engine{{Name: "starter", Listen: anyPort, Vanishes: true, Start: []engine{{Name: "stays"}}}}})
	starter := all["starter"]
	delete(all, "starter")
	delete(all, "daemon")
	o := ownersHere(t, Hint{Backend: "flux", Address: starter.Address})
	wantOwned(t, owned(o, all), "stays: flux/0")
}

func TestABackendThatIsStartedAnewIsKnownAgain(t *testing.T) {
	first, end := begin(t, os.Args[0], engine{Name: "first", Listen: anyPort})
	o := ownersHere(t, Hint{Backend: "flux", Address: first["first"].Address})
	wantOwned(t, owned(o, first), "first: flux/0")
	end()
	second, _ := begin(t, os.Args[0], engine{Name: "second", Listen: first["first"].Address, Start: []engine{{Name: "worker"}}})
	wantOwned(t, owned(o, first, second), "first: nobody, second: flux/0, worker: flux/0")
}

func TestAProcessIsKnownByItsPID(t *testing.T) {
	all, _ := begin(t, os.Args[0], engine{Name: "flux", Start: []engine{{Name: "worker"}}})
	o := ownersHere(t, Hint{Backend: "flux", PID: all["flux"].PID})
	wantOwned(t, owned(o, all, map[string]running{"": {Name: "nothing", PID: 1 << 30}}), "flux: flux/0, nothing: nobody, worker: flux/0")
	o.Set([]Hint{{Backend: "vqa", PID: all["worker"].PID}})
	wantOwned(t, owned(o, all), "flux: nobody, worker: vqa/0")
}

func TestAProcessIsKnownByTheNameOfItsProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "comfyui-with-a-long-name")
	file, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(file, program))
	comfy, _ := begin(t, program, engine{Name: "comfy", Start: []engine{{Name: "comfy worker"}}})
	other, _ := begin(t, os.Args[0], engine{Name: "other", Listen: anyPort})
	o := ownersHere(t, Hint{Backend: "comfyui", Name: "comfyui-with-a-long-name"})
	wantOwned(t, owned(o, comfy, other), "comfy worker: comfyui/0, comfy: comfyui/0, other: nobody")
	// The name is that of the file, which both run; what listens is known better.
	o.Set([]Hint{{Backend: "comfyui", Name: filepath.Base(file)}, {Backend: "vqa", Address: other["other"].Address}})
	wantOwned(t, owned(o, comfy, other), "comfy worker: comfyui/0, comfy: comfyui/0, other: vqa/0")
}

func TestAnAddressElsewhereSaysNothing(t *testing.T) {
	all, _ := begin(t, os.Args[0], engine{Name: "flux", Listen: anyPort})
	_, port, err := net.SplitHostPort(all["flux"].Address)
	must(t, err)
	for host, want := range map[string]string{"127.0.0.1": "flux/0", "localhost": "flux/0", "192.0.2.1": "nobody", "flux": "nobody", "::1": "nobody"} {
		o := ownersHere(t, Hint{Backend: "flux", Address: net.JoinHostPort(host, port)})
		wantOwned(t, host+" "+owned(o, all), host+" flux: "+want)
	}
}

func TestASocketOfEveryAddressIsBehindEach(t *testing.T) {
	all, _ := begin(t, os.Args[0], engine{Name: "flux", Listen: ":0"})
	_, port, err := net.SplitHostPort(all["flux"].Address)
	must(t, err)
	o := ownersHere(t, Hint{Backend: "flux", Address: "localhost:" + port})
	wantOwned(t, owned(o, all), "flux: flux/0")
}

// BenchmarkOwners is what one list of a card's processes costs.
func BenchmarkOwners(b *testing.B) {
	all, _ := begin(b, os.Args[0], engine{Name: "flux", Listen: anyPort, Start: []engine{{Name: "worker"}}})
	hints := []Hint{{Backend: "flux", Address: all["flux"].Address}}
	list := []admission.Process{{PID: all["flux"].PID}, {PID: all["worker"].PID}, {PID: os.Getpid()}}
	b.Run("known", func(b *testing.B) {
		for o := ownersHere(b, hints...); b.Loop(); {
			o.assign("", list)
		}
	})
	b.Run("new", func(b *testing.B) {
		for o := ownersHere(b, hints...); b.Loop(); {
			o.Set(hints)
			o.assign("", list)
		}
	})
}
