package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/simulation/replay/configured"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

var (
	allScenes  = flag.Bool("scenes", false, "TestARecordReplays: play every scene of the demonstration but wide_lights, and not the shortest alone")
	sceneSpeed = flag.Float64("scenespeed", 20, "TestARecordReplays: play so many times faster than the box")
)

// TestARecordReplays plays a scene of the demonstration over real sockets, takes the
// record of it, and plays that in virtual time: the mean waits are the same within a
// tenth.
//
// Not so wide_lights: there clients come as fast as they are answered, and readings of
// totals alone leave it to a millisecond what the ledger makes of memory that comes free
// just before its run ends, so that no two plays of it wait for as long as each other.
// In virtual time it is the same, too.
func TestARecordReplays(t *testing.T) {
	scenes := []simulation.Scene{simulation.Backlog(1)}
	if *allScenes {
		scenes = slices.DeleteFunc(simulation.Scenes(), func(s simulation.Scene) bool { return s.Name == "wide_lights" })
	}
	speed := *sceneSpeed
	for _, scene := range scenes {
		t.Run(scene.Name, func(t *testing.T) {
			b, err := newBox(context.Background(), simulation.WallClock{}, scene, "anteroom", speed)
			must(t, err)
			defer b.close()
			p, err := b.play(t.Context(), scene)
			must(t, err)
			must(t, p.err)
			admin := strings.TrimSuffix(b.status, "/")
			var h timeline.History
			must(t, json.Unmarshal(fetch(t, admin+"/api/history"), &h))
			seen := make(map[string][]float64)
			for _, r := range h.Requests {
				seen[r.Class] = append(seen[r.Class], r.Wait) // admission goes by the time of the box
			}

			cfg, err := loadDemoConfig(scene, [2]string{"http://127.0.0.1:1", "http://127.0.0.1:2"})
			must(t, err)
			record := inBoxTime(t, fetch(t, admin+"/api/record"), speed)
			compare(t, cfg, record, seen)
		})
	}
}

// TestARecordOfVirtualTimeReplays is the same for every scene as `demo` plays them.
func TestARecordOfVirtualTimeReplays(t *testing.T) {
	for _, scene := range simulation.Scenes() {
		t.Run(scene.Name, func(t *testing.T) {
			p, err := playVirtual(t.Context(), scene, "anteroom")
			must(t, err)
			must(t, p.err)
			cfg, err := loadDemoConfig(scene, [2]string{"http://127.0.0.1:1", "http://127.0.0.1:2"})
			must(t, err)
			var h timeline.History
			seen := make(map[string][]float64)
			for _, o := range p.seen {
				class := "light"
				if o.Heavy {
					class = "heavy"
				}
				h.Requests = append(h.Requests, timeline.Request{Asked: time.Unix(0, int64(o.Sent)), Class: class, Result: "ok", Priority: 3,
					VRAM: int64(cfg.Routing.Classes[class].VRAM.Amount), Execute: o.Execute.Seconds()})
				seen[class] = append(seen[class], o.Wait().Seconds())
			}
			var record bytes.Buffer
			must(t, timeline.WriteCSV(&record, h))
			compare(t, cfg, record.Bytes(), seen)
		})
	}
}

// compare plays a record in virtual time and holds its mean waits against those seen.
func compare(t *testing.T, cfg *configs.Config, record []byte, seen map[string][]float64) {
	t.Helper()
	trace, err := replay.Read("record", bytes.NewReader(record))
	must(t, err)
	box, mistakes := configured.Box("demo", cfg)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	box.Readings = replay.Readings{Every: readEvery} // as the demonstration's: at once, and totals alone
	log, err := replay.Admission(box, trace)
	must(t, err)
	result, err := replay.Judge(box, trace, log)
	must(t, err)
	for _, class := range []string{"heavy", "light"} {
		want, got := average(seen[class]), result.Classes[class].Wait.Mean
		t.Logf("%s: %d requests waited for %.3f s on average, and %d for %.3f s in simulate", class, len(seen[class]), want,
			result.Classes[class].Completed, got)
		// What waits for hardly anything has nothing to be compared with.
		if math.Abs(got-want) > max(want/10, 0.1) || result.Classes[class].Completed != len(seen[class]) {
			t.Errorf("%s: want the same within a tenth", class)
		}
	}
}

func average(all []float64) (mean float64) {
	for _, x := range all {
		mean += x / float64(len(all))
	}
	return mean
}

// inBoxTime makes a record's times those of the box, which ran so many times faster.
func inBoxTime(t *testing.T, record []byte, speed float64) []byte {
	r := csv.NewReader(bytes.NewReader(record))
	r.Comment = '#'
	rows, err := r.ReadAll()
	must(t, err)
	for _, row := range rows[1:] {
		for _, column := range []int{0, 2} { // at and execute
			s, err := strconv.ParseFloat(row[column], 64)
			must(t, err)
			row[column] = fmt.Sprint(s * speed)
		}
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	must(t, w.WriteAll(rows))
	return out.Bytes()
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	res, err := http.Get(url)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, res.Status, text)
	}
	return text
}

// TestSimulateTakesARecordAsItIs through the command, from a file.
func TestSimulateTakesARecordAsItIs(t *testing.T) {
	model, _, open := gated(t)
	open()
	s := serveProcess(t, model)
	for range 3 {
		if got := <-posts(t, s.url, 1); got != "done" {
			t.Fatal(got)
		}
	}
	record := write(t, "")
	must(t, os.WriteFile(record, fetch(t, s.admin+"/api/record?for=10m"), 0o644))
	var out, errs bytes.Buffer
	if code := run([]string{"simulate", "-c", s.file, "--trace", record, "--json"}, &out, &errs); code != 0 {
		t.Fatalf("simulate ends with %d: %s", code, &errs)
	}
	if !strings.Contains(out.String(), `"completed": 3`) && !strings.Contains(out.String(), `"completed":3`) {
		t.Errorf("it plays %s, want three requests", &out)
	}
}
