# What people type often. README.md says what needs no make.

# go-nvml wraps calls that NVIDIA has marked as deprecated: a hundred warnings.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

.PHONY: build
build:
	go build -trimpath -o bin/anteroom ./cmd/anteroom

.PHONY: test
test:
	go test -race ./...

.PHONY: demo
demo:
	go run ./cmd/anteroom demo

# The same over real sockets, in 40 s.
.PHONY: demo-real
demo-real:
	go run ./cmd/anteroom demo --real --speed 20

# For benchstat: make bench > old.txt; change; make bench > new.txt; go tool benchstat old.txt new.txt
COUNT ?= 6
.PHONY: bench
bench:
	go test -run '^$$' -bench . -benchmem -count $(COUNT) ./admission ./routing ./telemetry ./backend/outofmemory
	go test -run '^$$' -bench . -benchmem -count $(COUNT) -benchtime 2s ./proxy
	go test -run '^$$' -bench . -benchtime 20000x -count $(COUNT) ./cmd/anteroom
	go test -run '^$$' -bench . -benchmem -count $(COUNT) ./simulation/replay

# What a forwarded request costs the proxy: CPU, allocations, reads and writes. With
# BASE, another binary, both run at once and the figures are ratios.
BASE ?=
PATHFLAGS ?=
.PHONY: bench-path
bench-path: build
	go run ./benchmarks/path -binaries $(if $(BASE),$(BASE)$(comma))bin/anteroom $(PATHFLAGS)
comma := ,

# Anteroom beside HAProxy, nginx, Caddy and httputil.ReverseProxy, in less than 15
# minutes on two cores. HAProxy, nginx and wrk are Debian's; Caddy is built into bin.
# PEERSFLAGS such as -only Memory or -rounds 1 make it shorter.
CADDY_VERSION = v2.11.9
PEERSFLAGS ?=
.PHONY: bench-peers
bench-peers:
	command -v haproxy wrk nginx >/dev/null || apt-get install -y -qq --no-install-recommends haproxy wrk nginx-light
	test -x bin/caddy || GOBIN=$(CURDIR)/bin CGO_ENABLED=0 go install github.com/caddyserver/caddy/v2/cmd/caddy@$(CADDY_VERSION)
	go build -trimpath -ldflags '-s -w' -o bin/anteroom-stripped ./cmd/anteroom
	go build -o bin/peers ./benchmarks/peers
	ANTEROOM=$(CURDIR)/bin/anteroom-stripped CADDY=$(CURDIR)/bin/caddy bin/peers $(PEERSFLAGS)

# The demo's scenes over sockets, MIXEDSPEED times as fast, with HAProxy's queues of
# fixed places in front of the simulated engines, and with Anteroom.
MIXEDSPEED ?= 10
.PHONY: bench-mixed
bench-mixed:
	go test -tags peers -count 1 -timeout 30m -run TestMixed -v ./cmd/anteroom -mixedspeed $(MIXEDSPEED)

# Ten million drawn requests against the admission rules, every promise held after
# every event but for what TestSoak says. Minutes, and not a part of check.
SOAK ?= 10000000
.PHONY: soak
soak:
	go test -run TestSoak -timeout 0 ./admission -soak $(SOAK)

# Cards whose truth the scheduler does not see: a table of what overflowed and what
# was late, and the seeds of those. SEED is the first; another one gives others.
WORLDS ?= 200000
SEED ?= 1000000
.PHONY: worlds
worlds:
	go test -v -run 'TestWorlds$$' -timeout 0 ./admission -worlds $(WORLDS) -worldseed $(SEED)

# Prompts and answers that talk about memory, of which none may count as an
# out-of-memory error, and any bytes at all as an answer.
TALKS ?= 1000000
FUZZTIME ?= 5m
.PHONY: outofmemory
outofmemory:
	go test -v -run TestTalkOfMemory -timeout 0 ./backend/outofmemory -talks $(TALKS)
	go test -run '^$$' -fuzz FuzzScan -fuzztime $(FUZZTIME) -fuzzminimizetime 1s ./backend/outofmemory

# What users of such gateways have reported, each as a small set-up of its own
# before the binary. The configurations are in cmd/anteroom/testdata/fieldcases.
.PHONY: fieldcases
fieldcases: build
	ANTEROOM=$(CURDIR)/bin/anteroom go test -count 1 -run TestFieldCases -v ./cmd/anteroom

# 300,000 requests of which one in a hundred is aborted: each is executed once, none
# twice, and gets its own answer. Backends that answer at once, and one that is killed.
.PHONY: load
load:
	go test -count 1 -v -timeout 1h -run 'TestEveryRequestIsExecutedOnce|TestAnswersGivenAtOnceArriveWhole|TestABackendThatIsKilled|TestWhatWaits' ./proxy -full

# A process under load whose file changes again and again: no request fails.
RELOADS ?= 1000
.PHONY: reloads
reloads:
	go test -count 1 -v -timeout 1h -run TestNoRequestFailsUnderReloads ./cmd/anteroom -reloads $(RELOADS)

# The test suites of protocols and other servers' readings, before the binary: grpc-go's
# interoperability cases, h2spec, WebSockets, and nginx, uvicorn and Go behind mutated
# requests. nginx and uvicorn are Debian's nginx-light, python3-uvicorn and
# python3-httptools. The folder is a module of its own. RUN picks tests by name.
MUTATIONS ?= 200000
RUN ?= .
.PHONY: conformance
conformance: build
	cd conformance && ANTEROOM=$(CURDIR)/bin/anteroom go test -count 1 -v -timeout 2h -run '$(RUN)' . -mutations $(MUTATIONS)

# The engines' own clients, at the versions of clients/package-lock.json, against every
# simulated engine, directly and through the proxy. It needs Node 18 or later with npm.
.PHONY: clients
clients:
	go build -o bin/anteroom ./cmd/anteroom
	cd clients && npm ci --silent && ANTEROOM=$(CURDIR)/bin/anteroom npm test --silent

# anteroom top in a terminal, before a proxy with simulated engines. It needs tmux.
.PHONY: terminal
terminal:
	go test -tags terminal -count 1 -timeout 5m -run InATerminal ./cmd/anteroom

# The status page in Chromium (Debian's chromium; CHROMIUM names another): each control,
# keyboard and axe, 10,000 that wait. WAITING is how many.
WAITING ?= 10000
.PHONY: page
page:
	go build -o bin/anteroom ./cmd/anteroom
	cd clients && npm ci --silent && ANTEROOM=$(CURDIR)/bin/anteroom WAITING=$(WAITING) npm run --silent page

# The pictures of docs/observability.md, in three minutes.
.PHONY: screenshots
screenshots:
	go build -o bin/anteroom ./cmd/anteroom
	mkdir -p docs/pictures
	cd clients && npm ci --silent && ANTEROOM=$(CURDIR)/bin/anteroom npm run --silent screenshots ../docs/pictures

# What a release consists of, in dist, and each part as the programs that read it
# take it: the package by dpkg and systemd, the version by go install, the files of
# Kubernetes and Compose by their types and schemas.
VERSION ?= v0.0.0-$(shell git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S)-$(shell git rev-parse --short=12 HEAD)
.PHONY: packages
packages:
	TZ=UTC packaging/release $(VERSION) dist
	for deb in dist/*.deb; do packaging/debian/check $$deb || exit; done
	packaging/goinstall $(VERSION) dist
	go -C packaging/check test ./...

# The dashboard's queries and the alert rules against a Prometheus that has read a
# running proxy; dead collectors; and traces and metrics through a Collector to Jaeger,
# asserted over their APIs. It needs prometheus and promtool (Debian: apt-get install
# prometheus). Collector and Jaeger are built once, in E2E_CACHE: ten minutes.
E2E_CACHE ?= $(HOME)/.cache/anteroom/endtoend
.PHONY: e2e-telemetry
e2e-telemetry: build
	ANTEROOM=$(CURDIR)/bin/anteroom go test -tags e2e -count 1 -v ./examples/monitoring/generate
	programs=$$(telemetry/endtoend/build $(E2E_CACHE)) && env $$programs \
		go test -tags e2e -count 1 -timeout 10m -v -run 'TestADeadCollector|TestThroughACollector' ./cmd/anteroom

.PHONY: check
check:
	.ci/run
