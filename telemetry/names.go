package telemetry

// Every name that dashboards, alerts and trace queries can depend on. It is a
// contract: a name that was released stays, and the test of this file fails
// when something is exported under a name that is not here.

// Spans. The SERVER span is named `{method} {route pattern}`; the others are
// siblings under it: request.receive where the body took long to come,
// admission.wait, and a CLIENT span named `{method}` that lasts to the backend's last
// byte, or to the end of the job behind its answer.
const (
	SpanReceive = "request.receive"
	SpanWait    = "admission.wait"
	// These have traces of their own, with links to and from the admission.wait of the
	// request that they are done for.
	SpanUnload = "admission.unload"
	SpanWake   = "admission.wake"

	EventFirstByte = "first_byte" // of the answer's body went to the client
	EventOpened    = "opened"     // the connection was switched to another protocol

	EventQueued  = "queued"
	EventBlocked = "blocked" // the first of its kind, by something else than before
	EventGranted = "granted"
	EventRefused = "refused"
)

// Attributes of spans and labels of metrics, beside OpenTelemetry's for HTTP.
// In Prometheus a dot is an underscore.
const (
	AttrRoute    = "anteroom.route"         // the rule's name
	AttrClass    = "anteroom.class"         // empty for what passes through
	AttrBackend  = "anteroom.backend"       // as configured
	AttrReplica  = "anteroom.replica"       // its place in the backend's list
	AttrVRAM     = "anteroom.vram"          // bytes asked for on each GPU
	AttrPosition = "anteroom.position"      // of its class before it, on arrival
	AttrReason   = "anteroom.wait.reason"   // what it last waited for; in the event queued, on arrival
	AttrResource = "anteroom.wait.resource" // which resource that was
	AttrNeed     = "anteroom.wait.need"     // of the resource: bytes, or slots
	AttrFree     = "anteroom.wait.free"     // of the resource: bytes, or slots
	AttrExpected = "anteroom.wait.expected" // seconds it was to wait, as of its arrival
	AttrWaited   = "anteroom.wait"          // seconds
	AttrGrant    = "anteroom.grant"         // the request's id in the queue
	AttrCode     = "anteroom.code"          // of a refusal
	AttrResult   = "anteroom.result"        // ok, refused, cancelled, failed
	AttrGPU      = "anteroom.gpu"
	AttrState    = "anteroom.state"
	AttrFreed    = "anteroom.freed" // bytes that an unload was seen to free
	AttrOrder    = "anteroom.order" // admission.unload or admission.wake
	AttrQuantile = "anteroom.quantile"
	AttrTenant   = "anteroom.tenant" // in metrics: a configured one, or other
	AttrPhase    = "anteroom.phase"  // receive, wait, execute
	AttrBeside   = "anteroom.beside" // a class that ran at the same time; empty: none did
	AttrOf       = "anteroom.of"     // execution, wait
	// These are gen_ai's, on requests with a path of a model's API.
	AttrModel        = "gen_ai.request.model" // in metrics: a configured one, or other
	AttrOperation    = "gen_ai.operation.name"
	AttrProvider     = "gen_ai.provider.name"      // the backend's preset; openai where it has none
	AttrStream       = "gen_ai.request.stream"     // whether the answer came as a stream
	AttrInputTokens  = "gen_ai.usage.input_tokens" // as the answer says
	AttrOutputTokens = "gen_ai.usage.output_tokens"
	AttrModality     = "gen_ai.token.modality" // unknown: answers do not tell
)

// How far a request had come when its client left.
const (
	PhaseReceive = "receive" // its body was still coming, or it was not asked for yet
	PhaseWait    = "wait"
	PhaseExecute = "execute"
)

// Results of a request.
const (
	ResultOK        = "ok"        // the backend's answer reached its end
	ResultRefused   = "refused"   // answered by the proxy itself, and not sent to a backend
	ResultCancelled = "cancelled" // the client left
	ResultFailed    = "failed"    // a 5xx or a failure by gRPC's status, no answer, or one cut short
)

// What happened after an out-of-memory answer.
const (
	OOMRetried = "retried" // the request was sent once more
	OOMPassed  = "passed"  // the client got it
)

// Metrics. Prometheus adds the unit and `_total` for counters.
const (
	// s {http.request.method, url.scheme, http.route, http.response.status_code, error.type}; to the switch where there is one
	MetricServer        = "http.server.request.duration"
	MetricWait          = "anteroom.request.wait"       // s {class, result}
	MetricExecution     = "anteroom.request.execution"  // s {class, backend, result}
	MetricFirstByte     = "anteroom.request.first_byte" // s {class, backend}
	MetricOpen          = "anteroom.connection.open"    // s {class, backend}: WebSockets, from the switch to their end
	MetricRequests      = "anteroom.requests"           // {route, class, result, tenant, gen_ai.request.model}
	MetricRefusals      = "anteroom.refusals"           // {class, code}
	MetricCancellations = "anteroom.cancellations"      // {class, phase}
	MetricFailures      = "anteroom.failures"           // {class, backend, code}
	MetricMalformed     = "anteroom.malformed"          // {http.response.status_code}: 400, 431, 501 of the HTTP parser
	MetricBesideTime    = "anteroom.execution.beside"   // s {class, beside}; ÷ runs: the mean execution beside a class
	MetricBesideRuns    = "anteroom.execution.runs"     // {class, beside}
	MetricEstimates     = "anteroom.estimate.ratio"     // {class, of}: seen ÷ estimated
	MetricGPUSeconds    = "anteroom.gpu.time"           // s {class, route, tenant}: execution × GPUs
	MetricByteSeconds   = "anteroom.gpu.byte_seconds"   // {class, route, tenant}: execution × booked memory

	MetricQueueLength = "anteroom.queue.length" // {class}
	MetricQueueLimit  = "anteroom.queue.limit"  // {class}
	MetricQueueBytes  = "anteroom.queue.bytes"  // By {class}
	MetricQueueOldest = "anteroom.queue.oldest" // s {class}
	MetricSlots       = "anteroom.slots"        // {class}
	MetricRunning     = "anteroom.running"      // {class}
	MetricPaused      = "anteroom.paused"       // 1 or 0 {class}
	MetricBackfills   = "anteroom.backfills"    // {class}
	MetricOvertakings = "anteroom.overtakings"  // {class}
	MetricStrictHeads = "anteroom.strict_heads" // {class}

	MetricVRAMCapacity     = "anteroom.vram.capacity"     // By {gpu}
	MetricVRAMReserve      = "anteroom.vram.reserve"      // By {gpu}
	MetricVRAMBooked       = "anteroom.vram.booked"       // By {gpu}
	MetricVRAMUnmanaged    = "anteroom.vram.unmanaged"    // By {gpu}
	MetricVRAMUnattributed = "anteroom.vram.unattributed" // By {gpu}
	MetricVRAMAvailable    = "anteroom.vram.available"    // By {gpu}
	MetricVRAMObserved     = "anteroom.vram.observed"     // By {gpu}; absent while the card was never read
	MetricReadingAge       = "anteroom.gpu.reading.age"   // s {gpu}
	MetricGPUState         = "anteroom.gpu.state"         // 1 or 0 {gpu, state: readable, stale, lost}

	MetricOOM           = "anteroom.oom"                 // out-of-memory answers {backend, result: retried, passed}
	MetricOrders        = "anteroom.orders"              // s {order: admission.unload, admission.wake; backend, result}
	MetricSwaps         = "anteroom.gpu.swaps"           // unloads of replicas on it {gpu}
	MetricAsked         = "anteroom.unload.asked"        // By {backend}: what unloads were to free
	MetricFreed         = "anteroom.unload.freed"        // By {backend}: what they were seen to free
	MetricRetained      = "anteroom.backend.retained"    // By {backend, gpu}: what it holds beyond what its running work needs
	MetricLow           = "anteroom.backend.low"         // By {backend, gpu}: the least that it can hold
	MetricHigh          = "anteroom.backend.high"        // By {backend, gpu}: the most that it can hold
	MetricAsleep        = "anteroom.backend.asleep"      // 1 while it is unloaded and has to be woken {backend}
	MetricRouteDeclared = "anteroom.route.vram.declared" // By {route}; of the demand that was measured most often
	MetricRouteSeen     = "anteroom.route.vram.seen"     // By {route, quantile: 0.95, 1}; of its last runs that could be measured

	MetricLoads = "anteroom.loads" // {backend}: wakes that succeeded

	MetricBackendRunning = "anteroom.backend.running" // {backend}
	MetricBackendQueued  = "anteroom.backend.queued"  // {backend}
	MetricBackendSlots   = "anteroom.backend.slots"   // {backend}; of each replica, 0: as its classes
	MetricBackendBooked  = "anteroom.backend.booked"  // By {backend, gpu}

	// OpenTelemetry's for generative models {gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model}, from a
	// request's arrival on.
	MetricModelDuration = "gen_ai.server.request.duration"              // s, with error.type; to the answer's last byte
	MetricFirstToken    = "gen_ai.server.time_to_first_token"           // s, of streams
	MetricPerToken      = "gen_ai.server.time_per_output_token"         // s, of streams that say how many tokens they have
	MetricInputTokens   = "gen_ai.client.inference.usage.input_tokens"  // {gen_ai.token.modality}; of answers that say it
	MetricOutputTokens  = "gen_ai.client.inference.usage.output_tokens" // likewise

	// OpenTelemetry's for hardware {hw.id, hw.name, hw.type}.
	MetricHardwareLimit       = "hw.gpu.memory.limit"
	MetricHardwareUsage       = "hw.gpu.memory.usage"
	MetricHardwareUtilization = "hw.gpu.memory.utilization"
	MetricHardwareBusy        = "hw.gpu.utilization" // absent where the driver does not tell

	MetricBackendUp = "anteroom.backend.available" // 1 or 0 {backend}
	MetricBreaker   = "anteroom.breaker.state"     // 1 for the present one {backend, replica, state: closed, half-open, open}

	MetricReloads    = "anteroom.config.reloads"     // {result: ok, failed}
	MetricReloadGood = "anteroom.config.last_reload" // 1 if the last one was taken
	MetricSpansLost  = "anteroom.spans.dropped"      // spans that found the export queue full or failed to leave
	MetricLinesLost  = "anteroom.log.lines.dropped"  // log lines for which a slow reader of the log left no room
)

// perToken are the bounds that the conventions want of the time for a token, in seconds.
var perToken = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}

// ratios are the bounds of measured ÷ estimated time.
var ratios = []float64{.1, .25, .5, .67, .8, .9, 1, 1.1, 1.25, 1.5, 2, 4, 10}

// buckets are the bounds of every duration histogram, in seconds. Those of the HTTP
// conventions end at ten, and an image takes twenty: the bounds are close to each other
// from one second to thirty, so that quantiles in that range are exact enough.
var buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 1.5, 2, 2.5, 3.5, 5, 7.5, 10, 15, 17.5, 20, 25, 30, 45, 60, 90, 120, 300, 600}

// mostBuckets is how many bounds buckets has.
const mostBuckets = 26
