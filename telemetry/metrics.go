package telemetry

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// metrics are the instruments and the label sets in use.
type metrics struct {
	server, wait, execution, firstByte, open, orders metric.Float64Histogram
	refusals, cancellations, failures, reloads, oom  metric.Int64Counter
	malformed, asked, freed, swaps, loads            metric.Int64Counter
	modelDuration, firstToken, perToken              metric.Float64Histogram
	estimates                                        metric.Float64Histogram

	mu    sync.RWMutex
	sets  map[labels]*set    // guarded by mu
	usual map[work]*usualSet // guarded by mu
}

// work is what most requests of a route have in common.
type work struct{ route, class, backend string }

// usualSet are the sets of requests that end well, without tenant and model: one
// look-up for all of them.
type usualSet struct{ wait, execution, runRatio, firstByte, alone, bill, requests found }

// found is a set that was looked up.
type found struct{ set atomic.Pointer[set] }

// of gives the set, which is always that of the same labels.
func (f *found) of(m *metrics, l labels) *set {
	s := f.set.Load()
	if s == nil {
		s = m.labelled(l)
		f.set.Store(s)
	}
	return s
}

// labels identify a series; unused ones are empty.
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
	setFirstByte
	setOpen
	setRequests
	setRefusals
	setCancellations
	setFailures
	setBill
	setBeside
	setEstimate
	// In these sets method is the operation and scheme is the provider. A further field
	// would make every look-up slower.
	setModel
	setTokens
)

// set is a label set that is made once, so that recording allocates nothing. The sums to
// which each request adds are kept here, and are read when they are collected, because the
// SDK would look up its series for each addition.
type set struct {
	record []metric.RecordOption
	add    []metric.AddOption
	by     metric.MeasurementOption
	used   atomic.Bool // something was added to sums
	sums   [2]sum
	// next is when a histogram's bucket takes its next exemplar, in nanoseconds of Unix.
	next [mostBuckets + 1]atomic.Int64
}

// sum is a number to which several goroutines add.
type sum struct{ bits atomic.Uint64 }

// sum adds to both sums.
func (s *set) sum(first, second float64) {
	s.sums[0].add(first)
	s.sums[1].add(second)
	if !s.used.Load() {
		s.used.Store(true)
	}
}

func (s *sum) add(n float64) {
	if n == 0 {
		return
	}
	for {
		old := s.bits.Load()
		if s.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+n)) {
			return
		}
	}
}

func (s *sum) value() float64 { return math.Float64frombits(s.bits.Load()) }

// exemplarEvery is the shortest time between two exemplars of a bucket of a series. A
// collector reads only the last one.
const exemplarEvery = 100 * time.Millisecond

// seconds records a duration in a histogram with the usual buckets, with the request as
// its exemplar where it is time for one.
func (q *Request) seconds(to metric.Float64Histogram, s *set, took time.Duration, now time.Time) {
	ctx := context.Background()
	if q.isKept() {
		n := took.Seconds()
		i := 0
		for i < len(buckets) && n > buckets[i] {
			i++
		}
		if at, next := now.UnixNano(), s.next[i].Load(); at >= next && s.next[i].CompareAndSwap(next, at+int64(exemplarEvery)) {
			ctx = withSpan(q.id)
		}
	}
	to.Record(ctx, took.Seconds(), s.record...)
}

// maxSets bounds the sets that are kept. Every label comes from a small closed set, so the
// bound is not reached. Beyond it a set is made for each use.
const maxSets = 10_000

func (m *metrics) labelled(l labels) *set {
	m.mu.RLock()
	s := m.sets[l]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	option := metric.WithAttributeSet(attribute.NewSet(l.attributes()...))
	s = &set{record: []metric.RecordOption{option}, add: []metric.AddOption{option}, by: option}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other := m.sets[l]; other != nil {
		return other
	}
	if len(m.sets) < maxSets {
		m.sets[l] = s
	}
	return s
}

// of gives the usual sets of a request. The caller holds q.mu, or there is no other yet.
func (m *metrics) of(q *Request) *usualSet {
	if q.usual != nil {
		return q.usual
	}
	w := work{q.route, q.class, q.backend}
	m.mu.RLock()
	u := m.usual[w]
	m.mu.RUnlock()
	if u == nil {
		u = new(usualSet)
		m.mu.Lock()
		if other := m.usual[w]; other != nil {
			u = other
		} else if len(m.usual) < maxSets {
			m.usual[w] = u
		}
		m.mu.Unlock()
	}
	q.usual = u
	return u
}

// observed are the sums of sets.
func (m *metrics) observed(g *gauges) func(metric.Observer) {
	requests := g.counter(MetricRequests, "", "Requests that have ended, by how.")
	gpuSeconds := g.sum(MetricGPUSeconds, "s", "Execution time, times the GPUs of the backend.")
	byteSeconds := g.sum(MetricByteSeconds, "", "Execution time, times the memory that was booked for the requests, in byte-seconds.")
	besideTime := g.sum(MetricBesideTime, "s", "Execution time, by the classes that ran beside it.")
	besideRuns := g.counter(MetricBesideRuns, "", "Executions that ended well, by the classes that ran beside them.")
	input := g.counter(MetricInputTokens, "{token}", "The number of input (prompt) tokens used, including cached tokens.")
	output := g.counter(MetricOutputTokens, "{token}", "The number of output (completion) tokens used, including reasoning tokens.")
	return func(o metric.Observer) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		for l, s := range m.sets {
			if !s.used.Load() {
				continue
			}
			first, second := s.sums[0].value(), s.sums[1].value()
			switch l.kind {
			case setRequests:
				o.ObserveInt64(requests, int64(first), s.by)
			case setBill:
				o.ObserveFloat64(gpuSeconds, first, s.by)
				o.ObserveFloat64(byteSeconds, second, s.by)
			case setBeside:
				o.ObserveFloat64(besideTime, first, s.by)
				o.ObserveInt64(besideRuns, int64(second), s.by)
			case setTokens:
				o.ObserveInt64(input, int64(first), s.by)
				o.ObserveInt64(output, int64(second), s.by)
			}
		}
	}
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
	case setFirstByte, setOpen:
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

// clampStatus bounds the values of the status label, which backends choose: a common status
// stays as it is, any other is rounded down to its hundred.
func clampStatus(status int) int {
	switch status {
	case 101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, statusClientLeft,
		500, 501, 502, 503, 504:
		return status
	}
	return min(max(status/100, 1), 5) * 100
}

// Bounds are the tenants and models that metrics name. All others are `other`.
type Bounds struct {
	Tenants, Models map[string]bool
}

// other stands in metrics for every name that is not configured.
const other = "other"

// Bound sets the tenants and models that metrics name, in addition to the models of the
// configuration's telemetry section. Before it is called, metrics name none.
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

// maker makes instruments and keeps the first error.
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

func (k *maker) bytes(name, about string) metric.Int64Counter {
	c, err := k.Int64Counter(name, metric.WithUnit("By"), metric.WithDescription(about))
	k.keep(err)
	return c
}

func (m *metrics) make(t *Telemetry, meter metric.Meter) error {
	k := &maker{Meter: meter}
	m.sets, m.usual = map[labels]*set{}, map[work]*usualSet{}
	m.server = k.seconds(MetricServer, "Duration of requests as clients see it.")
	m.wait = k.seconds(MetricWait, "Time in the queue before the grant or the refusal.")
	m.execution = k.seconds(MetricExecution, "Time from the grant to the backend's last byte.")
	m.firstByte = k.seconds(MetricFirstByte, "Time from asking the backend to the first byte of the answer's body.")
	m.open = k.seconds(MetricOpen, "How long connections stayed open that were switched to another protocol.")
	m.refusals = k.count(MetricRefusals, "Requests that the proxy answered itself, by code.")
	m.cancellations = k.count(MetricCancellations, "Requests whose client left, by how far they had come.")
	m.failures = k.count(MetricFailures, "Executions that failed, by code.")
	m.malformed = k.count(MetricMalformed, "Requests that could not be read as HTTP and were answered at once, by status.")
	m.orders = k.seconds(MetricOrders, "Duration of unloading and waking backends.")
	m.oom = k.count(MetricOOM, "Answers of backends that ran out of GPU memory.")
	var err error
	m.estimates, err = k.Float64Histogram(MetricEstimates, metric.WithUnit("1"), metric.WithExplicitBucketBoundaries(ratios...),
		metric.WithDescription("What was seen over what was estimated, of executions and of waits."))
	k.keep(err)
	m.modelDuration = k.seconds(MetricModelDuration, "Generative AI server request duration such as time-to-last byte or last output token.")
	m.firstToken = k.seconds(MetricFirstToken, "Time to generate first token for successful responses.")
	m.perToken, err = k.Float64Histogram(MetricPerToken, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(perToken...),
		metric.WithDescription("Time per output token generated after the first token for successful responses."))
	k.keep(err)
	m.loads = k.count(MetricLoads, "Backends that were woken.")
	m.asked = k.bytes(MetricAsked, "Memory that backends were to free when they were told to unload.")
	m.freed = k.bytes(MetricFreed, "Memory that was seen to come free when backends unloaded.")
	m.swaps = k.count(MetricSwaps, "Unloads of replicas on the GPU.")
	m.reloads = k.count(MetricReloads, "Reloads of the configuration.")
	m.observe(t, k)
	return k.err
}
