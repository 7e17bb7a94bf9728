package configs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

// sound is a file without a mistake, which each case below spoils in one place.
const sound = `listen: 127.0.0.1:8080
gpus: {card: {memory: 24GiB}}
classes:
  draw: {slots: 1, vram: 12GiB, estimate: 20s}
  chat: {slots: 4, vram: 1GiB, estimate: 2s}
backends:
  painter: {url: "http://127.0.0.1:7001", gpu: card, returns_memory: true}
  talker: {url: "http://127.0.0.1:7002", gpu: card, returns_memory: true, cancel: aborts}
routes:
  - {match: {method: POST, path: /v1/images/generations}, class: draw, backend: painter}
  - {match: {path: /**}, class: chat, backend: talker}
`

// TestEachMistakeHasItsPlaceCauseAndCure makes the mistakes that people make in such
// files. Each is answered with all that is said below and nothing else: where it is,
// what is wrong and what is wanted. What some programs refuse and this file may say is
// among them, and is answered with "good".
func TestEachMistakeHasItsPlaceCauseAndCure(t *testing.T) {
	const good = ""
	const between = "  chat: {slots: 4, vram: 1GiB, estimate: 2s}\nbackends:\n  "
	cases := []struct{ name, old, new, answer string }{
		// Keys.
		{"a key with a letter missing", "slots: 4", "slot: 4", "5:10: classes.chat.slot: unknown key: want slots"},
		{"a key in capitals", "slots: 4", "Slots: 4", "5:10: classes.chat.Slots: unknown key: want slots"},
		{"a key that belongs deeper", "slots: 4", "slots: 4, timeout: 30s", "5:20: classes.chat.timeout: unknown key: want queue.timeout"},
		{"a section twice", "backends:\n", "gpus: {other: {}}\nbackends:\n", "6:1: gpus: given twice: want it once (it stands on line 2 too)"},
		{"an anchor at the top", "classes:\n", "x-same: &same {slots: 2}\nclasses:\n", good},
		{"an entry to merge from", "classes:\n", "classes:\n  base: &base {slots: 2, vram: 1GiB}\n  big: {<<: *base, slots: 3}\n",
			"warning: 4:3: classes.base: nothing uses it: want a route of that class, or leave it out\n" +
				"warning: 5:3: classes.big: nothing uses it: want a route of that class, or leave it out"},

		// Amounts and times.
		{"no unit of memory", "vram: 12GiB", "vram: 12",
			"4:26: classes.draw.vram: 12 has no unit: want 12GiB, or another unit of KiB, MiB or TiB, or learn"},
		{"a unit in small letters", "24GiB", "24gb",
			`2:23: gpus.card.memory: "24gb" is not an amount of memory: want 24GiB, or 24GB for powers of ten`},
		{"a unit without B", "24GiB", "24G", `2:23: gpus.card.memory: "24G" is not an amount of memory: want 24GiB, or 24GB for powers of ten`},
		{"a space before the unit", "24GiB", "24 GB", good},
		{"a share of the card", "vram: 12GiB", "vram: 70%",
			`4:26: classes.draw.vram: "70%" is not an amount of memory: want a number with a unit, such as 34GiB, 512MiB or 34GB, ` +
				`or learn`},
		{"a word for an amount", "vram: 12GiB", "vram: auto",
			`4:26: classes.draw.vram: "auto" is not an amount of memory: want a number with a unit, such as 34GiB, 512MiB or 34GB, ` +
				`or learn`},
		{"no unit of time", "estimate: 20s", "estimate: 20",
			"4:43: classes.draw.estimate: 20 has no unit: want 20s, or another unit of ms, s, m or h"},
		{"more than the card", "vram: 12GiB", "vram: 30GiB", "4:26: classes.draw.vram: 30GiB: more than card can ever give: want 23GiB or less"},
		{"a reserve as large as the card", "24GiB}", "24GiB, reserve: 30GiB}",
			"2:39: gpus.card.reserve: 30GiB of 24GiB leaves nothing: want less"},

		// Names and what they refer to.
		{"a class that is not there", "class: chat", "class: chta", `11:33: routes[1].class: "chta": not in classes: want chat or draw`},
		{"a backend that is not there", "backend: painter", "backend: pinter",
			`10:81: routes[0].backend: "pinter": not in backends: want painter or talker`},
		{"a GPU that is not there", "gpu: card, returns_memory: true}\n  talker", "gpu: gpu1, returns_memory: true}\n  talker",
			`7:48: backends.painter.gpu: "gpu1" is not in gpus: want one of card`},
		{"no GPU of a backend", "gpu: card, returns_memory: true}\n  talker", "returns_memory: true}\n  talker",
			"warning: 7:3: backends.painter.gpu: none, so that the vram of its requests is booked nowhere: want a name in gpus"},
		{"no GPUs at all", "gpus: {card: {memory: 24GiB}}\n", "",
			`6:48: backends.painter.gpu: "card" is not in gpus: want a GPU of that name there` + "\n" +
				`7:47: backends.talker.gpu: "card" is not in gpus: want a GPU of that name there`},
		{"a card without a size", "{memory: 24GiB}", "{}",
			"warning: 2:8: gpus.card.memory: not set: while the driver cannot be read the GPU gives no room: want the card's size, such as 24GiB"},
		{"one device for two cards", "{card: {memory: 24GiB}}", "{card: {memory: 24GiB}, more: {memory: 24GiB}}",
			"2:31: gpus.more.device: 0 is the device of gpus.card too: want another"},
		{"no backend of a route", "class: draw, backend: painter", "class: draw", "10:5: routes[0].backend: missing: want painter or talker"},
		{"no class of a route", "class: draw, backend: painter", "backend: painter",
			"10:5: routes[0].class: missing: want chat or draw, or pass: true"},
		{"pass beside a class", "class: draw,", "class: draw, pass: true,",
			`10:66: routes[0].class: "draw": a route with pass has no queue: want class or pass, not both`},
		{"a backend that no route uses", "routes:\n", "  spare: {url: \"http://127.0.0.1:7003\"}\nroutes:\n",
			"warning: 9:3: backends.spare: nothing uses it: want a route to it, or leave it out"},
		{"an engine that is not known", "gpu: card, returns_memory: true}\n  talker",
			"gpu: card, returns_memory: true, reclaim: {preset: comfy}}\n  talker",
			`7:94: backends.painter.reclaim.preset: "comfy": not known: want a1111 or comfyui or`},

		// Types of values.
		{"text for a truth", "returns_memory: true}\n  talker", "returns_memory: \"yes\"}\n  talker",
			`7:70: backends.painter.returns_memory: "yes" is text: want true or false`},
		{"YAML's other word for a truth", "returns_memory: true}\n  talker", "returns_memory: yes}\n  talker",
			`7:70: backends.painter.returns_memory: "yes" is text: want true or false`},
		{"a word for a number", "slots: 4", "slots: four", `5:17: classes.chat.slots: "four" is text: want a whole number`},
		{"less than nothing", "slots: 4", "slots: -1", "5:17: classes.chat.slots: -1: too small: want 1 or more"},
		{"no slots", "slots: 4", "slots: 0", "5:17: classes.chat.slots: 0: too small: want 1 or more"},
		{"a truth for a choice", "cancel: aborts", "cancel: true", `8:83: backends.talker.cancel: "true": not known: want ignored or aborts`},
		{"a path for a section", "cancel: aborts", "health: /up",
			`8:83: backends.talker.health: "/up": want keys with values, such as {path: /health}`},
		{"a number for a section", "slots: 4", "slots: 4, queue: 50",
			`5:27: classes.chat.queue: "50": want keys with values, such as {limit: 100}`},
		{"a list for names", "gpus: {card: {memory: 24GiB}}", "gpus: [{memory: 24GiB}]", "2:7: gpus: a list: want names with keys below them"},
		{"names for a list", "  - {match: {method: POST, path: /v1/images/generations}, class: draw, backend: painter}\n  - {match", "  one: {match",
			"10:3: routes: keys with values: want a list"},
		{"headers as text", "match: {path: /**}", `match: {path: /**, headers: "X-Team: a"}`,
			`11:34: routes[1].match.headers: "X-Team: a": want names with values`},

		// Addresses.
		{"an address without a scheme", "http://127.0.0.1:7001", "127.0.0.1:7001",
			`7:18: backends.painter.url: "127.0.0.1:7001": has no scheme: want http://127.0.0.1:7001`},
		{"an address with a path", "http://127.0.0.1:7001", "http://127.0.0.1:7001/v1",
			`7:18: backends.painter.url: "http://127.0.0.1:7001/v1": has a path, and requests keep their own: want ` +
				`http://127.0.0.1:7001, and add_prefix: /v1 on the routes of clients that leave it out`},
		{"an address with TLS", "http://127.0.0.1:7001", "https://127.0.0.1:7001", good},
		{"a variable that is not set", "http://127.0.0.1:7001", "${PAINTER_URL}",
			"7:18: backends.painter.url: ${PAINTER_URL} is not set: want a variable PAINTER_URL in the environment"},
		{"the proxy itself", "http://127.0.0.1:7001", "http://localhost:8080",
			`7:18: backends.painter.url: "http://localhost:8080" is listen, the proxy's own address: want the model server's`},
		{"one address for two backends", "http://127.0.0.1:7002", "http://127.0.0.1:7001",
			`warning: 8:17: backends.talker.url: "http://127.0.0.1:7001" is the address of backends.painter too, so that its memory ` +
				`is booked twice: want one backend with both routes`},
		{"a port alone", "127.0.0.1:8080", "8080",
			`1:9: listen: "8080": has no host: want 127.0.0.1:8080, or :8080 for every address of this machine`},
		{"every address", "127.0.0.1:8080", `":8080"`, good},
		{"an admin listener for all", "gpus:", "admin: {listen: \"0.0.0.0:9090\"}\ngpus:",
			`2:1: admin.token: empty while admin.listen "0.0.0.0:9090" is reachable from elsewhere: want a token, or an address on loopback`},
		{"one port for both listeners", "gpus:", "admin: {listen: 127.0.0.1:8080}\ngpus:",
			`2:17: admin.listen: "127.0.0.1:8080" is the public listener: want an address of its own`},
		{"a certificate that is not there", "gpus:", "tls: {cert: no.pem, key: no.key}\ngpus:",
			"2:1: tls: open no.pem: no such file or directory: want the files of a certificate and its key, in PEM"},

		// What a request must look like.
		{"all before the rest", "path: /v1/images/generations}, class: draw, backend: painter}\n",
			"path: /**}, class: chat, backend: talker}\n  - {match: {method: POST, path: /v1/images/generations}, class: draw, backend: painter}\n",
			"11:6: routes[1].match: never reached: routes[0] matches all of it first: want this one before it, or a narrower one there"},
		{"one star", "path: /**", "path: /*",
			`11:20: routes[1].match.path: "/*": "*" is no wildcard: want {name} for one segment, or ** at the end for all below`},
		{"a regular expression", "path: /v1/images/generations", `path: "^/v1/images/.*$"`,
			`10:34: routes[0].match.path: "^/v1/images/.*$": regular expressions are not patterns: want {name} for one segment, /** ` +
				`for all below, or match.when with matches`},
		{"a slash at the end, for all below", "path: /v1/images/generations", "path: /v1/", good},
		{"a list of paths", "path: /v1/images/generations", "path: [/v1/images/generations, /v1/images/edits]", good},
		{"a method in small letters", "method: POST", "method: post",
			`10:22: routes[0].match.method: "post": not a method: want one in capitals, such as POST`},
		{"a list of methods", "method: POST", "method: [POST, PUT]", good},
		{"a model", "match: {path: /**}", "match: {path: /**, model: qwen*}", good},
		{"a condition without quotes", "match: {path: /**}", `match: {path: /**, when: body.model == "qwen"}`, good},
		{"one equals sign", "match: {path: /**}", `match: {path: /**, when: 'body.model = "qwen"'}`,
			`11:31: routes[1].match.when: "body.model = \"qwen\"": unexpected token Operator("=") at column 12: want a condition ` +
				`such as body.model == "flux"`},
		{"a name without body", "match: {path: /**}", `match: {path: /**, when: 'model == "qwen"'}`,
			"11:31: routes[1].match.when: \"model == \\\"qwen\\\"\": unknown name model at column 1, where there are body, header, " +
				"method, params, path, query and size"},
		{"a name of another program", "match: {path: /**}", `match: {path: /**, when: 'request.body.model == "qwen"'}`,
			"11:31: routes[1].match.when: \"request.body.model == \\\"qwen\\\"\": unknown name request at column 1, where there are body, header,"},

		// What a request takes.
		{"a demand with a comma missing", "class: draw, backend: painter", "class: draw, backend: painter, vram: 'gib(2) * num(body.n 1)'",
			`10:96: routes[0].vram: "gib(2) * num(body.n 1)": unexpected token Number("1") at column 21: want an amount such as ` +
				`20GiB, or an expression in bytes`},
		{"a function that is not there", "class: draw, backend: painter", "class: draw, backend: painter, vram: 'gb(2) * body.n'",
			`10:96: routes[0].vram: "gb(2) * body.n": unknown name gb at column 1, where there are body, header, method, params, ` +
				`path, query and size, and the functions flag, gib`},
		{"a demand without a unit", "class: draw, backend: painter", "class: draw, backend: painter, vram: 'body.n * 4'",
			`warning: 10:96: routes[0].vram: "body.n * 4" is a number of bytes, and has no gib or mib: want one such as gib(4) * num(body.n, 1)`},
		{"a demand without a default", "class: draw, backend: painter", "class: draw, backend: painter, vram: 'gib(2) + gib(1) * body.n'",
			"warning: 10:96: routes[0].vram: body.n is calculated with as it comes: a request without it takes the class's vram, " +
				"12GiB: want num(body.n, 1), or another default"},
		{"no demand on a card that is read", "vram: 12GiB, ", "", good}, // it is learned
		{"no demand beside what is held", "vram: 1GiB, estimate: 2s}\nbackends:\n  painter: {", "estimate: 2s}\nbackends:\n  painter: {resident: 8GiB, ",
			good}, // no request of the class goes there
		{"no demand beside what its own backend holds", "vram: 12GiB, estimate: 20s}\n" + between + "painter: {",
			"estimate: 20s}\n" + between + "painter: {resident: 8GiB, ",
			"warning: 4:3: classes.draw.vram: not set, so that its requests take nothing beside the 8GiB that painter holds: want " +
				"an amount, learn, or 0 where resident is all of it"},
		{"backends that cannot be in memory together", "gpu: card, returns_memory: true, cancel", "gpu: card, resident: 20GiB, cancel",
			"warning: 8:3: backends.talker: retains up to 23GiB of card once it has worked, and painter needs 12GiB of the 23GiB " +
				"there: painter then waits until queue.timeout (10m0s): want returns_memory: true"},
		{"an end that nothing tells", "gpu: card, returns_memory: true}\n  talker",
			"gpu: card, returns_memory: true, completion: {poll: \"GET /jobs/{{.json.id}}\"}}\n  talker",
			`7:76: backends.painter.completion.until: "": missing: want a condition such as body.state == "done"`},

		// Tenants.
		{"a key in place of its hash", "routes:\n", "tenants: {keys: {alice: sk-12345}}\nroutes:\n",
			"9:25: tenants.keys.alice: not the SHA-256 of a key: want the 64 digits that `printf %s KEY | sha256sum` prints, and " +
				"the tenant as its value"},
		{"the hash as the value", "routes:\n", "tenants: {keys: {alice: " + strings.Repeat("a1", 32) + "}}\nroutes:\n",
			"9:25: tenants.keys.alice: the SHA-256 of the key stands where the tenant does: want " + strings.Repeat("a1", 32) + ": alice"},

		// The file itself.
		{"a tab", "  draw:", "\tdraw:", "4:1: the line is indented with a tab: want spaces"},
		{"a brace that is never closed", "gpu: card, returns_memory: true}\n  talker", "gpu: card, returns_memory: true\n  talker",
			`7:12: not YAML: the "{" that stands here is never closed: want "}"`},
		{"JSON", sound, `{"backends": {"a": {"url": "http://127.0.0.1:7001"}}, ` +
			`"routes": [{"match": {"path": "/**"}, "pass": true, "backend": "a"}]}`, good},
		{"nothing", sound, "", "1:1: the file is empty: want gpus and backends, as `anteroom init` writes them"},
		{"another program's file", sound, "server { listen 80; location / { proxy_pass http://127.0.0.1:7001; } }\n",
			"1:1: the file is not a mapping: want keys with values"},
		{"no routes", sound[strings.Index(sound, "routes:"):], "", "1:1: routes: there are none: want one or more"},
	}
	if len(cases) < 75 {
		t.Errorf("there are %d mistakes, want 75 or more", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(sound, c.old) == 0 {
				t.Fatalf("%q is not in the file", c.old)
			}
			text := strings.Replace(sound, c.old, c.new, 1)
			got := answers(text)
			want := strings.Split(c.answer, "\n")
			if c.answer == good {
				want = nil
			}
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// answers are what check says of a file, without its name.
func answers(text string) (lines []string) {
	c, err := Load(Options{File: "file", Text: []byte(text)})
	if err != nil {
		for _, m := range err.(Mistakes) {
			lines = append(lines, strings.TrimPrefix(m.String(), "file:"))
		}
		return lines
	}
	if _, err := routing.NewTable(c.Routing); err != nil {
		lines = append(lines, err.Error())
	}
	for _, m := range c.Warnings() {
		lines = append(lines, fmt.Sprintf("warning: %s", strings.TrimPrefix(m.String(), "file:")))
	}
	return lines
}
