package backend

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/internal/check"
)

// ReplicaConfig is one entry of a backend's `replicas`: a server of its own. What
// it leaves out is as its backend says.
type ReplicaConfig struct {
	URL      string   `koanf:"url"`
	GPU      string   `koanf:"gpu"`
	Resident Resident `koanf:"resident"`
}

// maxReplicas bounds the number of replicas, so that a number fits into a byte.
const maxReplicas = 100

// Servers gives each of a backend's servers as a backend with one url, in the
// order of the file. Their places in it are the replicas' numbers.
func (b Config) Servers() []Config {
	one := b
	one.URLs, one.Replicas = nil, nil
	var servers []Config
	for _, r := range b.Replicas {
		s := one
		s.URL = r.URL
		if r.Resident.given() {
			s.Resident = r.Resident
		}
		if r.GPU != "" || r.Resident.PerGPU != nil {
			s.GPU = r.GPU
		}
		servers = append(servers, s)
	}
	if servers != nil {
		return servers
	}
	for _, url := range b.URLs {
		s := one
		s.URL = url
		servers = append(servers, s)
	}
	if servers != nil {
		return servers
	}
	return []Config{one}
}

// Places are the GPUs whose memory one server uses, in order of their names.
func (b Config) Places() []admission.Place {
	if b.Resident.PerGPU == nil {
		if b.GPU == "" {
			return nil
		}
		return []admission.Place{{GPU: b.GPU, Resident: b.Resident.Amount}}
	}
	var places []admission.Place
	for _, gpu := range b.Resident.gpus() {
		places = append(places, admission.Place{GPU: gpu, Resident: b.Resident.PerGPU[gpu]})
	}
	return places
}

// Admission gives the backend's servers as the controller is told about them: by their
// urls, which stay the same when the list is edited.
func (b Config) Admission() []admission.Replica {
	var replicas []admission.Replica
	for _, s := range b.Servers() {
		replicas = append(replicas, admission.Replica{Name: s.URL, Places: s.Places()})
	}
	return replicas
}

// Keys are the keys of the file that concern one server, below its backend.
type Keys struct{ URL, GPU, Resident string }

// KeysOf gives the keys of a backend's i-th server.
func (b Config) KeysOf(i int) Keys {
	k := Keys{"url", "gpu", "resident"}
	switch {
	case len(b.Replicas) > 0:
		here := fmt.Sprintf("replicas[%d].", i)
		k.URL = here + "url"
		if b.Replicas[i].GPU != "" || b.GPU == "" {
			k.GPU = here + "gpu"
		}
		if b.Replicas[i].Resident.given() {
			k.Resident = here + "resident"
		}
	case len(b.URLs) > 0:
		k.URL = fmt.Sprintf("urls[%d]", i)
	}
	return k
}

// Place is the key that puts a server of these keys on a GPU, and the one that
// says what it holds there.
func (k Keys) Place(server Config, gpu string) (place, resident string) {
	if server.Resident.PerGPU != nil {
		return k.Resident + "." + gpu, k.Resident + "." + gpu
	}
	return k.GPU, k.Resident
}

// checkServers reports mistakes in the addresses of the backend's servers.
func (b Config) checkServers(report func(path, problem string)) {
	var given []string
	for _, key := range []struct {
		name  string
		given bool
	}{{"url", b.URL != ""}, {"urls", len(b.URLs) > 0}, {"replicas", len(b.Replicas) > 0}} {
		if key.given {
			given = append(given, key.name)
		}
	}
	if len(given) > 1 {
		report(given[len(given)-1], fmt.Sprintf("beside %s: want one of url, urls and replicas", strings.Join(given[:len(given)-1], " and ")))
	}
	servers := b.Servers()
	if len(servers) > maxReplicas {
		report(given[len(given)-1], fmt.Sprintf("%d servers: want %d or fewer", len(servers), maxReplicas))
	}
	first := make(map[string]string)
	for i, s := range servers {
		keys := b.KeysOf(i)
		u, err := parseURL(s.URL)
		if err != nil {
			report(keys.URL, err.Error())
			continue
		}
		if b.Protocol == "h2c" && u.Scheme == "https" {
			report("protocol", `"h2c": is without TLS, and the url has it: want http, which takes HTTP/2 where the server offers it`)
		}
		address := u.Scheme + ":" + u.Host + strings.TrimSuffix(u.Path, "/")
		if other, twice := first[address]; twice {
			report(keys.URL, fmt.Sprintf("%q: is the server of %s too: want each once", s.URL, other))
		} else {
			first[address] = keys.URL
		}
	}
	b.Resident.check(report, b.GPU)
	for i, r := range b.Replicas {
		r.check(check.At(report, fmt.Sprintf("replicas[%d]", i)), b)
	}
	if len(servers) == 1 {
		return
	}
	for _, key := range []struct {
		name  string
		given bool
		want  string
	}{
		{"process.pid", b.Process.PID != 0, "their ports tell"},
		{"process.name", b.Process.Name != "", "their ports tell"},
		{"reclaim.stop", len(b.Reclaim.Stop) > 0, "a call can tell them apart"},
	} {
		if key.given {
			report(key.name, fmt.Sprintf("one for %d servers: want it left out, for %s, or a backend for each", len(servers), key.want))
		}
	}
}

func (r ReplicaConfig) check(report func(path, problem string), b Config) {
	switch {
	case r.Resident.Learn || b.Resident.Learn && r.Resident.given():
		report("resident", "learn is for all replicas or none: want it at the backend alone, or amounts alone")
	case r.Resident.given():
		r.Resident.check(report, r.GPU)
		if r.Resident.PerGPU == nil && r.GPU == "" && b.GPU == "" && r.Resident.Amount > 0 {
			report("resident", fmt.Sprintf("%v: on no GPU: want gpu, or an amount for each such as {gpu0: 20GiB}", r.Resident.Amount))
		}
	case r.GPU != "" && b.Resident.PerGPU != nil:
		report("gpu", fmt.Sprintf("%q: the backend's resident says where each replica is: want a resident here too, or an amount there", r.GPU))
	}
}

// check reports what is wrong with a server's resident memory beside the GPU
// that is named with it.
func (r Resident) check(report func(path, problem string), gpu string) {
	check.AtLeast(report, "resident", r.Amount, 0)
	for _, name := range r.gpus() {
		check.AtLeast(report, "resident."+name, r.PerGPU[name], 0)
	}
	switch {
	case r.PerGPU == nil:
	case len(r.PerGPU) == 0:
		report("resident", "{}: names no GPU: want an amount such as 20GiB, or one for each GPU such as {gpu0: 20GiB, gpu1: 20GiB}")
	case gpu != "" && !slices.Contains(r.gpus(), gpu):
		report("gpu", fmt.Sprintf("%q: not among the GPUs of resident: want it left out, or %s", gpu, strings.Join(r.gpus(), " or ")))
	}
}
