package routing_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// spread holds so much on each GPU, written gpu0:20 gpu1:20, in GiB.
func spread(text string) backend.Resident {
	r := backend.Resident{PerGPU: map[string]admission.Bytes{}}
	for _, part := range strings.Fields(text) {
		gpu, amount, _ := strings.Cut(part, ":")
		n, err := admission.ParseBytes(amount + "GiB")
		if err != nil {
			panic(err)
		}
		r.PerGPU[gpu] = n
	}
	return r
}

// onServers is a configuration with two cards, of 47 and 23 GiB, whose backend
// flux is where change says.
func onServers(change func(*backend.Config)) routing.Config {
	c := aConfig(heavy("images", path("/v1/images")), light("vqa", path("/v1/vqa")))
	c.Room["gpu1"] = 23 * gib
	b := c.Backends["flux"]
	b.URL, b.GPU = "", ""
	change(&b)
	c.Backends["flux"] = b
	return c
}

func TestMistakesInReplicasAreNamedWithTheirCure(t *testing.T) {
	one := backend.ReplicaConfig{URL: "http://a:1", GPU: "gpu0"}
	for _, c := range []struct {
		path, says string
		spoil      func(*backend.Config)
	}{
		{"url", "missing: want http://host:port", func(b *backend.Config) {}},
		{"urls", "beside url: want one of url, urls and replicas", func(b *backend.Config) { b.URL, b.URLs = "http://a:1", []string{"http://a:2"} }},
		{"replicas", "beside url: want one of", func(b *backend.Config) { b.URL, b.Replicas = "http://a:2", []backend.ReplicaConfig{one} }},
		{"replicas", "beside urls: want one of", func(b *backend.Config) {
			b.URLs, b.Replicas = []string{"http://a:2"}, []backend.ReplicaConfig{one}
		}},
		{"urls[1]", "missing", func(b *backend.Config) { b.URLs = []string{"http://a:1", ""} }},
		{"urls[1]", "is the server of urls[0] too: want each once", func(b *backend.Config) { b.URLs = []string{"http://a:1", "http://a:1/"} }},
		{"replicas[1].url", "is the server of replicas[0].url too", func(b *backend.Config) {
			b.Replicas = []backend.ReplicaConfig{one, {URL: "http://a:1", GPU: "gpu1"}}
		}},
		{"urls", "101 servers: want 100 or fewer", func(b *backend.Config) {
			for i := range 101 {
				b.URLs = append(b.URLs, fmt.Sprintf("http://a:%d", i))
			}
		}},
		{"resident", "names no GPU: want an amount", func(b *backend.Config) { b.URL, b.Resident = "http://a:1", spread("") }},
		{"gpu", "not among the GPUs of resident: want it left out, or gpu0 or gpu7", func(b *backend.Config) {
			b.URL, b.GPU, b.Resident = "http://a:1", "gpu2", spread("gpu0:1 gpu7:1")
		}},
		{"replicas[0].gpu", "not among the GPUs of resident: want it left out, or gpu7", func(b *backend.Config) {
			r := one
			r.Resident = spread("gpu7:1")
			b.Replicas = []backend.ReplicaConfig{r}
		}},
		{"replicas[0].gpu", "want a resident here too", func(b *backend.Config) {
			b.Resident, b.Replicas = spread("gpu0:1 gpu7:1"), []backend.ReplicaConfig{one}
		}},
		{"replicas[0].resident", "on no GPU: want gpu", func(b *backend.Config) {
			b.Replicas = []backend.ReplicaConfig{{URL: "http://a:1", Resident: backend.Resident{Amount: gib}}}
		}},
		{"replicas[0].resident", "learn is for all replicas or none", func(b *backend.Config) {
			r := one
			r.Resident.Learn = true
			b.Replicas = []backend.ReplicaConfig{r, {URL: "http://a:2", GPU: "gpu1"}}
		}},
		{"replicas[0].resident", "learn is for all replicas or none", func(b *backend.Config) {
			r := one
			r.Resident.Amount, b.Resident.Learn = gib, true
			b.Replicas = []backend.ReplicaConfig{r, {URL: "http://a:2", GPU: "gpu1"}}
		}},
		{"process.pid", "one for 2 servers: want it left out", func(b *backend.Config) {
			b.GPU, b.URLs, b.Process.PID = "gpu0", []string{"http://a:1", "http://a:2"}, 7
		}},
		{"reclaim.stop", "one for 2 servers: want it left out", func(b *backend.Config) {
			b.GPU, b.URLs, b.Reclaim.Stop = "gpu0", []string{"http://a:1", "http://a:2"}, backend.Command{"true"}
		}},
		{"protocol", "want http, which takes HTTP/2", func(b *backend.Config) {
			b.Protocol, b.URLs = "h2c", []string{"http://a:1", "https://a:2"}
		}},
	} {
		got := mistakes(onServers(c.spoil))
		if len(got) != 1 || !strings.HasPrefix(got[0], "backends.flux."+c.path+": ") || !strings.Contains(got[0], c.says) {
			t.Errorf("got %q\nwant one, backends.flux.%s: … %s", got, c.path, c.says)
		}
	}
}

func TestAReplicaTakesFromItsBackendWhatItDoesNotSay(t *testing.T) {
	b := backend.Config{GPU: "gpu0", Resident: backend.Resident{Amount: 3}, Slots: 2, Cancel: "aborts", Replicas: []backend.ReplicaConfig{
		{URL: "http://a:1"},
		{URL: "http://a:2", GPU: "gpu1"},
		{URL: "http://a:3", Resident: backend.Resident{Amount: 4}},
		{URL: "http://a:4", Resident: spread("gpu1:5 gpu0:6")},
	}}
	var got []string
	for i, s := range b.Servers() {
		if s.Replicas != nil || s.URLs != nil || s.Slots != 2 || s.Cancel != "aborts" {
			t.Errorf("the server is %+v, want a backend of one url with all else as it was", s)
		}
		text := s.URL
		for _, p := range s.Places() {
			place, resident := b.KeysOf(i).Place(s, p.GPU)
			text += fmt.Sprintf(" %s=%v (%s, %s)", p.GPU, p.Resident, place, resident)
		}
		got = append(got, text)
	}
	want := []string{
		"http://a:1 gpu0=3B (gpu, resident)",
		"http://a:2 gpu1=3B (replicas[1].gpu, resident)",
		"http://a:3 gpu0=4B (gpu, replicas[2].resident)",
		"http://a:4 gpu0=6GiB (replicas[3].resident.gpu0, replicas[3].resident.gpu0) gpu1=5GiB (replicas[3].resident.gpu1, replicas[3].resident.gpu1)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	replicas := b.Admission()
	if len(replicas) != 4 || replicas[3].Name != "http://a:4" || len(replicas[3].Places) != 2 {
		t.Errorf("the controller is told %+v", replicas)
	}
}

func TestWhatARequestMayTakeIsWhatItsRoomiestReplicaHas(t *testing.T) {
	for _, c := range []struct {
		name   string
		where  func(*backend.Config)
		says   string          // the mistake of 34 GiB; empty: none
		bucket admission.Bytes // what 21 GiB and a byte are rounded up to
	}{
		{"one large, one small", func(b *backend.Config) {
			b.Replicas = []backend.ReplicaConfig{{URL: "http://a:1", GPU: "gpu1"}, {URL: "http://a:2", GPU: "gpu0"}}
		}, "", 0},
		{"both small", func(b *backend.Config) { b.GPU, b.URLs = "gpu1", []string{"http://a:1", "http://a:2"} },
			"34GiB: more than gpu1 can ever give: want 23GiB or less", 0},
		{"across both", func(b *backend.Config) { b.URL, b.Resident = "http://a:1", spread("gpu0:10 gpu1:1") },
			"34GiB: more than gpu1 can ever give beside the 1GiB that backend flux holds: want 22GiB or less", 22 * gib},
		{"one on a card of unknown size", func(b *backend.Config) {
			b.Replicas = []backend.ReplicaConfig{{URL: "http://a:1", GPU: "gpu1"}, {URL: "http://a:2", GPU: "gpu7"}}
		}, "", 0},
		{"one on no card", func(b *backend.Config) {
			b.Replicas = []backend.ReplicaConfig{{URL: "http://a:1", GPU: "gpu1"}, {URL: "http://a:2"}}
		}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := onServers(c.where)
			got := mistakes(config)
			if c.says == "" && got != nil || c.says != "" && (len(got) != 1 || got[0] != "classes.heavy.vram: "+c.says) {
				t.Errorf("got %q, want %q", got, c.says)
			}
			if c.bucket == 0 {
				return
			}
			k := config.Classes["heavy"]
			k.VRAM.Amount = gib
			config.Classes["heavy"] = k
			config.Routes[0].VRAM = "gib(21) + 1"
			r, body := posted(t, "/v1/images", "{}")
			if d, err := decide(t, compiled(t, config), r, body); err != nil || d.VRAM != c.bucket {
				t.Errorf("the demand is %v, %v; want %v", d.VRAM, err, c.bucket)
			}
		})
	}
}
