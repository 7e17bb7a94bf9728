package main

// panel is a question and the queries that answer it. $class and $gpu are variables of
// the dashboard; $__rate_interval and $__range are Grafana's.
type panel struct {
	title, question, unit string
	wide                  bool // over the whole width
	stacked               bool
	queries               []query
}

type query struct{ expr, legend string }

// group is a row of panels.
type group struct {
	title  string
	panels []panel
}

const (
	class = `anteroom_class=~"$class"`
	gpu   = `anteroom_gpu=~"$gpu"`
	rate  = `[$__rate_interval]`
)

func quantile(q, metric, by, filter string) string {
	return `histogram_quantile(` + q + `, sum by (le, ` + by + `) (rate(` + metric + `_bucket{` + filter + `}` + rate + `)))`
}

var groups = []group{
	{"Requests", []panel{
		{"Requests", "How many requests come, and how do they end?", "reqps", false, true, []query{
			{`sum by (anteroom_result) (rate(anteroom_requests_total{` + class + `}` + rate + `))`, "{{anteroom_result}}"}}},
		{"Refused", "Why does the proxy refuse requests?", "reqps", false, true, []query{
			{`sum by (anteroom_code) (rate(anteroom_refusals_total{` + class + `}` + rate + `))`, "{{anteroom_code}}"},
			{`sum by (http_response_status_code) (rate(anteroom_malformed_total` + rate + `))`, "not HTTP: {{http_response_status_code}}"}}},
		{"Failed", "Which backends fail, and how?", "reqps", false, true, []query{
			{`sum by (anteroom_backend, anteroom_code) (rate(anteroom_failures_total{` + class + `}` + rate + `))`, "{{anteroom_backend}}: {{anteroom_code}}"},
			{`sum by (anteroom_backend, anteroom_result) (rate(anteroom_oom_total` + rate + `))`,
				"{{anteroom_backend}}: out of memory, {{anteroom_result}}"}}},
		{"Clients that left", "In which phase were requests whose client left?", "reqps", false, true, []query{
			{`sum by (anteroom_phase) (rate(anteroom_cancellations_total{` + class + `}` + rate + `))`, "{{anteroom_phase}}"}}},
	}},
	{"Waiting", []panel{
		{"Wait", "How long do requests wait?", "s", false, false, []query{
			{quantile("0.5", "anteroom_request_wait_seconds", "anteroom_class", class+`,anteroom_result="ok"`), "{{anteroom_class}} p50"},
			{quantile("0.95", "anteroom_request_wait_seconds", "anteroom_class", class+`,anteroom_result="ok"`), "{{anteroom_class}} p95"}}},
		{"Queues", "How many requests wait, and how long has the oldest waited?", "short", false, false, []query{
			{`anteroom_queue_length{` + class + `}`, "{{anteroom_class}} waiting"},
			{`anteroom_queue_oldest_seconds{` + class + `}`, "{{anteroom_class}} oldest, s"}}},
		{"Slots", "Does a class use all its slots?", "short", false, false, []query{
			{`anteroom_running{` + class + `}`, "{{anteroom_class}} running"}, {`anteroom_slots{` + class + `}`, "{{anteroom_class}} slots"}}},
		{"Who goes first", "How often does a request pass others, and how often does a queue head become strict?", "reqps", false, false, []query{
			{`rate(anteroom_backfills_total{` + class + `}` + rate + `)`, "{{anteroom_class}} backfilled"},
			{`rate(anteroom_overtakings_total{` + class + `}` + rate + `)`, "{{anteroom_class}} overtook"},
			{`rate(anteroom_strict_heads_total{` + class + `}` + rate + `)`, "{{anteroom_class}} strict"}}},
	}},
	{"Running", []panel{
		{"Execution", "How long does the work take?", "s", false, false, []query{
			{quantile("0.5", "anteroom_request_execution_seconds", "anteroom_class, anteroom_backend", class+`,anteroom_result="ok"`),
				"{{anteroom_class}} on {{anteroom_backend}} p50"},
			{quantile("0.95", "anteroom_request_execution_seconds", "anteroom_class, anteroom_backend", class+`,anteroom_result="ok"`),
				"{{anteroom_class}} on {{anteroom_backend}} p95"}}},
		{"First byte", "When does the answer begin?", "s", false, false, []query{
			{quantile("0.95", "anteroom_request_first_byte_seconds", "anteroom_class, anteroom_backend", class),
				"{{anteroom_class}} on {{anteroom_backend}} p95"}}},
		{"Estimates", "Are the estimates right? (1: the measured time is the estimated one)", "short", false, false, []query{
			{quantile("0.5", "anteroom_estimate_ratio", "anteroom_class, anteroom_of", class), "{{anteroom_class}} {{anteroom_of}} p50"}}},
		{"Tokens", "How many tokens do models read and write?", "short", false, true, []query{
			{`sum by (gen_ai_provider_name) (rate(gen_ai_client_inference_usage_input_tokens_total` + rate + `))`, "{{gen_ai_provider_name}} read"},
			{`sum by (gen_ai_provider_name) (rate(gen_ai_client_inference_usage_output_tokens_total` + rate + `))`, "{{gen_ai_provider_name}} written"}}},
		{"First token", "How long does a stream wait for its first token, the queue included, and for each further one?", "s", false, false, []query{
			{quantile("0.95", "gen_ai_server_time_to_first_token_seconds", "gen_ai_provider_name", ""), "{{gen_ai_provider_name}} first p95"},
			{quantile("0.95", "gen_ai_server_time_per_output_token_seconds", "gen_ai_provider_name", ""), "{{gen_ai_provider_name}} each p95"}}},
		{"The card", "For what share of the time does a GPU compute?", "percentunit", false, false, []query{
			{`hw_gpu_utilization_ratio`, "{{hw_name}}"}}},
		{"Contention", "How much slower is a class beside another class than alone?", "short", false, false, []query{
			{`(sum by (anteroom_class, anteroom_beside) (rate(anteroom_execution_beside_seconds_total{` + class + `,anteroom_beside!=""}` + rate + `)) / ` +
				`sum by (anteroom_class, anteroom_beside) (rate(anteroom_execution_runs_total{` + class + `,anteroom_beside!=""}` + rate +
				`))) / on (anteroom_class) group_left () ` +
				`(sum by (anteroom_class) (rate(anteroom_execution_beside_seconds_total{` + class + `,anteroom_beside=""}[$__range])) / ` +
				`sum by (anteroom_class) (rate(anteroom_execution_runs_total{` + class + `,anteroom_beside=""}[$__range])))`,
				"{{anteroom_class}} beside {{anteroom_beside}}"}}},
	}},
	{"Memory", []panel{
		{"Memory by owner", "Which backend holds the card's memory?", "bytes", true, true, []query{
			{`sum by (anteroom_gpu, anteroom_backend) (anteroom_backend_booked_bytes{` + gpu + `})`, "{{anteroom_gpu}} {{anteroom_backend}}"},
			{`anteroom_vram_unmanaged_bytes{` + gpu + `}`, "{{anteroom_gpu}} unmanaged"},
			{`anteroom_vram_unattributed_bytes{` + gpu + `}`, "{{anteroom_gpu}} unattributed"},
			{`anteroom_vram_available_bytes{` + gpu + `}`, "{{anteroom_gpu}} available"}}},
		{"Booked and seen", "Does the ledger agree with the driver?", "bytes", false, false, []query{
			{`anteroom_vram_booked_bytes{` + gpu + `} + anteroom_vram_unmanaged_bytes{` + gpu + `}`, "{{anteroom_gpu}} booked and unmanaged"},
			{`anteroom_vram_observed_bytes{` + gpu + `}`, "{{anteroom_gpu}} in use"},
			{`anteroom_vram_capacity_bytes{` + gpu + `}`, "{{anteroom_gpu}} capacity"}}},
		{"Readings", "Is the card read?", "s", false, false, []query{{`anteroom_gpu_reading_age_seconds{` + gpu + `}`, "{{anteroom_gpu}} age"}}},
		{"Unloads", "How often are backends unloaded, and how much of the memory is freed?", "short", false, false, []query{
			{`rate(anteroom_gpu_swaps_total{` + gpu + `}` + rate + `) * 60`, "{{anteroom_gpu}} unloads a minute"},
			{`sum by (anteroom_backend) (increase(anteroom_unload_freed_bytes_total[$__range])) / ` +
				`sum by (anteroom_backend) (increase(anteroom_unload_asked_bytes_total[$__range]))`,
				"{{anteroom_backend}} freed of asked"}}},
		{"Declared and seen", "How much memory do requests take, and how much was declared?", "bytes", false, false, []query{
			{`anteroom_route_vram_declared_bytes`, "{{anteroom_route}} declared"},
			{`anteroom_route_vram_seen_bytes`, "{{anteroom_route}} seen, {{anteroom_quantile}}"}}},
	}},
	{"Backends", []panel{
		{"Backends", "How many requests run on each backend, and how many wait for it?", "short", false, false, []query{
			{`anteroom_backend_running`, "{{anteroom_backend}} running"}, {`anteroom_backend_queued`, "{{anteroom_backend}} queued"}}},
		{"State", "Which backends are down or asleep?", "short", false, false, []query{
			{`anteroom_backend_available`, "{{anteroom_backend}} available"}, {`anteroom_backend_asleep`, "{{anteroom_backend}} asleep"},
			{`anteroom_breaker_state{anteroom_state="open"}`, "{{anteroom_backend}}/{{anteroom_replica}} breaker open"}}},
		{"Loads", "How long do unloads and wakes take?", "s", false, false, []query{
			{`sum by (anteroom_order, anteroom_backend) (rate(anteroom_orders_seconds_sum` + rate + `)) / ` +
				`sum by (anteroom_order, anteroom_backend) (rate(anteroom_orders_seconds_count` + rate + `))`,
				"{{anteroom_backend}} {{anteroom_order}}"}}},
	}},
	{"Usage", []panel{
		{"GPU time by tenant", "Which tenant uses the GPUs?", "s", false, false, []query{
			{`sum by (anteroom_tenant) (increase(anteroom_gpu_time_seconds_total{` + class + `}[$__range]))`, "{{anteroom_tenant}}"}}},
		{"GPU time by route", "Which routes use the GPUs?", "s", false, false, []query{
			{`sum by (anteroom_class, anteroom_route) (increase(anteroom_gpu_time_seconds_total{` + class + `}[$__range]))`,
				"{{anteroom_class}} {{anteroom_route}}"}}},
		{"GiB-seconds by route", "Which routes use the memory?", "short", false, false, []query{
			{`sum by (anteroom_class, anteroom_route) (increase(anteroom_gpu_byte_seconds_total{` + class + `}[$__range])) / 2^30`,
				"{{anteroom_class}} {{anteroom_route}}"}}},
	}},
	{"The proxy", []panel{
		{"What clients see", "How long does a request take for its client?", "s", false, false, []query{
			{quantile("0.95", "http_server_request_duration_seconds", "http_route", ""), "{{http_route}} p95"}}},
		{"Lost signals", "Are spans or log lines lost?", "short", false, false, []query{
			{`rate(anteroom_spans_dropped_total` + rate + `)`, "spans"}, {`rate(anteroom_log_lines_dropped_total` + rate + `)`, "log lines"}}},
		{"Configuration", "Was the last reload accepted?", "short", false, false, []query{{`anteroom_config_last_reload`, "taken"}}},
	}},
}
