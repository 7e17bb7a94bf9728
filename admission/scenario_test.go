package admission

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scenarios of testdata")

// TestScenarios plays the stories of testdata. A line that begins at the margin
// is an event, or says what the box is; what follows from it stands below,
// indented, and is what -rewrite writes. Every promise is checked after every
// event.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(files) < 10 {
		t.Fatalf("there are %d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tellScenario(string(want))
			if err != nil {
				t.Fatal(err)
			}
			if *rewrite {
				err = os.WriteFile(file, []byte(got), 0o644)
			} else if !bytes.Equal([]byte(got), want) {
				err = fmt.Errorf("it now goes otherwise; read it after go test ./admission -run Scenarios -rewrite. It would be\n%s", got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// scenario is one story as it is told.
type scenario struct {
	w     *world
	cfg   Config
	names map[string]*Ticket
	text  strings.Builder
	event string // the line at hand; empty between two
}

func tellScenario(text string) (string, error) {
	s := &scenario{names: map[string]*Ticket{}}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, " \n")
		if strings.HasPrefix(line, " ") {
			continue // what was told the last time
		}
		var err error
		switch word, rest, _ := strings.Cut(line, " "); {
		case line == "" || word == "#":
			s.text.WriteString(line + "\n")
		case word == "at":
			err = s.happens(line, rest)
		case s.w != nil:
			err = fmt.Errorf("the box is described before the first event")
		default:
			s.text.WriteString(line + "\n")
			err = s.describe(strings.Fields(line))
		}
		if err != nil {
			return "", fmt.Errorf("line %d: %s: %w", number, line, err)
		}
	}
	return s.text.String(), nil
}

// words reads a line word by word; the first thing that is wrong stays.
type words struct {
	left []string
	err  error
}

func (w *words) next() string {
	if len(w.left) == 0 {
		return ""
	}
	first := strings.TrimRight(w.left[0], ",:")
	w.left = w.left[1:]
	return first
}

// is takes the next words if they are those.
func (w *words) is(phrase string) bool {
	want := strings.Fields(phrase)
	if len(w.left) < len(want) {
		return false
	}
	for i, x := range want {
		if strings.TrimRight(w.left[i], ",:") != x {
			return false
		}
	}
	w.left = w.left[len(want):]
	return true
}

func (w *words) note(err error) {
	if err != nil && w.err == nil {
		w.err = err
	}
}

func (w *words) bytes() Bytes {
	b, err := ParseBytes(w.next())
	w.note(err)
	return b
}

func (w *words) time() time.Duration {
	d, err := time.ParseDuration(w.next())
	w.note(err)
	return d
}

func (w *words) number() int {
	n, err := strconv.Atoi(w.next())
	w.note(err)
	return n
}

func (w *words) end() error {
	if len(w.left) > 0 {
		w.note(fmt.Errorf("%q is not understood", strings.Join(w.left, " ")))
	}
	return w.err
}

// describe adds a line to the box.
func (s *scenario) describe(line []string) error {
	w := &words{left: line}
	switch what := w.next(); what {
	case "gpu":
		g := GPU{Name: w.next(), Memory: w.bytes()}
		for len(w.left) > 0 {
			switch {
			case w.is("reserve"):
				g.Reserve = w.bytes()
			default:
				return w.end()
			}
		}
		s.cfg.GPUs = append(s.cfg.GPUs, g)
	case "class":
		c := Class{Name: w.next(), QueueLimit: 100, QueueTimeout: 10 * time.Minute, StrictAfter: time.Hour}
		for len(w.left) > 0 {
			switch {
			case w.is("slots"):
				c.Slots = w.number()
			case w.is("queue"):
				c.QueueLimit = w.number()
			case w.is("timeout"):
				c.QueueTimeout = w.time()
			case w.is("boost"):
				c.Boost = w.time()
			case w.is("strict after"):
				c.StrictAfter = w.time()
			default:
				return w.end()
			}
		}
		s.cfg.Classes = append(s.cfg.Classes, c)
	case "backend":
		b := Backend{Name: w.next(), ReturnsMemory: true}
		for len(w.left) > 0 {
			switch {
			case w.is("on"), w.is("or on"):
				b.Replicas = append(b.Replicas, Replica{Places: []Place{{GPU: w.next()}}})
			case w.is("and"):
				last := &b.Replicas[len(b.Replicas)-1]
				last.Places = append(last.Places, Place{GPU: w.next()})
			case w.is("resident"):
				amount := w.bytes()
				for _, r := range b.Replicas {
					for i := range r.Places {
						r.Places[i].Resident = amount
					}
				}
			case w.is("slots"):
				b.Slots = w.number()
			case w.is("reserved for"):
				b.Reserved = map[string]int{w.next(): w.number()}
			case w.is("keeps its memory"):
				b.ReturnsMemory = false
			default:
				return w.end()
			}
		}
		s.cfg.Backends = append(s.cfg.Backends, b)
	case "tenant":
		name := w.next()
		if w.is("weighs") {
			if s.cfg.Tenants.Weights == nil {
				s.cfg.Tenants.Weights = map[string]float64{}
			}
			s.cfg.Tenants.Weights[name] = float64(w.number())
		}
	case "tenants":
		if w.is("may queue") {
			s.cfg.Tenants.QueueLimit = w.number()
		}
	}
	return w.end()
}

// happens plays one line and writes what follows from it.
func (s *scenario) happens(line, rest string) error {
	if s.w == nil {
		s.w = newWorld(s.cfg, nil)
		s.w.told = s.told
	}
	w := &words{left: strings.Fields(rest)}
	at := w.time()
	if w.err != nil {
		return w.err
	}
	if at < s.w.now {
		return fmt.Errorf("it is %v already", s.w.now)
	}
	s.w.advance(at - s.w.now)
	s.event = line
	s.text.WriteString(line + "\n")
	if err := s.play(w); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	err := s.w.check()
	s.event = ""
	return err
}

func (s *scenario) play(w *words) error {
	if w.is("who waits") {
		for _, x := range s.w.s.Queue(s.w.now, 0) {
			s.waits(x)
		}
		return nil
	}
	if w.is("nothing happens") {
		return nil
	}
	if w.is("drain and serve the queue") || w.is("drain and refuse the queue") {
		s.w.s.RefuseNew(s.w.now, Rejection{Code: CodeDraining, Position: -1}, strings.Contains(s.event, "refuse"))
		s.w.decided()
		return nil
	}
	name := w.next()
	t := s.names[name]
	switch {
	case w.is("arrives as"):
		return s.arrive(name, w)
	case t != nil && t.state == stateRunning && w.is("ends"):
		s.w.end(t)
	case t != nil && t.state == stateWaiting && w.is("leaves"):
		s.w.leave(t)
	case w.is("is paused"):
		s.w.setPaused(name, true)
	case w.is("goes on"):
		s.w.setPaused(name, false)
	case w.is("drains"):
		s.w.setDraining(name, true)
	case w.is("takes work again"):
		s.w.setDraining(name, false)
	case w.is("is unavailable"):
		s.w.setAvailable(name, 0, 0)
	case w.is("takes one probe"):
		s.w.setAvailable(name, 0, 1)
	case w.is("is available"):
		s.w.setAvailable(name, 0, -1)
	case w.is("has"):
		s.w.observe(Reading{GPU: name, Total: w.bytes(), Used: w.bytes(), Source: "nvml"})
		w.is("in use")
	default:
		return fmt.Errorf("%q is not understood, or cannot be", strings.Join(w.left, " "))
	}
	return nil
}

// arrive reads `A arrives as heavy on flux, 34GiB for 18s`.
func (s *scenario) arrive(name string, w *words) error {
	q := Request{Class: w.next()}
	for len(w.left) > 0 && w.err == nil {
		switch {
		case w.is("on"):
			q.Backend, q.VRAM = w.next(), w.bytes()
		case w.is("for"):
			q.Estimate.P50 = w.time()
			q.Estimate.P95 = q.Estimate.P50
		case w.is("to"):
			q.Estimate.P95 = w.time()
		case w.is("tenant"):
			q.Tenant = w.next()
		case w.is("urgent by"):
			q.Boost = w.time()
		case w.is("wanted by"):
			q.Deadline, q.Fastest = s.w.s.epoch.Add(w.time()), q.Estimate.P50
		default:
			return w.end()
		}
	}
	if w.err != nil {
		return w.err
	}
	if s.names[name] != nil {
		return fmt.Errorf("%s came before", name)
	}
	s.names[name] = nil // until it is there, the last id is its
	t := s.w.submit(q)
	s.names[name] = t
	switch {
	case t.state == stateRunning:
		s.line("%s starts%s", name, s.on(t))
	case t.rejection != nil:
		s.line("%s is refused: %s", name, refusal(t.rejection))
	default:
		x, _ := s.w.s.Explain(s.w.now, t.ID())
		s.waits(x)
	}
	return nil
}

func refusal(r *Rejection) string {
	text := string(r.Code)
	if r.Detail != "" {
		text += " (" + r.Detail + ")"
	}
	if r.Waited > 0 {
		text += fmt.Sprintf(" after %v", r.Waited)
	}
	if r.RetryAfter > 0 {
		text += fmt.Sprintf(", come back in %v", r.RetryAfter)
	}
	return text
}

// told hears of what became of a ticket beside the one that the event names.
func (s *scenario) told(what string, t *Ticket) {
	name := s.name(t.ID())
	if name == "" {
		return // it is being submitted; arrive tells of it
	}
	switch what {
	case "granted":
		s.line("%s starts%s after %v", name, s.on(t), t.Waited())
	case "refused":
		s.line("%s is refused: %s", name, refusal(t.rejection))
	case "strict":
		s.line("%s is protected: nothing that would not fit beside it starts any more", name)
	}
}

func (s *scenario) name(id uint64) string {
	for name, t := range s.names {
		if t != nil && t.ID() == id {
			return name
		}
	}
	return ""
}

// on says where a ticket runs, if that was a choice.
func (s *scenario) on(t *Ticket) string {
	if len(t.shape.backend.replicas) == 1 {
		return ""
	}
	var gpus []string
	for _, a := range t.replica.accounts {
		gpus = append(gpus, s.w.s.box.ledger.Name(s.w.s.box.ledger.GPUOf(a)))
	}
	return " on " + strings.Join(gpus, " and ")
}

// line writes what happened, with the time where no event brought it.
func (s *scenario) line(format string, args ...any) {
	s.text.WriteString("    ")
	if s.event == "" {
		fmt.Fprintf(&s.text, "at %v ", s.w.now)
	}
	fmt.Fprintf(&s.text, format+"\n", args...)
}

func (s *scenario) waits(x Waiter) {
	text := fmt.Sprintf("%s waits for %s", s.name(x.ID), x.Reason)
	if s.name(x.ID) == "" {
		text = "it waits for " + string(x.Reason)
	}
	switch x.Reason {
	case ReasonResources, ReasonCapacityReduced, ReasonReservedForOther:
		text += fmt.Sprintf(", %s has %v of %v", x.Resource, Bytes(max(0, x.Free)), Bytes(x.Need))
	case ReasonClassSlots, ReasonBackendSlots:
		text += ", " + x.Resource
	}
	var holders []string
	for _, id := range x.Holders {
		holders = append(holders, s.name(id))
	}
	if slices.Sort(holders); len(holders) > 0 {
		text += ", held by " + strings.Join(holders, " and ")
	}
	if x.ReservedFor != 0 {
		text += ", kept for " + s.name(x.ReservedFor)
	}
	text += fmt.Sprintf("; %d before it", x.Position)
	if !x.EstimatedStart.IsZero() {
		text += fmt.Sprintf(", expected at %v", x.EstimatedStart.Sub(s.w.s.epoch))
	}
	s.line("%s", text)
}
