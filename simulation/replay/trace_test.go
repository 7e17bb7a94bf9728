package replay

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestReadsEveryColumn(t *testing.T) {
	trace := read(t, "\ufeffRoute, leave,deadline,priority,tenant,vram,execute,class,at\r\n"+
		"images,60,120,3,alice,34GiB,17.5,heavy,2\r\n"+
		"# a word in between\r\n"+
		",,,,,,1.5,light,0.25\r\n")
	if len(trace.Rows) != 2 {
		t.Fatalf("got %d rows, want 2", len(trace.Rows))
	}
	first, second := &trace.Rows[0], &trace.Rows[1]
	if first.At != 250*time.Millisecond || first.Execute != 1500*time.Millisecond || trace.Class(first) != "light" || trace.Tenant(first) != "" ||
		first.VRAM != -1 || first.Priority != -1 || first.Deadline != 0 || first.Leave != 0 {
		t.Errorf("the row that arrives first is %+v of %q", *first, trace.Class(first))
	}
	if second.At != 2*time.Second || second.Execute != 17500*time.Millisecond || trace.Class(second) != "heavy" || trace.Tenant(second) != "alice" ||
		second.VRAM != 34*admission.GiB || second.Priority != 3 || second.Deadline != 2*time.Minute || second.Leave != time.Minute ||
		trace.kinds[second.kind].route != "images" {
		t.Errorf("the row that arrives second is %+v of %q", *second, trace.Class(second))
	}
}

func TestKeepsTheOrderOfRowsThatArriveTogether(t *testing.T) {
	trace := read(t, "at,class,execute\n1,a,3\n0,b,1\n1,c,2\n1,d,1\n")
	var got []string
	for i := range trace.Rows {
		got = append(got, trace.Class(&trace.Rows[i]))
	}
	if s := strings.Join(got, ""); s != "bacd" {
		t.Errorf("got %s, want bacd", s)
	}
}

func TestSaysEveryMistakeWithItsPlaceAndCure(t *testing.T) {
	for name, x := range map[string]struct{ text, want string }{
		"nothing at all": {"", "trace.csv: empty: want a header such as at,class,execute"},
		"a header alone": {"at,class,execute\n", "trace.csv: no rows: want one for each request"},
		"a header of another kind": {"time,class,class\n1,heavy,heavy\n",
			`trace.csv:1:1: "time": unknown column: want at or class or execute or vram or tenant or priority or deadline or leave or route
trace.csv:1:12: class: is there twice: want it once
trace.csv:1:1: at: the column is missing: want at,class,execute
trace.csv:1:1: execute: the column is missing: want at,class,execute`},
		"rows": {`at,class,execute,vram,tenant,priority,deadline,leave
-1,heavy,0,,,,,
x,,1e10,34 gigs,,9,-2,NaN
,heavy,1,1,,,
1,heavy,1,1,t,7,1,0
`,
			`trace.csv:2:1: at: "-1": too small: want 0 seconds or more
trace.csv:2:10: execute: "0": too small: want more than 0 seconds
trace.csv:3:1: at: "x": not a number: want seconds, such as 17.5
trace.csv:3:3: class: empty: want the name of a class
trace.csv:3:4: execute: "1e10": too large: want 1000000000 seconds or less
trace.csv:3:9: vram: "34 gigs": not an amount: want bytes, such as 536870912 or 512MiB
trace.csv:3:18: priority: "9": want a whole number from 0, the most urgent, to 7
trace.csv:3:20: deadline: "-2": too small: want more than 0 seconds
trace.csv:3:23: leave: "NaN": not a number: want seconds, such as 17.5
trace.csv:4:1: 7 fields: want 8 as in the header
trace.csv:5:19: leave: "0": too small: want more than 0 seconds`},
		"quotes": {"at,class,execute\n1,he\"avy,1\n2,,1\n",
			`trace.csv:2:5: bare " in non-quoted-field: want quotes around a whole field, and "" for one inside
trace.csv:3:3: class: empty: want the name of a class`},
		"a long field": {"at,class,execute\n" + strings.Repeat("9", 100) + "x,heavy,1\n",
			`trace.csv:2:1: at: "` + strings.Repeat("9", 60) + `…": not a number: want seconds, such as 17.5`},
	} {
		t.Run(name, func(t *testing.T) {
			trace, err := Read("trace.csv", strings.NewReader(x.text))
			if err == nil {
				t.Fatalf("got %d rows and no mistake", len(trace.Rows))
			}
			if err.Error() != x.want {
				t.Errorf("got\n%v\nwant\n%s", err, x.want)
			}
		})
	}
}

func TestStopsSayingMistakesSomewhere(t *testing.T) {
	_, err := Read("trace.csv", strings.NewReader("at,class,execute\n"+strings.Repeat("x\n", 5000)))
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 1001 || lines[1000] != "and 4000 mistakes more" {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestSaysThatAFileCannotBeRead(t *testing.T) {
	if _, err := Read("trace.csv", broken{}); err == nil || err.Error() != "trace.csv: the disk is gone" {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("at,class,execute\n0,heavy,18\n")
	f.Add("at,class,execute,vram,tenant,priority,deadline,leave,route\n0,light,1.5,512MiB,a,3,20,10,questions\n")
	f.Add("at,class,execute\n\"0,heavy,18\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := Read("trace.csv", strings.NewReader(text))
		if err != nil {
			return
		}
		for i := range trace.Rows {
			row := &trace.Rows[i]
			if row.At < 0 || row.Execute <= 0 || row.Leave < 0 || row.Deadline < 0 || row.VRAM < -1 || trace.Class(row) == "" {
				t.Fatalf("row %d is %+v", i, *row)
			}
			if i > 0 && row.At < trace.Rows[i-1].At {
				t.Fatalf("row %d arrives before the one before it", i)
			}
		}
		if len(trace.Rows) > 100 {
			return
		}
		for name, how := range schedules {
			log, err := how(card(), trace)
			var mistakes Mistakes
			if errors.As(err, &mistakes) {
				continue
			}
			if err == nil {
				_, err = Judge(card(), trace, log)
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}
