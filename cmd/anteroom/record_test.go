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
	"strconv"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/simulation"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

var (
	allScenes  = flag.Bool("scenes", false, "TestARecordReplays: play every scene of the demonstration, and not the shortest alone")
	sceneSpeed = flag.Float64("scenespeed", 20, "TestARecordReplays: play so many times faster than the box")
)

// TestARecordReplays plays a scene of the demonstration over real sockets, takes the
// record of it, and plays that in virtual time: the mean waits are the same within a
// tenth.
func TestARecordReplays(t *testing.T) {
	scenes := []simulation.Scene{simulation.Backlog(1)}
	if *allScenes {
		scenes = simulation.Scenes()
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
			admin := strings.TrimSuffix(b.status, "/api/state")
			var h timeline.History
			must(t, json.Unmarshal(fetch(t, admin+"/api/history"), &h))
			seen := make(map[string][]float64)
			for _, r := range h.Requests {
				seen[r.Class] = append(seen[r.Class], r.Wait) // admission goes by the time of the box
			}

			record := inBoxTime(t, fetch(t, admin+"/api/record"), speed)
			trace, err := replay.Read("record", bytes.NewReader(record))
			must(t, err)
			cfg, err := loadDemoConfig(scene, [2]string{"http://127.0.0.1:1", "http://127.0.0.1:2"})
			must(t, err)
			box, mistakes := replay.NewBox("demo", cfg)
			if len(mistakes) > 0 {
				t.Fatal(mistakes)
			}
			log, err := replay.Admission(box, trace)
			must(t, err)
			result, err := replay.Judge(box, trace, log)
			must(t, err)
			for _, class := range []string{"heavy", "light"} {
				want, got := average(seen[class]), result.Classes[class].Wait.Mean
				t.Logf("%s: %d requests waited for %.3f s on average, and %d for %.3f s in virtual time (%+.1f %% of both)",
					class, len(seen[class]), want, result.Classes[class].Completed, got, 200*(got-want)/max(got+want, 1e-9))
				// What waits for hardly anything has nothing to be compared with.
				if math.Abs(got-want) > max(want/10, 0.1) || result.Classes[class].Completed != len(seen[class]) {
					t.Errorf("%s: want the same within a tenth", class)
				}
			}
		})
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
