package proxy

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestWhatARequestSaysOfItself(t *testing.T) {
	const sum = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b" // of "secret"
	s := &rules{trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	s.config.Tenants = TenantsConfig{Header: "X-Tenant", Keys: map[string]string{sum: "acme"}}
	arrived := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		peer   string // empty: a trusted one
		header http.Header
		want   admission.Request
	}{
		"nothing":              {"", http.Header{}, admission.Request{}},
		"a tenant":             {"", http.Header{"X-Tenant": {"a"}}, admission.Request{Tenant: "a"}},
		"a stranger's tenant":  {"10.1.1.1:99", http.Header{"X-Tenant": {"a"}}, admission.Request{}},
		"a key":                {"10.1.1.1:99", http.Header{"Authorization": {"Bearer secret"}, "X-Tenant": {"a"}}, admission.Request{Tenant: "acme"}},
		"a key in a header":    {"10.1.1.1:99", http.Header{"X-Api-Key": {"secret"}}, admission.Request{Tenant: "acme"}},
		"an unknown key":       {"", http.Header{"Authorization": {"Bearer guess"}, "X-Tenant": {"a"}}, admission.Request{Tenant: "a"}},
		"urgency":              {"", http.Header{"Priority": {"u=1, i"}}, admission.Request{Boost: 2 * Urgency}},
		"the last urgency":     {"", http.Header{"Priority": {"u=1", "i, u=5;x"}}, admission.Request{Boost: -2 * Urgency}},
		"no urgency":           {"", http.Header{"Priority": {"u=9, U=1, u=12"}}, admission.Request{}},
		"a stranger's urgency": {"10.1.1.1:99", http.Header{"Priority": {"u=0"}}, admission.Request{}},
		"a stranger's modesty": {"10.1.1.1:99", http.Header{"Priority": {"u=7"}}, admission.Request{Boost: -4 * Urgency}},
		"seconds":              {"", http.Header{"X-Request-Timeout": {"1.5"}}, admission.Request{Deadline: arrived.Add(1500 * time.Millisecond)}},
		"a duration":           {"", http.Header{"X-Request-Timeout": {"2m"}}, admission.Request{Deadline: arrived.Add(2 * time.Minute)}},
		"an SDK's":             {"", http.Header{"X-Stainless-Timeout": {"600"}}, admission.Request{Deadline: arrived.Add(10 * time.Minute)}},
		"Envoy's": {"", http.Header{"X-Envoy-Expected-Rq-Timeout-Ms": {"250"}},
			admission.Request{Deadline: arrived.Add(250 * time.Millisecond)}},
		"gRPC's": {"", http.Header{"Grpc-Timeout": {"100m"}}, admission.Request{Deadline: arrived.Add(100 * time.Millisecond)}},
		"the shortest": {"", http.Header{"Grpc-Timeout": {"2S"}, "X-Stainless-Timeout": {"3"}},
			admission.Request{Deadline: arrived.Add(2 * time.Second)}},
		"what is no time": {"", http.Header{"Grpc-Timeout": {"123456789S"}, "X-Stainless-Timeout": {"-1"},
			"X-Request-Timeout": {"soon"}}, admission.Request{}},
		"more than there is":        {"", http.Header{"X-Stainless-Timeout": {"1e300"}}, admission.Request{Deadline: arrived.Add(maxTimeout)}},
		"a stranger's time":         {"10.1.1.1:99", http.Header{"X-Request-Timeout": {"1"}}, admission.Request{}},
		"a tenant with a long name": {"", http.Header{"X-Tenant": {string(make([]byte, maxTenant+1))}}, admission.Request{}},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: c.header}
		if c.peer == "" {
			r.RemoteAddr = "127.0.0.1:99"
		}
		got := admission.Request{Tenant: s.tenant(r)}
		s.claims(r, arrived, &got)
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
