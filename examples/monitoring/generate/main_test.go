package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWhatIsCommittedIsWhatIsGenerated(t *testing.T) {
	text, err := dashboard()
	if err != nil {
		t.Fatal(err)
	}
	docs := read(t, docsFile)
	list, err := withList(docs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, read(t, dashboardFile)) || !bytes.Equal(list, docs) {
		t.Error("the dashboard or the list in docs/observability.md is not what is generated: want go run ./examples/monitoring/generate")
	}
}

// exported are the names of the metrics that the product has, by the contract.
func exported(t *testing.T) (names []string) {
	for line := range strings.Lines(string(read(t, "telemetry/testdata/names.golden"))) {
		if words := strings.Fields(line); words[0] == "metric" {
			names = append(names, words[2])
		}
	}
	return names
}

func TestEveryMetricThatIsAskedExists(t *testing.T) {
	have := exported(t)
	asked := map[string]bool{}
	for _, g := range groups {
		for _, p := range g.panels {
			if len(p.metrics()) == 0 || p.question == "" {
				t.Errorf("the panel %q asks nothing", p.title)
			}
			for _, name := range p.metrics() {
				asked[name] = true
				if !slices.Contains(have, name) {
					t.Errorf("the panel %q asks %s, which does not exist", p.title, name)
				}
			}
		}
	}
	for _, name := range regexp.MustCompile(`\banteroom_[a-z_]+\b`).FindAllString(ruleQueries(t), -1) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if isLabel := slices.Contains([]string{"anteroom_class", "anteroom_result", "anteroom_backend", "anteroom_gpu", "anteroom_state",
			"anteroom_code", "anteroom_order"}, name); !isLabel && !slices.Contains(have, name) {
			t.Errorf("a rule asks %s, which does not exist", name)
		}
	}
	for _, name := range have {
		if strings.HasPrefix(name, "anteroom_") && !asked[name] && !slices.Contains(onNoPanel, name) {
			t.Errorf("%s is on no panel, and not among those that need none", name)
		}
	}
}

// onNoPanel are metrics for alerts and for a closer look.
var onNoPanel = []string{"anteroom_backend_slots", "anteroom_backend_high_bytes", "anteroom_backend_low_bytes",
	"anteroom_backend_retained_bytes", "anteroom_config_reloads_total",
	"anteroom_connection_open_seconds", "anteroom_gpu_state", "anteroom_loads_total", "anteroom_paused", "anteroom_queue_bytes",
	"anteroom_queue_limit", "anteroom_vram_reserve_bytes"}

// ruleQueries are the expressions of the alert rules.
func ruleQueries(t *testing.T) string {
	var all strings.Builder
	for line := range strings.Lines(string(read(t, "examples/monitoring/rules.yml"))) {
		if expr, ok := strings.CutPrefix(strings.TrimSpace(line), "expr: "); ok {
			all.WriteString(expr + "\n")
		}
	}
	return all.String()
}

func TestEveryAlertHasARunbook(t *testing.T) {
	text := string(read(t, "examples/monitoring/rules.yml"))
	if alerts, runbooks := strings.Count(text, "- alert:"), strings.Count(text, "runbook: "); alerts < 10 || alerts != runbooks {
		t.Errorf("%d alerts have %d lines on what to do", alerts, runbooks)
	}
}
