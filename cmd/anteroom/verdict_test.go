package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// A card on which painter and talker have room one at a time. What talker holds can be
// unloaded, what keeper holds cannot.
const contested = `
gpus: {card: {memory: 24GiB, reserve: 0}}
classes:
  draw: {slots: 1, vram: 10GiB, estimate: 20s, queue: {timeout: 90s}}
  chat: {slots: 4, vram: 1GiB, estimate: 2s}
backends:
  painter: {url: "http://127.0.0.1:7001", gpu: card, resident: 2GiB, reclaim: {call: POST /free}}
  talker: {url: "http://127.0.0.1:7002", gpu: card, resident: 12GiB, reclaim: {call: POST /free}}
routes:
  - {name: pictures, match: {method: POST, path: /draw}, class: draw, backend: painter, vram: 'gib(10) * num(body.n, 1)'}
  - {name: words, match: {path: /chat}, class: chat, backend: talker}
  - {match: {path: /**}, pass: true, backend: talker}
`

func TestExplainGivesTheVerdict(t *testing.T) {
	pinned := strings.Replace(contested, "12GiB, reclaim: {call: POST /free}", "12GiB", 1)
	for _, c := range []struct {
		name, file, body string
		idle, worked     string // verdicts
		says             []string
	}{
		{"what has room", contested, `{"n": 0.1}`, "starts", "waits", []string{"verdict   starts at once while nothing runs"}},
		{"what has room when another is unloaded", contested, `{"n": 1}`, "starts", "waits",
			[]string{"once the other backends have worked: waits for ", "after talker was unloaded for it"}},
		{"what another that is never unloaded leaves no room for", pinned, `{"n": 1}`, "starts", "refused",
			[]string{"waits for 1m30s and is refused then (queue_timeout): needs 12GiB of card and 11GiB is available",
				"talker retains 13GiB and is not unloaded"}},
		{"what never fits", contested, `{"n": 3}`, "refused", "refused", []string{"verdict   is refused (never_fits): 30GiB on top of the 2GiB"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, c.file)
			code, stdout, stderr := anteroom("explain", "--json", "-c", file, "POST", "/draw", "--body", c.body)
			var e explanation
			if err := json.Unmarshal([]byte(stdout), &e); err != nil || code != 0 || e.Verdict == nil {
				t.Fatalf("%d, %v, %s, %s", code, err, stdout, stderr)
			}
			if e.Verdict.Idle.Verdict != c.idle || e.Verdict.Worked.Verdict != c.worked {
				t.Errorf("got %+v and %+v, want %s and %s", e.Verdict.Idle, e.Verdict.Worked, c.idle, c.worked)
			}
			_, stdout, _ = anteroom("explain", "-c", file, "POST", "/draw", "--body", c.body)
			for _, want := range c.says {
				if !strings.Contains(stdout, want) {
					t.Errorf("%q is not in\n%s", want, stdout)
				}
			}
		})
	}
	_, stdout, _ := anteroom("explain", "-c", write(t, strings.Replace(contested, "memory: 24GiB, reserve: 0", "", 1)), "POST", "/chat")
	if want := "verdict   not known: "; !strings.Contains(stdout, want) || !strings.Contains(stdout, "gpus.card.memory") {
		t.Errorf("without the card's size:\n%s\nwant %s", stdout, want)
	}
}

func TestExplainListsAllReadings(t *testing.T) {
	_, stdout, stderr := anteroom("explain", "--all-readings", "-c", write(t, contested), "POST", "/x/..%2fdraw")
	for _, want := range []string{
		"read as   POST /x/../draw: routes[2], past admission to talker\n",
		"read as   POST /x/..%2Fdraw: routes[2], past admission to talker\n",
		"read as   POST /draw: pictures, class draw of painter\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in\n%s%s", want, stdout, stderr)
		}
	}
	if !strings.Contains(stderr, "400 ambiguous_path") {
		t.Errorf("got %s, want the refusal too", stderr)
	}
}
