package telemetry

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// metrics are the instruments and the label sets in use.
type metrics struct {
	server, wait, execution, firstByte, open, orders          metric.Float64Histogram
	requests, refusals, cancellations, failures, reloads, oom metric.Int64Counter
	malformed, asked, freed, swaps                            metric.Int64Counter
	gpuSeconds, byteSeconds, besideTime                       metric.Float64Counter
	besideRuns, loads, inputTokens, outputTokens              metric.Int64Counter
	modelDuration, firstToken, perToken                       metric.Float64Histogram
	estimates                                                 metric.Float64Histogram

	mu   sync.RWMutex
	sets map[labels]*set // guarded by mu
}

// labels are what tells one series from another; unused ones are empty.
type labels struct {
	kind                                  uint8
	method, scheme, route, class, backend string
	tenant, model, result, extra          string
	status                                int
}

const (
	setServer = iota
	setWait
	setExecution
	setBackend
	setRequests
	setRefusals
	setCancellations
	setFailures
	setBill
	setBeside
	setEstimate
	// In these method is the operation and scheme the provider: each field more makes
	// every look-up dearer.
	setModel
	setTokens
)

// set is a label set ready for use, made once: recording then allocates
// nothing.
type set struct {
	record []metric.RecordOption
	add    []metric.AddOption
}

// maxSets bounds the series. Every label comes from a small closed set, so it
// is not reached; if it were, one more would not be remembered.
const maxSets = 10_000

func (m *metrics) labelled(l labels) *set {
	m.mu.RLock()
	s := m.sets[l]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	option := metric.WithAttributeSet(attribute.NewSet(l.attributes()...))
	s = &set{record: []metric.RecordOption{option}, add: []metric.AddOption{option}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sets) < maxSets {
		m.sets[l] = s
	}
	return s
}

func (l labels) attributes() []attribute.KeyValue {
	class, backend := attribute.String(AttrClass, l.class), attribute.String(AttrBackend, l.backend)
	switch l.kind {
	case setServer:
		set := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(l.method), semconv.URLScheme(l.scheme), semconv.HTTPRoute(l.route),
			semconv.HTTPResponseStatusCode(l.status)}
		if l.extra != "" {
			set = append(set, semconv.ErrorTypeKey.String(l.extra))
		}
		return set
	case setWait:
		return []attribute.KeyValue{class, attribute.String(AttrResult, l.result)}
	case setExecution:
		return []attribute.KeyValue{class, backend, attribute.String(AttrResult, l.result)}
	case setBackend:
		return []attribute.KeyValue{class, backend}
	case setRefusals:
		return []attribute.KeyValue{class, attribute.String(AttrCode, l.extra)}
	case setCancellations:
		return []attribute.KeyValue{class, attribute.String(AttrPhase, l.extra)}
	case setFailures:
		return []attribute.KeyValue{class, backend, attribute.String(AttrCode, l.extra)}
	case setBeside:
		return []attribute.KeyValue{class, attribute.String(AttrBeside, l.extra)}
	case setEstimate:
		return []attribute.KeyValue{class, attribute.String(AttrOf, l.extra)}
	case setModel, setTokens:
		set := []attribute.KeyValue{attribute.String(AttrOperation, l.method), attribute.String(AttrProvider, l.scheme),
			attribute.String(AttrModel, l.model)}
		if l.kind == setTokens {
			set = append(set, attribute.String(AttrModality, "unknown"))
		}
		if l.extra != "" {
			set = append(set, semconv.ErrorTypeKey.String(l.extra))
		}
		return set
	case setBill:
		return []attribute.KeyValue{class, attribute.String(AttrRoute, l.route), attribute.String(AttrTenant, l.tenant)}
	}
	return []attribute.KeyValue{attribute.String(AttrRoute, l.route), class, attribute.String(AttrResult, l.result),
		attribute.String(AttrTenant, l.tenant), attribute.String(AttrModel, l.model)}
}

// clampStatus bounds what backends can make of the status label: those in common
// use stand for themselves, any other for its hundred.
func clampStatus(status int) int {
	switch status {
	case 101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, statusClientLeft,
		500, 501, 502, 503, 504:
		return status
	}
	return min(max(status/100, 1), 5) * 100
}

// Bounds are the names that metrics may tell apart; of all others they say `other`.
type Bounds struct {
	Tenants, Models map[string]bool
}

// other stands in metrics for every name that is not configured.
const other = "other"

// Bound sets which tenants and models metrics tell apart, beside the models of the
// configuration's telemetry section. Before it is called they tell none apart.
func (t *Telemetry) Bound(b Bounds) {
	if b.Models == nil {
		b.Models = make(map[string]bool)
	}
	for _, name := range t.models {
		b.Models[name] = true
	}
	t.bounds.Store(&b)
}

func (t *Telemetry) knownTenant(name string) string {
	return bounded(name, t.bounds.Load().Tenants)
}

func (t *Telemetry) knownModel(name string) string {
	return bounded(name, t.bounds.Load().Models)
}

func bounded(name string, known map[string]bool) string {
	if name == "" || known[name] {
		return name
	}
	return other
}

func (m *metrics) reloaded(ok bool) {
	result := ResultFailed
	if ok {
		result = ResultOK
	}
	m.reloads.Add(context.Background(), 1, metric.WithAttributes(attribute.String(AttrResult, result)))
}

// maker collects the first error, so that making many instruments reads as a
// list.
type maker struct {
	metric.Meter
	err error
}

func (k *maker) keep(err error) {
	if k.err == nil {
		k.err = err
	}
}

func (k *maker) seconds(name, about string) metric.Float64Histogram {
	h, err := k.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about), metric.WithExplicitBucketBoundaries(buckets...))
	k.keep(err)
	return h
}

func (k *maker) count(name, about string) metric.Int64Counter {
	c, err := k.Int64Counter(name, metric.WithDescription(about))
	k.keep(err)
	return c
}

func (k *maker) tokens(name, about string) metric.Int64Counter {
	c, err := k.Int64Counter(name, metric.WithUnit("{token}"), metric.WithDescription(about))
	k.keep(err)
	return c
}

func (k *maker) bytes(name, about string) metric.Int64Counter {
	c, err := k.Int64Counter(name, metric.WithUnit("By"), metric.WithDescription(about))
	k.keep(err)
	return c
}

func (k *maker) sum(name, unit, about string) metric.Float64Counter {
	c, err := k.Float64Counter(name, metric.WithUnit(unit), metric.WithDescription(about))
	k.keep(err)
	return c
}

func (m *metrics) make(t *Telemetry, meter metric.Meter) error {
	k := &maker{Meter: meter}
	m.sets = map[labels]*set{}
	m.server = k.seconds(MetricServer, "Duration of requests as clients see it.")
	m.wait = k.seconds(MetricWait, "Time in the queue before the grant or the refusal.")
	m.execution = k.seconds(MetricExecution, "Time from the grant to the backend's last byte.")
	m.firstByte = k.seconds(MetricFirstByte, "Time from asking the backend to the first byte of the answer's body.")
	m.open = k.seconds(MetricOpen, "How long connections stayed open that were switched to another protocol.")
	m.requests = k.count(MetricRequests, "Requests that have ended, by how.")
	m.refusals = k.count(MetricRefusals, "Requests that the proxy answered itself, by code.")
	m.cancellations = k.count(MetricCancellations, "Requests whose client left, by how far they had come.")
	m.failures = k.count(MetricFailures, "Executions that failed, by code.")
	m.malformed = k.count(MetricMalformed, "Requests that could not be read as HTTP and were answered at once, by status.")
	m.gpuSeconds = k.sum(MetricGPUSeconds, "s", "Execution time, times the GPUs of the backend.")
	m.byteSeconds = k.sum(MetricByteSeconds, "", "Execution time, times the memory that was booked for the requests, in byte-seconds.")
	m.orders = k.seconds(MetricOrders, "Duration of unloading and waking backends.")
	m.oom = k.count(MetricOOM, "Answers of backends that ran out of GPU memory.")
	m.besideTime = k.sum(MetricBesideTime, "s", "Execution time, by the classes that ran beside it.")
	m.besideRuns = k.count(MetricBesideRuns, "Executions that ended well, by the classes that ran beside them.")
	var err error
	m.estimates, err = k.Float64Histogram(MetricEstimates, metric.WithUnit("1"), metric.WithExplicitBucketBoundaries(ratios...),
		metric.WithDescription("What was seen over what was estimated, of executions and of waits."))
	k.keep(err)
	m.modelDuration = k.seconds(MetricModelDuration, "Generative AI server request duration such as time-to-last byte or last output token.")
	m.firstToken = k.seconds(MetricFirstToken, "Time to generate first token for successful responses.")
	m.perToken, err = k.Float64Histogram(MetricPerToken, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(perToken...),
		metric.WithDescription("Time per output token generated after the first token for successful responses."))
	k.keep(err)
	m.inputTokens = k.tokens(MetricInputTokens, "The number of input (prompt) tokens used, including cached tokens.")
	m.outputTokens = k.tokens(MetricOutputTokens, "The number of output (completion) tokens used, including reasoning tokens.")
	m.loads = k.count(MetricLoads, "Backends that were woken.")
	m.asked = k.bytes(MetricAsked, "Memory that backends were to free when they were told to unload.")
	m.freed = k.bytes(MetricFreed, "Memory that was seen to come free when backends unloaded.")
	m.swaps = k.count(MetricSwaps, "Unloads of replicas on the GPU.")
	m.reloads = k.count(MetricReloads, "Reloads of the configuration.")
	m.observe(t, k)
	return k.err
}
