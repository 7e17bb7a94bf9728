package replay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// twoEngines is a card on which a model for images and one for chats do not fit
// together: an image retains 28 GiB of 47, and the chat model is 20.
func twoEngines() *Box {
	return &Box{
		Name: "two engines",
		Admission: admission.Config{
			GPUs: []admission.GPU{{Name: "gpu0", Memory: 48 * admission.GiB, Reserve: admission.GiB, Turn: 30 * time.Second}},
			Classes: []admission.Class{
				{Name: "chat", Slots: 16, QueueLimit: 100, StrictAfter: 5 * time.Second},
				{Name: "image", Slots: 1, QueueLimit: 100, StrictAfter: 5 * time.Second},
			},
			Backends: []admission.Backend{
				{Name: "diffuse", Reclaims: true, MinResidency: 30 * time.Second,
					Replicas: []admission.Replica{{Places: []admission.Place{{GPU: "gpu0", Resident: 16 * admission.GiB}}}}},
				{Name: "vllm", Reclaims: true, MinResidency: 30 * time.Second, ReturnsMemory: true,
					Replicas: []admission.Replica{{Places: []admission.Place{{GPU: "gpu0", Resident: 20 * admission.GiB}}}}},
			},
		},
		Routes: []Route{
			{Name: "images", Class: "image", Backend: "diffuse", VRAM: 12 * admission.GiB, Estimate: estimate(7)},
			{Name: "chat", Class: "chat", Backend: "vllm", VRAM: 512 * admission.MiB, Estimate: estimate(2), Aborts: true},
		},
		Learn: true,
		Wakes: map[string]bool{"vllm": true},
	}
}

// swaps is what a run of the two engines shows.
type swaps struct {
	done          int           // images
	longest       time.Duration // wait of a chat
	moving, chats time.Duration // unloading and loading, and chats that ran
	present       time.Duration // in which an image waited or ran
	stolen        []string      // unloads after which the same backend took the room again
}

// playTurns plays a trace of images and chats on the two engines.
func playTurns(t *testing.T, box *Box, trace *Trace) swaps {
	t.Helper()
	log, err := Admission(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	var s swaps
	isChat := func(request int32) bool { return trace.Class(&trace.Rows[request]) == "chat" }
	started := make([]time.Duration, len(trace.Rows))
	ends := time.Duration(0) // of the images so far
	freed := -1              // the backend that was unloaded last, until something starts
	for _, e := range log.Events {
		switch e.What {
		case Freed:
			freed = int(e.Request)
			s.moving += admission.UnloadTime
		case Loaded:
			s.moving += 10 * time.Second
		case Started:
			started[e.Request] = e.At
			if by := map[bool]int{true: 1, false: 0}[isChat(e.Request)]; by == freed {
				s.stolen = append(s.stolen, fmt.Sprintf("at %v the one of %v starts, and its own backend was unloaded", e.At, trace.Rows[e.Request].At))
			}
			freed = -1
			if isChat(e.Request) {
				s.longest = max(s.longest, e.At-trace.Rows[e.Request].At)
			}
		case Ended:
			if isChat(e.Request) {
				s.chats += e.At - started[e.Request]
				break
			}
			s.done++
			// Images run one after the other, in order of arrival.
			s.present += e.At - max(ends, trace.Rows[e.Request].At)
			ends = e.At
		}
	}
	return s
}

const threeChats = "1,chat,2\n101,chat,2\n201,chat,2\n"

// everySeconds is a trace of an image each so many seconds, and chats.
func everySeconds(t *testing.T, period float64, chats string) *Trace {
	var rows strings.Builder
	for at := 0.0; at < 320; at += period {
		fmt.Fprintf(&rows, "%g,image,7\n", at)
	}
	return read(t, "at,class,execute\n"+chats+rows.String())
}

// Turns are scheduled and not won by luck: an image of 7 seconds comes each so many
// seconds, and chats now and then.
func TestTurnsBoundTheWait(t *testing.T) {
	// config.md: turn + the longest run + unload + load is 30 + 7 + 3 + 10 s. A turn
	// that ends before a run which would end after it takes the run off.
	const image, longest = 7 * time.Second, 45 * time.Second
	for _, period := range []float64{7.2, 8, 9, 10, 12, 14, 20} {
		for _, chats := range []string{threeChats, "20,chat,2\n27,chat,2\n90,chat,2\n95,chat,2\n290,chat,2\n"} {
			t.Run(fmt.Sprint(period, "/", chats[:2]), func(t *testing.T) {
				s := playTurns(t, twoEngines(), everySeconds(t, period, chats))
				if s.longest > longest {
					t.Errorf("a chat waits %v, want %v at most", s.longest, longest)
				}
				if least := 0.85 * float64(s.present-s.moving-s.chats) / float64(image); float64(s.done) < least {
					t.Errorf("%d images are done, want %.1f or more", s.done, least)
				}
				if len(s.stolen) > 0 {
					t.Error(s.stolen)
				}
			})
		}
	}
}
