package telemetry

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestTheSectionIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string // paths
	}{
		"the usual":              {func(*Config) {}, nil},
		"OTLP over HTTP":         {func(c *Config) { c.Traces = TracesConfig{"otlp", "http://127.0.0.1:4318", .5} }, nil},
		"OTLP over gRPC and TLS": {func(c *Config) { c.Traces = TracesConfig{"otlp", "grpcs://collector:4317", 0} }, nil},
		"an unknown exporter":    {func(c *Config) { c.Traces.Exporter = "zipkin" }, []string{"traces.exporter"}},
		"an unknown format":      {func(c *Config) { c.Log.Format = "xml" }, []string{"log.format"}},
		"an unknown level":       {func(c *Config) { c.Log.Level = "INFO+2" }, []string{"log.level"}},
		"more than all":          {func(c *Config) { c.Traces.Sample = 1.5 }, []string{"traces.sample"}},
		"less than none":         {func(c *Config) { c.Traces.Sample = -.1 }, []string{"traces.sample"}},
		"no number":              {func(c *Config) { c.Traces.Sample = math.NaN() }, []string{"traces.sample"}},
		"no name":                {func(c *Config) { c.ServiceName = "" }, []string{"service_name"}},
		"an address without way": {func(c *Config) { c.Traces = TracesConfig{"otlp", "127.0.0.1:4318", 1} }, []string{"traces.endpoint"}},
		"an address with a key":  {func(c *Config) { c.Traces = TracesConfig{"otlp", "http://me:key@box:4318", 1} }, []string{"traces.endpoint"}},
		"an address without use": {func(c *Config) { c.Traces = TracesConfig{"none", "http://box:4318", 1} }, []string{"traces.endpoint"}},
		"all mistakes are listed": {func(c *Config) { *c = Config{Traces: TracesConfig{Exporter: "x", Sample: 2}} },
			[]string{"log.format", "log.level", "service_name", "traces.exporter", "traces.sample"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := usual()
			c.change(&config)
			var got []string
			config.Check(func(path, problem string) {
				got = append(got, path)
				if !strings.Contains(problem, "want") {
					t.Errorf("%s: %s: does not say what is wanted", path, problem)
				}
				if strings.Contains(problem, "key@") {
					t.Errorf("%s: %s: has a secret", path, problem)
				}
			})
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("mistakes at %v, want them at %v", got, c.want)
			}
		})
	}
}
