package telemetry

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/anteroom-gpu/anteroom/admission"
)

// metrics are the instruments and the label sets in use.
type metrics struct {
	server, wait, execution, firstByte, open, orders          metric.Float64Histogram
	requests, refusals, cancellations, failures, reloads, oom metric.Int64Counter
	malformed, asked, freed, swaps                            metric.Int64Counter
	gpuSeconds, gibSeconds                                    metric.Float64Counter

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
	case 101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, statusClientLeft, 500, 501, 502, 503, 504:
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
	h, err := k.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about))
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
	m.gibSeconds = k.sum(MetricGiBSeconds, "GiBy.s", "Execution time, times the memory that was booked for the requests.")
	m.orders = k.seconds(MetricOrders, "Duration of unloading and waking backends.")
	m.oom = k.count(MetricOOM, "Answers of backends that ran out of GPU memory.")
	m.asked = k.bytes(MetricAsked, "Memory that backends were to free when they were told to unload.")
	m.freed = k.bytes(MetricFreed, "Memory that was seen to come free when backends unloaded.")
	m.swaps = k.count(MetricSwaps, "Unloads of replicas on the GPU.")
	m.reloads = k.count(MetricReloads, "Reloads of the configuration.")
	m.gauges(t, k)
	return k.err
}

// gauge is one value that is read when it is collected.
func (k *maker) gauge(name, unit, about string) metric.Float64ObservableGauge {
	g, err := k.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
	k.keep(err)
	return g
}

// gauges reads the controller's snapshot once for each collection.
func (m *metrics) gauges(t *Telemetry, k *maker) {
	length := k.gauge(MetricQueueLength, "", "Requests that wait.")
	limit := k.gauge(MetricQueueLimit, "", "How many may wait.")
	held := k.gauge(MetricQueueBytes, "By", "Request bodies held for those that wait.")
	oldest := k.gauge(MetricQueueOldest, "s", "How long the eldest has waited.")
	slots := k.gauge(MetricSlots, "", "How many may run at once.")
	running := k.gauge(MetricRunning, "", "Requests that run.")
	paused := k.gauge(MetricPaused, "", "1 while an operator has paused the class.")
	capacity := k.gauge(MetricVRAMCapacity, "By", "Memory that may be budgeted, reserve included.")
	reserve := k.gauge(MetricVRAMReserve, "By", "Memory that is never given out.")
	booked := k.gauge(MetricVRAMBooked, "By", "Memory that the ledger has booked for backends.")
	unmanaged := k.gauge(MetricVRAMUnmanaged, "By", "Memory in use that belongs to no configured backend.")
	unattributed := k.gauge(MetricVRAMUnattributed, "By", "Memory that is in use, or may come to be, of which it is not known whose it is.")
	available := k.gauge(MetricVRAMAvailable, "By", "Memory left to give out.")
	observed := k.gauge(MetricVRAMObserved, "By", "Memory in use at the last good reading.")
	gpu := k.gauge(MetricGPUState, "", "1 for what is true of the card: readable, stale, lost.")
	retained := k.gauge(MetricRetained, "By", "Memory that the backend holds beyond what its running work needs.")
	low := k.gauge(MetricLow, "By", "The least memory that the backend can hold.")
	high := k.gauge(MetricHigh, "By", "The most memory that the backend can hold.")
	asleep := k.gauge(MetricAsleep, "", "1 while the backend is unloaded and has to be woken.")
	up := k.gauge(MetricBackendUp, "", "1 while the backend may be used.")
	breaker := k.gauge(MetricBreaker, "", "1 for the breaker's present state.")
	declared := k.gauge(MetricRouteDeclared, "By", "Memory that a request is declared to take.")
	taken := k.gauge(MetricRouteSeen, "By", "Memory that requests were seen to take.")
	reload := k.gauge(MetricReloadGood, "", "1 if the last reload was taken.")
	lost, err := k.Int64ObservableCounter(MetricSpansLost, metric.WithDescription("Spans that could not be exported."))
	k.keep(err)
	lines, err := k.Int64ObservableCounter(MetricLinesLost, metric.WithDescription("Log lines that were dropped because the log was not read in time."))
	k.keep(err)
	_, err = k.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(reload, yes(t.reloadGood.Load()))
		o.ObserveInt64(lost, t.spansLost.Load())
		o.ObserveInt64(lines, t.logs.Lost())
		s := t.sources.Load()
		if s == nil || s.Desk == nil {
			return nil
		}
		snapshot := s.Desk()
		for _, c := range snapshot.Classes {
			by := metric.WithAttributes(attribute.String(AttrClass, c.Name))
			o.ObserveFloat64(length, float64(c.Queued), by)
			o.ObserveFloat64(limit, float64(c.QueueLimit), by)
			o.ObserveFloat64(held, float64(c.QueuedBytes), by)
			o.ObserveFloat64(oldest, c.OldestWait.Seconds(), by)
			o.ObserveFloat64(slots, float64(c.Slots), by)
			o.ObserveFloat64(running, float64(c.Running), by)
			o.ObserveFloat64(paused, yes(c.Paused), by)
		}
		for _, g := range snapshot.GPUs {
			name := attribute.String(AttrGPU, g.Name)
			by := metric.WithAttributes(name)
			o.ObserveFloat64(capacity, float64(g.Capacity), by)
			o.ObserveFloat64(reserve, float64(g.Reserve), by)
			o.ObserveFloat64(booked, float64(g.Booked), by)
			o.ObserveFloat64(unmanaged, float64(g.Unmanaged), by)
			o.ObserveFloat64(unattributed, float64(g.Unattributed), by)
			o.ObserveFloat64(available, float64(g.Available), by)
			if g.Observed >= 0 {
				o.ObserveFloat64(observed, float64(g.Observed), by)
			}
			for state, is := range map[string]bool{"readable": g.Observed >= 0 && g.Err == "", "stale": g.Stale, "lost": g.Lost} {
				o.ObserveFloat64(gpu, yes(is), metric.WithAttributes(name, attribute.String(AttrState, state)))
			}
		}
		for _, b := range snapshot.Backends {
			o.ObserveFloat64(up, yes(b.Available && !b.Draining), metric.WithAttributes(attribute.String(AttrBackend, b.Name)))
			type held struct{ retained, low, high admission.Bytes }
			byGPU, sleeps := map[string]held{}, false
			for _, a := range b.Accounts {
				h := byGPU[a.GPU]
				byGPU[a.GPU] = held{h.retained + a.Retained, h.low + a.Low, h.high + a.High}
			}
			for _, r := range b.Replicas {
				sleeps = sleeps || r.Residency == "asleep"
			}
			for name, h := range byGPU {
				by := metric.WithAttributes(attribute.String(AttrBackend, b.Name), attribute.String(AttrGPU, name))
				o.ObserveFloat64(retained, float64(h.retained), by)
				o.ObserveFloat64(low, float64(h.low), by)
				o.ObserveFloat64(high, float64(h.high), by)
			}
			o.ObserveFloat64(asleep, yes(sleeps), metric.WithAttributes(attribute.String(AttrBackend, b.Name)))
		}
		if s.Memory != nil {
			for _, r := range s.Memory() {
				route := attribute.String(AttrRoute, r.Route)
				o.ObserveFloat64(declared, float64(r.Declared), metric.WithAttributes(route))
				o.ObserveFloat64(taken, float64(r.P95), metric.WithAttributes(route, attribute.String(AttrQuantile, "0.95")))
				o.ObserveFloat64(taken, float64(r.Most), metric.WithAttributes(route, attribute.String(AttrQuantile, "1")))
			}
		}
		if s.Breakers == nil {
			return nil
		}
		for name, replicas := range s.Breakers() {
			for i, now := range replicas {
				for _, state := range []string{"closed", "half-open", "open"} {
					o.ObserveFloat64(breaker, yes(now == state),
						metric.WithAttributes(attribute.String(AttrBackend, name), attribute.Int(AttrReplica, i), attribute.String(AttrState, state)))
				}
			}
		}
		return nil
	}, length, limit, held, oldest, slots, running, paused, capacity, reserve, booked, unmanaged, unattributed, available, observed, retained, low, high, asleep, gpu, declared, taken, up, breaker, reload, lost, lines)
	k.keep(err)
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
