package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// runLearned is `anteroom learned`: what was declared beside what was seen, of a
// running proxy, or of the state file of one that is not.
func runLearned(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("learned", "", "Show what has been learned of each route's work: how long it takes, and how much memory.", stderr)
	admin := fs.String("admin", "http://127.0.0.1:9090", "ask the proxy whose admin listener is at `URL`, or unix:/path")
	token := fs.String("token", os.Getenv("ANTEROOM_ADMIN__TOKEN"), "the admin listener's `TOKEN`; better ANTEROOM_ADMIN__TOKEN")
	state := fs.String("state", "", "read the state `FILE`, and ask nobody")
	asJSON := fs.Bool("json", false, "print JSON")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	var l proxy.Learned
	var err error
	if *state != "" {
		l, err = learnedFromFile(*state)
	} else {
		l, err = learnedFrom(*admin, *token)
	}
	if err != nil {
		fmt.Fprintln(stderr, "anteroom learned:", err)
		return 1
	}
	if *asJSON {
		printJSON(stdout, l)
	} else {
		printLearned(stdout, l)
	}
	return 0
}

// learnedFrom asks a running proxy.
func learnedFrom(admin, token string) (l proxy.Learned, err error) {
	client := &http.Client{Timeout: 10 * time.Second}
	base := strings.TrimSuffix(admin, "/")
	if path, ok := strings.CutPrefix(admin, "unix:"); ok {
		base = "http://localhost"
		client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	} else if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	r, err := http.NewRequest(http.MethodGet, base+"/api/learned", nil)
	if err != nil {
		return l, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(r)
	if err != nil {
		return l, fmt.Errorf("%w: want --admin with the address of a running proxy, or --state FILE", err)
	}
	defer res.Body.Close()
	body := io.LimitReader(res.Body, maxState)
	if res.StatusCode != http.StatusOK {
		var problem struct{ Detail string }
		json.NewDecoder(body).Decode(&problem)
		return l, fmt.Errorf("%s answers %s: %s", base, res.Status, problem.Detail)
	}
	if err := json.NewDecoder(body).Decode(&l); err != nil {
		return l, fmt.Errorf("%s does not answer as Anteroom does: %w", base, err)
	}
	return l, nil
}

// learnedFromFile reads a state file, in which the estimates and the declared
// resident memory do not stand.
func learnedFromFile(name string) (l proxy.Learned, err error) {
	m, _, err := readState(name)
	if err != nil {
		return l, err
	}
	for _, r := range m.Routes {
		history := new(admission.History)
		if err := json.Unmarshal(r.Learned, history); err != nil {
			return l, err
		}
		route := &routing.Route{Name: r.Route, Backend: r.Backend, ClassName: r.Class, Learn: r.Learn}
		l.Routes = append(l.Routes, proxy.DescribeHistory(route, history)...)
	}
	for _, a := range m.Accounts {
		if a.Resident > 0 {
			l.Residents = append(l.Residents, proxy.LearnedResident{Backend: a.Backend, Replica: a.Replica, GPU: a.GPU, Seen: &a.Resident})
		}
	}
	return l, nil
}

func printLearned(w io.Writer, l proxy.Learned) {
	if len(l.Routes) == 0 {
		fmt.Fprintln(w, "nothing has been learned yet")
	}
	amount := func(n int64) string { return admission.Bytes(n).String() }
	maybe := func(n *int64) string {
		if n == nil {
			return "-"
		}
		return amount(*n)
	}
	seconds := func(s float64) string { return strconv.FormatFloat(s, 'g', 3, 64) + "s" }
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(l.Routes) > 0 {
		fmt.Fprintln(t, "ROUTE\tBACKEND\tDECLARED\tBOOKED\tSEEN P95\tSEEN MAX\tMEASURED\tRUNS\tESTIMATE\tP50\tP95")
	}
	for _, r := range l.Routes {
		declared, booked, estimate, p50, p95 := amount(r.Declared), amount(r.Booked), "-", "-", "-"
		if r.Learn {
			declared = "learn"
		}
		if r.Unknown {
			booked = "unknown"
		}
		if r.Estimate > 0 {
			estimate = seconds(r.Estimate)
		}
		if r.P50 != nil && r.P95 != nil {
			p50, p95 = seconds(*r.P50), seconds(*r.P95)
		}
		fmt.Fprintln(t, strings.Join([]string{r.Route, r.Backend, declared, booked, maybe(r.Seen), maybe(r.Most),
			fmt.Sprint(r.Measured), fmt.Sprint(r.Runs), estimate, p50, p95}, "\t"))
	}
	besides := false
	for _, r := range l.Routes {
		for _, b := range r.Beside {
			if !besides {
				besides = true
				fmt.Fprintln(t, "\nROUTE\tDECLARED\tBESIDE\tP50\tP95")
			}
			fmt.Fprintln(t, strings.Join([]string{r.Route, amount(r.Declared), cmp.Or(b.Class, "(alone)"), seconds(b.P50), seconds(b.P95)}, "\t"))
		}
	}
	if len(l.Residents) > 0 {
		fmt.Fprintln(t, "\nBACKEND\tREPLICA\tGPU\tRESIDENT\tAT REST")
	}
	for _, r := range l.Residents {
		declared := "learn"
		if r.Declared != nil {
			declared = amount(*r.Declared)
		}
		fmt.Fprintln(t, strings.Join([]string{r.Backend, fmt.Sprint(r.Replica), r.GPU, declared, maybe(r.Seen)}, "\t"))
	}
	t.Flush()
	for _, r := range l.Routes {
		for _, hint := range r.Hints {
			fmt.Fprintf(w, "\n%s on %s: %s", r.Route, r.Backend, hint)
		}
	}
	for _, r := range l.Residents {
		if r.Hint != "" {
			fmt.Fprintf(w, "\n%s: %s", r.Backend, r.Hint)
		}
	}
	fmt.Fprintln(w)
}
