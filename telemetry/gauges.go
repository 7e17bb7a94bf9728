package telemetry

import (
	"cmp"
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/anteroom-gpu/anteroom/admission"
)

// gauges makes instruments that are read when they are collected.
type gauges struct {
	*maker
	all []metric.Observable
}

func (g *gauges) gauge(name, unit, about string) metric.Float64ObservableGauge {
	i, err := g.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
	g.keep(err)
	g.all = append(g.all, i)
	return i
}

func (g *gauges) counter(name, unit, about string) metric.Int64ObservableCounter {
	i, err := g.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
	g.keep(err)
	g.all = append(g.all, i)
	return i
}

func (g *gauges) sum(name, unit, about string) metric.Float64ObservableCounter {
	i, err := g.Float64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
	g.keep(err)
	g.all = append(g.all, i)
	return i
}

func (g *gauges) upDown(name, unit, about string) metric.Int64ObservableUpDownCounter {
	i, err := g.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
	g.keep(err)
	g.all = append(g.all, i)
	return i
}

func by(attributes ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attributes...))
}

// observe reads the controller's snapshot once for each collection.
func (m *metrics) observe(t *Telemetry, k *maker) {
	g := &gauges{maker: k}
	reload := g.gauge(MetricReloadGood, "", "1 if the last reload was taken.")
	lost := g.counter(MetricSpansLost, "", "Spans that could not be exported.")
	lines := g.counter(MetricLinesLost, "", "Log lines that were dropped because the log was not read in time.")
	classes, cards, backends, routes := classGauges(g), gpuGauges(g), backendGauges(g), routeGauges(g)
	sums := m.observed(g)
	breaker := g.gauge(MetricBreaker, "", "1 for the breaker's present state.")
	_, err := k.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(reload, yes(t.reloadGood.Load()))
		o.ObserveInt64(lost, t.spansLost.Load())
		o.ObserveInt64(lines, t.logs.Lost())
		sums(o)
		s := t.sources.Load()
		if s == nil || s.Admission == nil {
			return nil
		}
		snapshot := s.Admission()
		for _, c := range snapshot.Classes {
			classes(o, c)
		}
		for _, g := range snapshot.GPUs {
			cards(o, g, snapshot.At)
		}
		for _, b := range snapshot.Backends {
			backends(o, b)
		}
		if s.Memory != nil {
			for _, r := range s.Memory() {
				routes(o, r)
			}
		}
		if s.Breakers == nil {
			return nil
		}
		for name, replicas := range s.Breakers() {
			for i, now := range replicas {
				for _, state := range []string{"closed", "half-open", "open"} {
					o.ObserveFloat64(breaker, yes(now == state), by(attribute.String(AttrBackend, name), attribute.Int(AttrReplica, i),
						attribute.String(AttrState, state)))
				}
			}
		}
		return nil
	}, g.all...)
	k.keep(err)
}

func classGauges(g *gauges) func(metric.Observer, admission.ClassState) {
	length := g.gauge(MetricQueueLength, "", "Requests that wait.")
	limit := g.gauge(MetricQueueLimit, "", "How many may wait.")
	held := g.gauge(MetricQueueBytes, "By", "Request bodies held for those that wait.")
	oldest := g.gauge(MetricQueueOldest, "s", "How long the eldest has waited.")
	slots := g.gauge(MetricSlots, "", "How many may run at once.")
	running := g.gauge(MetricRunning, "", "Requests that run.")
	paused := g.gauge(MetricPaused, "", "1 while an operator has paused the class.")
	backfilled := g.counter(MetricBackfills, "", "Requests that started although a queue head before them was blocked.")
	overtook := g.counter(MetricOvertakings, "", "Requests that started while one that had come earlier waited.")
	strict := g.counter(MetricStrictHeads, "", "Requests that nothing could overtake any more, because they had been blocked for strict_after.")
	return func(o metric.Observer, c admission.ClassState) {
		by := by(attribute.String(AttrClass, c.Name))
		o.ObserveFloat64(length, float64(c.Queued), by)
		o.ObserveFloat64(limit, float64(c.QueueLimit), by)
		o.ObserveFloat64(held, float64(c.QueuedBytes), by)
		o.ObserveFloat64(oldest, c.OldestWait.Seconds(), by)
		o.ObserveFloat64(slots, float64(c.Slots), by)
		o.ObserveFloat64(running, float64(c.Running), by)
		o.ObserveFloat64(paused, yes(c.Paused), by)
		o.ObserveInt64(backfilled, int64(c.Backfilled), by)
		o.ObserveInt64(overtook, int64(c.Overtook), by)
		o.ObserveInt64(strict, int64(c.Strict), by)
	}
}

func gpuGauges(g *gauges) func(metric.Observer, admission.GPUState, time.Time) {
	capacity := g.gauge(MetricVRAMCapacity, "By", "Memory that may be budgeted, reserve included.")
	reserve := g.gauge(MetricVRAMReserve, "By", "Memory that is never given out.")
	booked := g.gauge(MetricVRAMBooked, "By", "Memory that the ledger has booked for backends.")
	unmanaged := g.gauge(MetricVRAMUnmanaged, "By", "Memory in use that belongs to no configured backend.")
	unattributed := g.gauge(MetricVRAMUnattributed, "By", "Memory that is in use, or may come to be, of which it is not known whose it is.")
	available := g.gauge(MetricVRAMAvailable, "By", "Memory left to give out.")
	observed := g.gauge(MetricVRAMObserved, "By", "Memory in use at the last good reading.")
	age := g.gauge(MetricReadingAge, "s", "How old the last good reading is.")
	state := g.gauge(MetricGPUState, "", "1 for what is true of the card: readable, stale, lost.")
	limit := g.upDown(MetricHardwareLimit, "By", "Size of the GPU memory.")
	usage := g.upDown(MetricHardwareUsage, "By", "GPU memory used.")
	used := g.gauge(MetricHardwareUtilization, "1", "Fraction of GPU memory used.")
	busy := g.gauge(MetricHardwareBusy, "1", "Fraction of time in which the GPU has computed.")
	return func(o metric.Observer, g admission.GPUState, now time.Time) {
		name := attribute.String(AttrGPU, g.Name)
		of := by(name)
		o.ObserveFloat64(capacity, float64(g.Capacity), of)
		o.ObserveFloat64(reserve, float64(g.Reserve), of)
		o.ObserveFloat64(booked, float64(g.Booked), of)
		o.ObserveFloat64(unmanaged, float64(g.Unmanaged), of)
		o.ObserveFloat64(unattributed, float64(g.Unattributed), of)
		o.ObserveFloat64(available, float64(g.Available), of)
		for word, is := range map[string]bool{"readable": g.Observed >= 0 && g.Err == "", "stale": g.Stale, "lost": g.Lost} {
			o.ObserveFloat64(state, yes(is), by(name, attribute.String(AttrState, word)))
		}
		if g.Observed < 0 {
			return // it was never read
		}
		o.ObserveFloat64(observed, float64(g.Observed), of)
		o.ObserveFloat64(age, max(0, now.Sub(g.ObservedAt)).Seconds(), of)
		hardware := by(semconv.HwID(cmp.Or(g.Device, g.Name)), semconv.HwName(g.Name), semconv.HwTypeKey.String("gpu"))
		o.ObserveInt64(limit, int64(g.Total), hardware)
		o.ObserveInt64(usage, int64(g.Observed), hardware)
		if g.Total > 0 {
			o.ObserveFloat64(used, float64(g.Observed)/float64(g.Total), hardware)
		}
		if g.Utilization != nil {
			o.ObserveFloat64(busy, *g.Utilization, hardware)
		}
	}
}

func backendGauges(g *gauges) func(metric.Observer, admission.BackendState) {
	running := g.gauge(MetricBackendRunning, "", "Requests that run on the backend.")
	queued := g.gauge(MetricBackendQueued, "", "Requests that wait for the backend.")
	slots := g.gauge(MetricBackendSlots, "", "How many may run on each of its replicas at once; 0: as many as their classes allow.")
	booked := g.gauge(MetricBackendBooked, "By", "Memory that the ledger has booked for the backend.")
	retained := g.gauge(MetricRetained, "By", "Memory that the backend holds beyond what its running work needs.")
	low := g.gauge(MetricLow, "By", "The least memory that the backend can hold.")
	high := g.gauge(MetricHigh, "By", "The most memory that the backend can hold.")
	asleep := g.gauge(MetricAsleep, "", "1 while the backend is unloaded and has to be woken.")
	up := g.gauge(MetricBackendUp, "", "1 while the backend may be used.")
	return func(o metric.Observer, b admission.BackendState) {
		backend := attribute.String(AttrBackend, b.Name)
		of := by(backend)
		o.ObserveFloat64(up, yes(b.Available && !b.Draining), of)
		o.ObserveFloat64(running, float64(b.Running), of)
		o.ObserveFloat64(queued, float64(b.Queued), of)
		o.ObserveFloat64(slots, float64(b.Slots), of)
		type held struct{ booked, retained, low, high admission.Bytes }
		byGPU, sleeps := map[string]held{}, false
		for _, a := range b.Accounts {
			h := byGPU[a.GPU]
			byGPU[a.GPU] = held{h.booked + a.Booked, h.retained + a.Retained, h.low + a.Low, h.high + a.High}
		}
		for _, r := range b.Replicas {
			sleeps = sleeps || r.Residency == "asleep"
		}
		for name, h := range byGPU {
			there := by(backend, attribute.String(AttrGPU, name))
			o.ObserveFloat64(booked, float64(h.booked), there)
			o.ObserveFloat64(retained, float64(h.retained), there)
			o.ObserveFloat64(low, float64(h.low), there)
			o.ObserveFloat64(high, float64(h.high), there)
		}
		o.ObserveFloat64(asleep, yes(sleeps), of)
	}
}

func routeGauges(g *gauges) func(metric.Observer, RouteMemory) {
	declared := g.gauge(MetricRouteDeclared, "By", "Memory that a request is declared to take.")
	taken := g.gauge(MetricRouteSeen, "By", "Memory that requests were seen to take.")
	return func(o metric.Observer, r RouteMemory) {
		route := attribute.String(AttrRoute, r.Route)
		o.ObserveFloat64(declared, float64(r.Declared), by(route))
		o.ObserveFloat64(taken, float64(r.P95), by(route, attribute.String(AttrQuantile, "0.95")))
		o.ObserveFloat64(taken, float64(r.Most), by(route, attribute.String(AttrQuantile, "1")))
	}
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
