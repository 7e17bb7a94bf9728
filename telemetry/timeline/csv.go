package timeline

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// WriteCSV writes the requests of a history as a trace that `anteroom simulate` reads:
// those that asked for a grant, in the order in which they did. A request that never ran
// (its client left the queue, or it was refused) gets the mean execution of its route, else
// of its class. If neither has one, the request is left out. Lines that begin with # say
// from when the trace is complete and what is left out.
func WriteCSV(w io.Writer, h History) error {
	asked := slices.DeleteFunc(slices.Clone(h.Requests), func(r Request) bool { return r.Asked.IsZero() })
	slices.SortStableFunc(asked, func(a, b Request) int { return a.Asked.Compare(b.Asked) })
	usual, out := usualOf(asked), 0
	for _, r := range asked {
		if executionOf(r, usual) <= 0 {
			out++
		}
	}
	if _, err := fmt.Fprintf(w, "# %d requests, complete from %s to %s; what passed without a grant, and what still runs, is not among them\n",
		len(asked)-out, h.Since.UTC().Format(time.RFC3339), h.Until.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	if out > 0 {
		if _, err := fmt.Fprintf(w, "# %d that never ran are left out: nothing of their class ran that would say for how long\n", out); err != nil {
			return err
		}
	}
	c := csv.NewWriter(w)
	c.Write([]string{"at", "class", "execute", "vram", "tenant", "priority", "deadline", "leave", "route"}) // Flush has its error
	for _, r := range asked {
		execute := executionOf(r, usual)
		if execute <= 0 {
			continue
		}
		priority, deadline, leave := "", "", ""
		if r.Priority != 3 {
			priority = strconv.Itoa(min(max(r.Priority, 0), 7))
		}
		if r.Deadline > 0 {
			deadline = seconds(r.Deadline)
		}
		if r.Execute < 0 && r.Result == "cancelled" && r.Wait > 0 {
			leave = seconds(r.Wait)
		}
		c.Write([]string{seconds(r.Asked.Sub(asked[0].Asked).Seconds()), r.Class, seconds(execute), strconv.FormatInt(r.VRAM, 10), r.Tenant,
			priority, deadline, leave, r.Route})
	}
	c.Flush()
	return c.Error()
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 6, 64) }

// executionOf is how long a request runs; 0: that is not known.
func executionOf(r Request, usual map[string]mean) float64 {
	if r.Execute >= 0 {
		return max(r.Execute, 1e-6)
	}
	return cmp.Or(usual["route "+r.Route].value(), usual["class "+r.Class].value())
}

type mean struct{ sum, n float64 }

func (m mean) value() float64 {
	if m.n == 0 {
		return 0
	}
	return m.sum / m.n
}

// usualOf are the mean executions of requests that ended well, by route and by class.
func usualOf(requests []Request) map[string]mean {
	usual := make(map[string]mean)
	for _, r := range requests {
		if r.Execute < 0 || r.Result != "ok" {
			continue
		}
		for _, key := range [...]string{"route " + r.Route, "class " + r.Class} {
			m := usual[key]
			usual[key] = mean{m.sum + r.Execute, m.n + 1}
		}
	}
	return usual
}
