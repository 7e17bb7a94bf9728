package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/routing"
)

// runLearned is `anteroom learned`: declared and measured figures, of a running proxy or
// from a state file.
func runLearned(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("learned", "", "Show what has been learned of each route's work: how long it takes, and how much memory.", stderr)
	reach := clientFlags(fs)
	state := fs.String("state", "", "read the state `FILE` instead of asking a running proxy")
	forget := fs.String("forget", "", "have the proxy forget what it has learned of the `ROUTE`, and show the rest")
	asJSON := fs.Bool("json", false, "print JSON")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	var l admin.Learned
	var err error
	switch {
	case *state != "" && *forget != "":
		err = errors.New("--forget asks a running proxy: want it without --state")
	case *state != "":
		l, err = learnedFromFile(*state)
	case *forget != "":
		if err = reach().post("/api/learned/"+url.PathEscape(*forget)+"/forget", ""); err != nil {
			break
		}
		fallthrough
	default:
		err = reach().get("/api/learned", &l)
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

// learnedFromFile reads a state file, which has no estimates and no declared resident
// memory.
func learnedFromFile(name string) (l admin.Learned, err error) {
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
		l.Routes = append(l.Routes, admin.DescribeHistory(route, history)...)
	}
	for _, a := range m.Accounts {
		if a.Resident > 0 {
			l.Residents = append(l.Residents, admin.LearnedResident{Backend: a.Backend, Replica: a.Replica, GPU: a.GPU, Seen: &a.Resident})
		}
	}
	return l, nil
}

func sizeText(n int64) string { return admission.Bytes(n).String() }

func sizeOrDash(n *int64) string {
	if n == nil {
		return "-"
	}
	return sizeText(*n)
}

func secondsText(s float64) string { return strconv.FormatFloat(s, 'g', 3, 64) + "s" }

// learnedRow is a row of the table: what was learned of a route, with tabs between the
// cells.
func learnedRow(r admin.LearnedRoute) string {
	declared, booked, estimate, p50, p95 := sizeText(r.Declared), sizeText(r.Booked), "-", "-", "-"
	since, raised, down := "-", "-", "-"
	if r.Since != nil {
		since = r.Since.Local().Format("2006-01-02 15:04:05")
	}
	if r.RaisedBy > 0 {
		raised, down = sizeText(r.RaisedBy), fmt.Sprintf("%d runs", r.ComesDownAfter)
	}
	if r.Learn {
		declared = "learn"
	}
	if r.Unknown {
		booked = "unknown"
	}
	if r.Estimate > 0 {
		estimate = secondsText(r.Estimate)
	}
	if r.P50 != nil && r.P95 != nil {
		p50, p95 = secondsText(*r.P50), secondsText(*r.P95)
	}
	return strings.Join([]string{r.Route, r.Backend, declared, booked, string(r.Evidence), since, raised, down,
		sizeOrDash(r.Most), fmt.Sprint(r.Measured), fmt.Sprint(r.Runs), estimate, p50, p95}, "\t")
}

func printLearned(w io.Writer, l admin.Learned) {
	if len(l.Routes) == 0 {
		fmt.Fprintln(w, "nothing has been learned yet")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(l.Routes) > 0 {
		fmt.Fprintln(t, "ROUTE\tBACKEND\tDECLARED\tBOOKED\tEVIDENCE\tSINCE\tRAISED BY\tDOWN AFTER\tMEASURED\tMEASURED RUNS\tRUNS\tESTIMATE\tP50\tP95")
	}
	for _, r := range l.Routes {
		fmt.Fprintln(t, learnedRow(r))
	}
	besides := false
	for _, r := range l.Routes {
		for _, b := range r.Beside {
			if !besides {
				besides = true
				fmt.Fprintln(t, "\nROUTE\tDECLARED\tBESIDE\tP50\tP95")
			}
			fmt.Fprintln(t, strings.Join([]string{r.Route, sizeText(r.Declared), cmp.Or(b.Class, "(alone)"), secondsText(b.P50), secondsText(b.P95)}, "\t"))
		}
	}
	if len(l.Residents) > 0 {
		fmt.Fprintln(t, "\nBACKEND\tREPLICA\tGPU\tRESIDENT\tAT REST")
	}
	for _, r := range l.Residents {
		declared := "learn"
		if r.Declared != nil {
			declared = sizeText(*r.Declared)
		}
		fmt.Fprintln(t, strings.Join([]string{r.Backend, fmt.Sprint(r.Replica), r.GPU, declared, sizeOrDash(r.Seen)}, "\t"))
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
