package admin_test

import (
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/history"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestAFigureIsShownWithWhatItRestsOn: declared, booked, evidence, since when, raised by how
// much, and when it comes down. Sizes are rounded up to what is booked, and add up.
func TestAFigureIsShownWithWhatItRestsOn(t *testing.T) {
	const declared = 10 * admission.GiB
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	route := &routing.Route{Name: "images", Backend: "flux", ClassName: "work"}
	h := new(admission.History)
	h.LearnRoom(at, declared, 48*admission.GiB, 0, false)
	show := func() admin.LearnedRoute {
		t.Helper()
		all := admin.DescribeHistory(route, h)
		if len(all) != 1 {
			t.Fatalf("got %d demands, want 1", len(all))
		}
		return all[0]
	}
	if r := show(); r.Declared != int64(declared) || r.Booked != int64(declared) || r.RaisedBy != 0 ||
		r.Evidence != history.Declared || r.Since != nil {
		t.Errorf("before a failure: got %+v, want what is declared", r)
	}
	h.Exhausted(at, declared, history.Failure{Booked: declared, Room: 20 * admission.GiB, Said: 20 * admission.GiB})
	r := show()
	if r.Booked != int64(22*admission.GiB) || r.RaisedBy != int64(12*admission.GiB) || r.ComesDownAfter != 3 ||
		r.Evidence != history.ByExhausted || r.Since == nil || !r.Since.Equal(at) || r.OutOfMemory != 1 {
		t.Errorf("after an answer of a full card: got %+v, want 22 GiB, raised by 12, for 3 good runs", r)
	}
	const want = "raised by 12GiB to 22GiB after 1 answers of a full card; down again after 3 more good runs"
	if !strings.Contains(strings.Join(r.Hints, "\n"), want) {
		t.Errorf("got the hints %q, want %q", r.Hints, want)
	}
	for range 2 {
		h.LearnRoom(at, declared, 48*admission.GiB, 0, false)
	}
	if r := show(); r.ComesDownAfter != 1 {
		t.Errorf("after two good runs it comes down after %d more, want 1", r.ComesDownAfter)
	}
	h.LearnRoom(at.Add(time.Hour), declared, 48*admission.GiB, 0, false)
	if r := show(); r.Booked != int64(declared) || r.RaisedBy != 0 || r.Since == nil || !r.Since.Equal(at.Add(time.Hour)) {
		t.Errorf("after the third: got %+v, want what is declared, since then", r)
	}
}
