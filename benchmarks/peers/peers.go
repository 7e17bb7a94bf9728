package main

import (
	"fmt"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peer is a proxy that is measured.
type peer struct {
	name string
	// queues: of /queue/ it forwards one request at a time.
	queues bool
	// begin starts it on the proxies' core.
	begin func(b *bench, dir, address string) (*process, error)
}

// peers are all that can run here, HAProxy first: others are divided by it.
func (b *bench) peers() (list []peer, missing []string) {
	has := func(name string) bool {
		_, err := exec.LookPath(name)
		if err != nil {
			missing = append(missing, name)
		}
		return err == nil
	}
	if has("haproxy") {
		list = append(list, peer{"HAProxy", true, haproxy})
	}
	list = append(list,
		peer{"Anteroom, all on", true, anteroom(true, "info", 1)},
		peer{"Anteroom, no spans", true, anteroom(false, "info", 1)},
		peer{"Anteroom, no spans, no log", true, anteroom(false, "error", 1)},
		peer{"Anteroom, all on, 1,000 routes", false, anteroom(true, "info", 1000)},
	)
	if has("nginx") {
		list = append(list, peer{"nginx", false, nginx})
	}
	if b.caddy != "" {
		list = append(list, peer{"Caddy with OpenTelemetry", false, caddy(true)}, peer{"Caddy", false, caddy(false)})
	} else {
		missing = append(missing, "caddy")
	}
	return append(list, peer{"httputil.ReverseProxy", false, plain}), missing
}

func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func haproxy(b *bench, dir, address string) (*process, error) {
	file, err := write(dir, "haproxy.cfg", fmt.Sprintf(`
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout queue 600s
  option http-no-delay
  option abortonclose
frontend all
  bind %s
  use_backend queue if { path_beg /queue/ }
  default_backend all
backend all
  server s %s
backend queue
  server s %[2]s maxconn 1
`, address, b.upstream))
	if err != nil {
		return nil, err
	}
	return start(proxyCore, dir, "haproxy", address, nil, "haproxy", "-db", "-f", file)
}

func nginx(b *bench, dir, address string) (*process, error) {
	file, err := write(dir, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
pid %[3]s/nginx.pid;
error_log stderr error;
events { worker_connections 18000; }
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path %[3]s/body;
  proxy_temp_path %[3]s/proxy;
  fastcgi_temp_path %[3]s/f;
  uwsgi_temp_path %[3]s/u;
  scgi_temp_path %[3]s/s;
  keepalive_requests 1000000000;
  upstream u { server %[2]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen %[1]s;
    location / {
      proxy_pass http://u;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout 600s;
    }
    location /events {
      proxy_pass http://u;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
`, address, b.upstream, dir))
	if err != nil {
		return nil, err
	}
	return start(proxyCore, dir, "nginx", address, nil, "nginx", "-c", file)
}

func caddy(spans bool) func(b *bench, dir, address string) (*process, error) {
	return func(b *bench, dir, address string) (*process, error) {
		tracing := ""
		if spans {
			tracing = "tracing {\n span proxy\n }"
		}
		file, err := write(dir, "Caddyfile", fmt.Sprintf(`{
	admin off
	auto_https off
	persist_config off
}
http://:%s {
	bind 127.0.0.1
	%s
	reverse_proxy %s
}
`, strings.TrimPrefix(address, "127.0.0.1:"), tracing, b.upstream))
		if err != nil {
			return nil, err
		}
		env := []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + b.sink, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
			"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir,
		}
		return start(proxyCore, dir, "caddy", address, env, b.caddy, "run", "--config", file, "--adapter", "caddyfile")
	}
}

// anteroom is `anteroom serve` with admission, breaker and metrics on.
func anteroom(spans bool, level string, routes int) func(b *bench, dir, address string) (*process, error) {
	return func(b *bench, dir, address string) (*process, error) {
		admin, err := freePort()
		if err != nil {
			return nil, err
		}
		traces := "exporter: none"
		if spans {
			traces = fmt.Sprintf("exporter: otlp, endpoint: %q", "http://"+b.sink)
		}
		var more strings.Builder
		for i := range routes - 1 {
			fmt.Fprintf(&more, "  - {match: {path: \"/other/%d/**\"}, class: all, backend: up}\n", i)
		}
		file, err := write(dir, "anteroom.yaml", fmt.Sprintf(`
listen: %s
admin: {listen: %s}
gpus: {card: {source: declared, memory: 80GiB}}
classes:
  all: {slots: 50000, vram: 1MiB, queue: {limit: 50000}}
  one: {slots: 1, vram: 1MiB, queue: {limit: 50000, bytes: 100GiB}}
backends:
  up: {url: "http://%s", gpu: card, slots: 50000}
routes:
%s  - {match: {path: "/queue/**"}, class: one, backend: up}
  - {match: {path: "/**"}, class: all, backend: up}
limits: {connections: 50000, spool: 100GiB}
state: {file: ""}
telemetry:
  traces: {%s}
  log: {level: %s}
`, address, admin, b.upstream, more.String(), traces, level))
		if err != nil {
			return nil, err
		}
		env := []string{"TMPDIR=" + dir, "XDG_RUNTIME_DIR=" + dir}
		return start(proxyCore, dir, "anteroom", address, env, b.anteroom, "serve", "-c", file)
	}
}

// plain is httputil.ReverseProxy as it comes, in a process of this program.
func plain(b *bench, dir, address string) (*process, error) {
	return start(proxyCore, dir, "plain", address, nil, b.self, "plain", address, b.upstream)
}

func servePlain(address, to string) error {
	return listenAndServe(address, httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to}))
}
