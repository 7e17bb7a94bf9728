// Command generate writes the Grafana dashboard of examples/monitoring, and the list
// in docs/observability.md that says which metric answers which question. Both come from
// one list of questions.
//
//	go run ./examples/monitoring/generate
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"regexp"
	"strings"

	"github.com/anteroom-gpu/anteroom/internal/markdown"
)

const (
	dashboardFile = "examples/monitoring/dashboard.json"
	docsFile      = "docs/observability.md"
)

func main() {
	text, err := dashboard()
	if err == nil {
		err = os.WriteFile(dashboardFile, text, 0o644)
	}
	var docs []byte
	if err == nil {
		docs, err = os.ReadFile(docsFile)
	}
	if err == nil {
		docs, err = withList(docs)
	}
	if err == nil {
		err = os.WriteFile(docsFile, docs, 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

type object = map[string]any

// dashboard is Grafana's JSON, as its import takes it.
func dashboard() ([]byte, error) {
	var panels []object
	id, y := 0, 0
	for _, g := range groups {
		id++
		panels = append(panels, object{"id": id, "type": "row", "title": g.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		x := 0
		for _, p := range g.panels {
			id++
			width := 8
			if p.wide {
				width = 24
			}
			if x+width > 24 {
				x, y = 0, y+8
			}
			panels = append(panels, p.json(id, object{"x": x, "y": y, "w": width, "h": 8}))
			x += width
		}
		y += 8
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(object{
		"__inputs": []object{{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus"}},
		"title":    "Anteroom", "uid": "anteroom", "schemaVersion": 39, "tags": []string{"gpu", "anteroom"}, "editable": true, "refresh": "10s",
		"time": object{"from": "now-1h", "to": "now"},
		"templating": object{"list": []object{variable("class", "anteroom_slots", "anteroom_class"),
			variable("gpu", "anteroom_vram_capacity_bytes", "anteroom_gpu")}},
		"panels": panels,
	})
	return out.Bytes(), err
}

var source = object{"type": "prometheus", "uid": "${DS_PROMETHEUS}"}

func variable(name, metric, label string) object {
	return object{"name": name, "type": "query", "datasource": source, "query": fmt.Sprintf("label_values(%s, %s)", metric, label),
		"refresh": 2, "includeAll": true, "multi": true, "allValue": ".*", "current": object{"text": "All", "value": "$__all"}}
}

func (p panel) json(id int, at object) object {
	var targets []object
	for i, q := range p.queries {
		targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend,
			"exemplar": strings.Contains(q.expr, "_bucket")})
	}
	custom := object{"drawStyle": "line", "fillOpacity": 0, "showPoints": "never"}
	if p.stacked {
		custom["fillOpacity"], custom["stacking"] = 60, object{"mode": "normal"}
	}
	return object{"id": id, "type": "timeseries", "title": p.title, "description": p.question, "datasource": source, "gridPos": at, "targets": targets,
		"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0, "custom": custom}, "overrides": []any{}},
		"options":     object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi"}}}
}

var metricName = regexp.MustCompile(`\b(?:anteroom|http|hw|gen_ai)_[a-z_]+\b`)

// metrics are the names of the metrics that a panel asks, each once. Labels are not
// among them.
func (p panel) metrics() (names []string) {
	seen := make(map[string]bool)
	for _, q := range p.queries {
		// What stands in braces or behind by and on are labels.
		bare := regexp.MustCompile(`\{[^}]*\}|(by|on|group_left) \([^)]*\)`).ReplaceAllString(q.expr, "")
		for _, name := range metricName.FindAllString(bare, -1) {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				name = strings.TrimSuffix(name, suffix)
			}
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

const (
	listBegins = "<!-- The list is written by go run ./examples/monitoring/generate. -->\n"
	listEnds   = "<!-- The list ends. -->\n"
)

// withList puts the list of questions in its place.
func withList(docs []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(docs, []byte(listBegins))
	_, after, ends := bytes.Cut(rest, []byte(listEnds))
	if !ok || !ends {
		return nil, fmt.Errorf("%s: there is no place for the list: want a line %q and a line %q", docsFile, listBegins, listEnds)
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(listBegins)
	for _, g := range groups {
		fmt.Fprintf(&out, "\n%s:\n\n", g.title)
		for _, p := range g.panels {
			out.WriteString(markdown.Wrap("- ", "  ", fmt.Sprintf("%s: %s `%s`", p.title, p.question, strings.Join(p.metrics(), "`, `"))))
		}
	}
	out.WriteString("\n" + listEnds)
	out.Write(after)
	return out.Bytes(), nil
}
