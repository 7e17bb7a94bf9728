package replay

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/anteroom-gpu/anteroom/admission"
)

// WriteTable writes runs of one trace side by side, for people. Waits are of
// the requests that started, totals of those that got their answer.
func WriteTable(w io.Writer, runs []*Result) error {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)}
	t.line("class", "run", "requests", "completed", "refused", "left", "wait mean", "p50", "p90", "p99", "max", "total p50", "p99", "slots used")
	for _, name := range classNames(runs) {
		for _, r := range runs {
			c, ok := r.Classes[name]
			if !ok || c.Requests == 0 {
				continue
			}
			used := fmt.Sprintf("%.0f %%", 100*r.Utilisation[name])
			t.line(append(append([]string{name, r.Config}, c.cells()...), used)...)
		}
	}
	t.end()
	t.tenants(runs)
	last := []string{"run", "makespan", "bound", "÷ bound", "per second", "peak memory", "over budget", "decisions"}
	swapping := slices.ContainsFunc(runs, func(r *Result) bool { return r.Swaps > 0 })
	if swapping {
		last = append(last, "swaps")
	}
	t.line(last...)
	for _, r := range runs {
		over := "0"
		if r.OverBudget > 0 {
			over = fmt.Sprintf("%d TIMES", r.OverBudget)
		}
		ratio := "-"
		if r.Bound > 0 {
			ratio = fmt.Sprintf("%.3f", r.Makespan/r.Bound)
		}
		cells := []string{r.Config, fmt.Sprintf("%.1f s", r.Makespan), fmt.Sprintf("%.1f s", r.Bound), ratio,
			fmt.Sprintf("%.2f", r.Throughput), r.peaks(), over, strings.TrimPrefix(r.Decisions, "sha256:")[:12]}
		if swapping {
			cells = append(cells, strconv.Itoa(r.Swaps))
		}
		t.line(cells...)
	}
	t.end()
	return t.err
}

// tenants writes what each tenant got, where a trace names any.
func (t *table) tenants(runs []*Result) {
	if !slices.ContainsFunc(runs, func(r *Result) bool { return len(r.Tenants) > 0 }) {
		return
	}
	t.line("tenant", "class", "run", "requests", "completed", "refused", "left", "wait mean", "p50", "p90", "p99", "max", "total p50", "p99")
	// The runs are of one trace, so all have the same tenants.
	for i, x := range runs[0].Tenants {
		for _, r := range runs {
			t.line(append([]string{cmp.Or(x.Tenant, "(none)"), x.Class, r.Config}, r.Tenants[i].cells()...)...)
		}
	}
	t.end()
}

type table struct {
	w   *tabwriter.Writer
	err error
}

func (t *table) line(cells ...string) {
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")+"\t"); err != nil && t.err == nil {
		t.err = err
	}
}

// end closes one table; the next has columns of its own.
func (t *table) end() {
	fmt.Fprintln(t.w)
	if err := t.w.Flush(); err != nil && t.err == nil {
		t.err = err
	}
}

func (c ClassResult) cells() []string {
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(c.Refused)) {
		if n := c.Refused[code]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, code))
		}
	}
	refused := cmp.Or(strings.Join(parts, ", "), "0")
	return []string{
		strconv.Itoa(c.Requests), strconv.Itoa(c.Completed), refused, strconv.Itoa(c.Left),
		short(c.Wait.Mean), short(c.Wait.P50), short(c.Wait.P90), short(c.Wait.P99), short(c.Wait.Max),
		short(c.Total.P50), short(c.Total.P99),
	}
}

// short writes seconds with as many digits as say something.
func short(s float64) string {
	switch {
	case s == 0:
		return "0"
	case s < 9.995:
		return strconv.FormatFloat(s, 'f', 2, 64)
	case s < 999.95:
		return strconv.FormatFloat(s, 'f', 1, 64)
	}
	return strconv.FormatFloat(s, 'f', 0, 64)
}

func (r *Result) peaks() string {
	var parts []string
	for _, g := range slices.Sorted(maps.Keys(r.Peak)) {
		parts = append(parts, fmt.Sprintf("%s %v", g, admission.Bytes(r.Peak[g])))
	}
	return strings.Join(parts, ", ")
}

func classNames(runs []*Result) []string {
	var names []string
	for _, r := range runs {
		for name := range r.Classes {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
