package replay

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Work slows down other work as was learned: an image takes twice as long beside
// questions, and a question three times beside an image.
func TestWorkSlowsDownOtherWork(t *testing.T) {
	box := card()
	box.Slower = Slower{"images": {"light": 2}, "questions": {"heavy": 3}}
	trace := read(t, "at,class,execute\n0,heavy,18\n2,light,1.5\n30,light,1.5\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		2 light of 2 starts
		6.5 light of 2 ends
		20.25 heavy of 0 ends
		30 light of 30 starts
		31.5 light of 30 ends`)
}

// What is learned in such a box gives the factors back, and the estimates go by them.
func TestFactorsAreLearnedBack(t *testing.T) {
	box := card()
	box.Learn, box.Slower = true, Slower{"images": {"light": 2}, "questions": {"heavy": 3}}
	text := "at,class,execute\n"
	for i := range 6 {
		at := time.Duration(i) * 200 * time.Second
		text += row(at, "heavy", 10) + row(at+60*time.Second, "heavy", 10)
		for k := range 20 {
			text += row(at+60*time.Second+time.Duration(k)*time.Second, "light", 1)
		}
		text += row(at+120*time.Second, "light", 1)
	}
	d := controllerFor(t, box, read(t, text))
	if err := d.play(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		class, beside string
		want          float64
	}{{"heavy", "light", 2}, {"light", "heavy", 3}} {
		i := 0
		for d.routes[i].Class != c.class {
			i++
		}
		if got := SlowerThan(d.routes[i].history.Learned())[c.beside]; math.Abs(got-c.want) > 0.1*c.want {
			t.Errorf("%s is %.2f times slower beside %s, want about %v: %+v", c.class, got, c.beside, c.want, d.routes[i].history.Learned())
		}
	}
	if got := SlowerThan([]admission.Learned{{}}); got != nil {
		t.Errorf("nothing is known, and the factors are %v", got)
	}
}

func row(at time.Duration, class string, execute float64) string {
	return fmt.Sprintf("%g,%s,%g\n", at.Seconds(), class, execute)
}
