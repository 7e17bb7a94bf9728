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
		{"Requests", "How much is asked, and what comes of it?", "reqps", false, true, []query{
			{`sum by (anteroom_result) (rate(anteroom_requests_total{` + class + `}` + rate + `))`, "{{anteroom_result}}"}}},
		{"Refused", "Why does the proxy say no?", "reqps", false, true, []query{
			{`sum by (anteroom_code) (rate(anteroom_refusals_total{` + class + `}` + rate + `))`, "{{anteroom_code}}"},
			{`sum by (http_response_status_code) (rate(anteroom_malformed_total` + rate + `))`, "not HTTP: {{http_response_status_code}}"}}},
		{"Failed", "Which backends fail, and how?", "reqps", false, true, []query{
			{`sum by (anteroom_backend, anteroom_code) (rate(anteroom_failures_total{` + class + `}` + rate + `))`, "{{anteroom_backend}}: {{anteroom_code}}"},
			{`sum by (anteroom_backend, anteroom_result) (rate(anteroom_oom_total` + rate + `))`,
				"{{anteroom_backend}}: out of memory, {{anteroom_result}}"}}},
		{"Clients that left", "How far had requests come whose clients left?", "reqps", false, true, []query{
			{`sum by (anteroom_phase) (rate(anteroom_cancellations_total{` + class + `}` + rate + `))`, "{{anteroom_phase}}"}}},
	}},
	{"Waiting", []panel{
		{"Wait", "How long do requests wait for their turn?", "s", false, false, []query{
			{quantile("0.5", "anteroom_request_wait_seconds", "anteroom_class", class+`,anteroom_result="ok"`), "{{anteroom_class}} p50"},
			{quantile("0.95", "anteroom_request_wait_seconds", "anteroom_class", class+`,anteroom_result="ok"`), "{{anteroom_class}} p95"}}},
		{"Queues", "How many wait, and for how long has the first?", "short", false, false, []query{
			{`anteroom_queue_length{` + class + `}`, "{{anteroom_class}} waiting"},
			{`anteroom_queue_oldest_seconds{` + class + `}`, "{{anteroom_class}} oldest, s"}}},
		{"Slots", "Is a class at its limit?", "short", false, false, []query{
			{`anteroom_running{` + class + `}`, "{{anteroom_class}} running"}, {`anteroom_slots{` + class + `}`, "{{anteroom_class}} slots"}}},
		{"Who goes first", "How often do requests overtake others, and does a head become strict?", "reqps", false, false, []query{
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
		{"Estimates", "Are the estimates right? (1: what was seen is what was estimated)", "short", false, false, []query{
			{quantile("0.5", "anteroom_estimate_ratio", "anteroom_class, anteroom_of", class), "{{anteroom_class}} {{anteroom_of}} p50"}}},
		{"Tokens", "How many tokens do models read and write?", "short", false, true, []query{
			{`sum by (gen_ai_provider_name) (rate(gen_ai_client_inference_usage_input_tokens_total` + rate + `))`, "{{gen_ai_provider_name}} read"},
			{`sum by (gen_ai_provider_name) (rate(gen_ai_client_inference_usage_output_tokens_total` + rate + `))`, "{{gen_ai_provider_name}} written"}}},
		{"First token", "How long does a stream's client wait for its first token, its turn included, and for each more?", "s", false, false, []query{
			{quantile("0.95", "gen_ai_server_time_to_first_token_seconds", "gen_ai_provider_name", ""), "{{gen_ai_provider_name}} first p95"},
			{quantile("0.95", "gen_ai_server_time_per_output_token_seconds", "gen_ai_provider_name", ""), "{{gen_ai_provider_name}} each p95"}}},
		{"The card", "For which share of the time does a GPU compute?", "percentunit", false, false, []query{
			{`hw_gpu_utilization_ratio`, "{{hw_name}}"}}},
		{"Contention", "How much slower is a class beside another one than alone?", "short", false, false, []query{
			{`(sum by (anteroom_class, anteroom_beside) (rate(anteroom_execution_beside_seconds_total{` + class + `,anteroom_beside!=""}` + rate + `)) / ` +
				`sum by (anteroom_class, anteroom_beside) (rate(anteroom_execution_runs_total{` + class + `,anteroom_beside!=""}` + rate +
				`))) / on (anteroom_class) group_left () ` +
				`(sum by (anteroom_class) (rate(anteroom_execution_beside_seconds_total{` + class + `,anteroom_beside=""}[$__range])) / ` +
				`sum by (anteroom_class) (rate(anteroom_execution_runs_total{` + class + `,anteroom_beside=""}[$__range])))`,
				"{{anteroom_class}} beside {{anteroom_beside}}"}}},
	}},
	{"Memory", []panel{
		{"Memory by owner", "Who holds the card?", "bytes", true, true, []query{
			{`sum by (anteroom_gpu, anteroom_backend) (anteroom_backend_booked_bytes{` + gpu + `})`, "{{anteroom_gpu}} {{anteroom_backend}}"},
			{`anteroom_vram_unmanaged_bytes{` + gpu + `}`, "{{anteroom_gpu}} unmanaged"},
			{`anteroom_vram_unattributed_bytes{` + gpu + `}`, "{{anteroom_gpu}} unattributed"},
			{`anteroom_vram_available_bytes{` + gpu + `}`, "{{anteroom_gpu}} available"}}},
		{"Booked and seen", "Does the ledger agree with the driver?", "bytes", false, false, []query{
			{`anteroom_vram_booked_bytes{` + gpu + `} + anteroom_vram_unmanaged_bytes{` + gpu + `}`, "{{anteroom_gpu}} booked and unmanaged"},
			{`anteroom_vram_observed_bytes{` + gpu + `}`, "{{anteroom_gpu}} in use"},
			{`anteroom_vram_capacity_bytes{` + gpu + `}`, "{{anteroom_gpu}} capacity"}}},
		{"Readings", "Is the card read?", "s", false, false, []query{{`anteroom_gpu_reading_age_seconds{` + gpu + `}`, "{{anteroom_gpu}} age"}}},
		{"Unloads", "Is memory swapped, and does it come free?", "short", false, false, []query{
			{`rate(anteroom_gpu_swaps_total{` + gpu + `}` + rate + `) * 60`, "{{anteroom_gpu}} unloads a minute"},
			{`sum by (anteroom_backend) (increase(anteroom_unload_freed_bytes_total[$__range])) / ` +
				`sum by (anteroom_backend) (increase(anteroom_unload_asked_bytes_total[$__range]))`,
				"{{anteroom_backend}} freed of asked"}}},
		{"Declared and seen", "What do requests take, and what was declared?", "bytes", false, false, []query{
			{`anteroom_route_vram_declared_bytes`, "{{anteroom_route}} declared"},
			{`anteroom_route_vram_seen_bytes`, "{{anteroom_route}} seen, {{anteroom_quantile}}"}}},
	}},
	{"Backends", []panel{
		{"Backends", "Which backends work, and how much waits for them?", "short", false, false, []query{
			{`anteroom_backend_running`, "{{anteroom_backend}} running"}, {`anteroom_backend_queued`, "{{anteroom_backend}} queued"}}},
		{"State", "Which backends are down or asleep?", "short", false, false, []query{
			{`anteroom_backend_available`, "{{anteroom_backend}} available"}, {`anteroom_backend_asleep`, "{{anteroom_backend}} asleep"},
			{`anteroom_breaker_state{anteroom_state="open"}`, "{{anteroom_backend}}/{{anteroom_replica}} breaker open"}}},
		{"Loads", "How long do unloads and wakes take?", "s", false, false, []query{
			{`sum by (anteroom_order, anteroom_backend) (rate(anteroom_orders_seconds_sum` + rate + `)) / ` +
				`sum by (anteroom_order, anteroom_backend) (rate(anteroom_orders_seconds_count` + rate + `))`,
				"{{anteroom_backend}} {{anteroom_order}}"}}},
	}},
	{"The bill", []panel{
		{"GPU time by tenant", "Who uses the GPUs?", "s", false, false, []query{
			{`sum by (anteroom_tenant) (increase(anteroom_gpu_time_seconds_total{` + class + `}[$__range]))`, "{{anteroom_tenant}}"}}},
		{"GPU time by route", "For what are the GPUs used?", "s", false, false, []query{
			{`sum by (anteroom_class, anteroom_route) (increase(anteroom_gpu_time_seconds_total{` + class + `}[$__range]))`,
				"{{anteroom_class}} {{anteroom_route}}"}}},
		{"GiB-seconds by route", "For what is the memory used?", "short", false, false, []query{
			{`sum by (anteroom_class, anteroom_route) (increase(anteroom_gpu_byte_seconds_total{` + class + `}[$__range])) / 2^30`,
				"{{anteroom_class}} {{anteroom_route}}"}}},
	}},
	{"The proxy", []panel{
		{"What clients see", "How long does a request take for its client?", "s", false, false, []query{
			{quantile("0.95", "http_server_request_duration_seconds", "http_route", ""), "{{http_route}} p95"}}},
		{"Lost signals", "Do spans and log lines get lost?", "short", false, false, []query{
			{`rate(anteroom_spans_dropped_total` + rate + `)`, "spans"}, {`rate(anteroom_log_lines_dropped_total` + rate + `)`, "log lines"}}},
		{"Configuration", "Was the last reload taken?", "short", false, false, []query{{`anteroom_config_last_reload`, "taken"}}},
	}},
}
