package telemetry

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Config is the `telemetry` section of the file.
type Config struct {
	ServiceName string        `koanf:"service_name"`
	Traces      TracesConfig  `koanf:"traces"`
	Metrics     MetricsConfig `koanf:"metrics"`
	Log         LogConfig     `koanf:"log"`
	Client      bool          `koanf:"client"` // spans and log lines have the client's address
	Models      []string      `koanf:"models"` // that metrics tell apart
	History     HistoryConfig `koanf:"history"`
}

// HistoryConfig says how much is kept of what happened.
type HistoryConfig struct {
	For    time.Duration   `koanf:"for"`    // 0s: nothing is kept
	Memory admission.Bytes `koanf:"memory"` // all of it, estimated
}

// TracesConfig says where spans go. Exporter is empty (where OTEL_* asks for
// it, else nowhere), otlp, console or none.
type TracesConfig struct {
	Exporter string  `koanf:"exporter"`
	Endpoint string  `koanf:"endpoint"` // http://HOST:4318 or grpc://HOST:4317; empty: what OTEL_* or the protocol's default says
	Sample   float64 `koanf:"sample"`   // share of the traces that begin here, 0 to 1
}

// MetricsConfig says whether /metrics is served.
type MetricsConfig struct {
	Prometheus bool `koanf:"prometheus"`
	// NativeHistograms gives durations as Prometheus's native histograms, which have
	// fine bounds of their own and are read by a scrape in protobuf alone.
	NativeHistograms bool `koanf:"native_histograms"`
}

// LogConfig says how log lines look and which are written.
type LogConfig struct {
	Format string `koanf:"format"` // json | text
	Level  string `koanf:"level"`  // debug | info | warn | error
}

// Check reports every mistake in the section.
func (c Config) Check(report func(path, problem string)) {
	oneOf := func(path, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			named := slices.DeleteFunc(allowed, func(s string) bool { return s == "" })
			report(path, fmt.Sprintf("%q: want %s", value, strings.Join(named, " or ")))
		}
	}
	oneOf("traces.exporter", c.Traces.Exporter, "", "otlp", "console", "none")
	oneOf("log.format", c.Log.Format, "json", "text")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	if !(c.Traces.Sample >= 0 && c.Traces.Sample <= 1) {
		report("traces.sample", fmt.Sprintf("%v: want a share from 0 to 1", c.Traces.Sample))
	}
	if e := c.Traces.Endpoint; e != "" {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "grpc", "grpcs"}, u.Scheme) || u.User != nil {
			report("traces.endpoint", "want an address such as http://127.0.0.1:4318 or grpc://127.0.0.1:4317")
		}
		if c.Traces.Exporter != "otlp" {
			report("traces.endpoint", "is used by the exporter otlp alone: want `exporter: otlp` beside it")
		}
	}
	if h := c.History; h.For < 0 || h.For > 0 && h.Memory < admission.MiB {
		report("history", fmt.Sprintf("for %v in %v: want 0s or more, and 1MiB of memory or more", h.For, h.Memory))
	}
	if c.ServiceName == "" {
		report("service_name", "is empty: want a name such as anteroom")
	}
}
