package replay

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Trace is the traffic to play, in order of arrival.
type Trace struct {
	File    string // where it comes from
	Rows    []Row
	kinds   []kind
	tenants []string
}

// Row is one request.
type Row struct {
	At      time.Duration // when it arrives, from the trace's beginning
	Execute time.Duration // how long it runs
	// Deadline and Leave count from At; 0: it has no deadline, its client stays.
	Deadline time.Duration
	Leave    time.Duration
	VRAM     admission.Bytes // -1: its route's
	kind     int32           // in Trace.kinds
	tenant   int32           // in Trace.tenants
	Priority int8            // RFC 9218's urgency; -1: none
}

// kind is a class, or a route of it, that rows name.
type kind struct {
	class, route     string
	classAt, routeAt place // of the first row that names it
	rows             int
}

type place struct{ line, column int }

func (k kind) others() string {
	if k.rows == 1 {
		return ""
	}
	return fmt.Sprintf(" (and in %d more rows)", k.rows-1)
}

// Class is the class of a row.
func (t *Trace) Class(row *Row) string { return t.kinds[row.kind].class }

// Tenant is whose request a row is.
func (t *Trace) Tenant(row *Row) string { return t.tenants[row.tenant] }

// Without gives the trace without the rows for which drop says so.
func (t *Trace) Without(drop func(*Row) bool) *Trace {
	out := *t
	out.Rows = nil
	for _, row := range t.Rows {
		if !drop(&row) {
			out.Rows = append(out.Rows, row)
		}
	}
	return &out
}

// Mistake is one thing that is wrong with a trace, and the cure.
type Mistake struct {
	File         string
	Line, Column int    // from 1; 0: the whole file
	Name         string // of the column
	Problem      string
}

// String is `file:line:column: name: what is wrong: what is wanted`.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", m.Line, m.Column)
	}
	b.WriteString(": ")
	if m.Name != "" {
		b.WriteString(m.Name + ": ")
	}
	b.WriteString(m.Problem)
	return b.String()
}

// Mistakes is everything that is wrong with a trace, in the order of the file.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	// A file of another kind has a mistake in every line.
	const most = 1000
	lines := make([]string, 0, min(len(m), most+1))
	for i, x := range m {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d mistakes more", len(m)-most))
			break
		}
		lines = append(lines, x.String())
	}
	return strings.Join(lines, "\n")
}

func (m *Mistakes) add(x Mistake) { *m = append(*m, x) }

// The columns of a trace; the first three must be there.
const (
	columnAt = iota
	columnClass
	columnExecute
	columnVRAM
	columnTenant
	columnPriority
	columnDeadline
	columnLeave
	columnRoute
	columns
)

var columnNames = [columns]string{"at", "class", "execute", "vram", "tenant", "priority", "deadline", "leave", "route"}

// maxSeconds keeps sums of times far from overflow: thirty years.
const maxSeconds = 1e9

// reader reads one trace.
type reader struct {
	csv      *csv.Reader
	trace    *Trace
	mistakes Mistakes
	at       [columns]int // index of a column in a record; -1: not there
	width    int
	kinds    map[[2]string]int32
	tenants  map[string]int32
	record   []string
}

// Read reads a trace in CSV with a header; file is what mistakes call it. Rows
// may stand in any order. Its error is Mistakes, or that of the reader.
func Read(file string, from io.Reader) (*Trace, error) {
	r := &reader{
		csv:     csv.NewReader(from),
		trace:   &Trace{File: file},
		kinds:   map[[2]string]int32{},
		tenants: map[string]int32{},
	}
	r.csv.ReuseRecord, r.csv.FieldsPerRecord, r.csv.TrimLeadingSpace, r.csv.Comment = true, -1, true, '#'
	if err := r.header(); err != nil {
		return nil, err
	}
	for {
		record, err := r.csv.Read()
		if err == io.EOF {
			break
		}
		var parse *csv.ParseError
		switch {
		case errors.As(err, &parse):
			r.mistakes.add(Mistake{File: file, Line: parse.Line, Column: parse.Column, Problem: parse.Err.Error() +
				`: want quotes around a whole field, and "" for one inside`})
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.record = record
		r.row()
	}
	if len(r.trace.Rows) == 0 && len(r.mistakes) == 0 {
		r.mistakes.add(Mistake{File: file, Problem: "no rows: want one for each request"})
	}
	if len(r.mistakes) > 0 {
		slices.SortStableFunc(r.mistakes, func(a, b Mistake) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, r.mistakes
	}
	slices.SortStableFunc(r.trace.Rows, func(a, b Row) int { return cmp.Compare(a.At, b.At) })
	return r.trace, nil
}

// header finds out which column is where.
func (r *reader) header() error {
	record, err := r.csv.Read()
	var parse *csv.ParseError
	if err == io.EOF {
		return Mistakes{{File: r.trace.File, Problem: "empty: want a header such as at,class,execute"}}
	} else if errors.As(err, &parse) {
		return Mistakes{{File: r.trace.File, Line: parse.Line, Column: parse.Column, Problem: parse.Err.Error() +
			": want a header such as at,class,execute"}}
	} else if err != nil {
		return fmt.Errorf("%s: %w", r.trace.File, err)
	}
	r.record, r.width = record, len(record)
	for i := range r.at {
		r.at[i] = -1
	}
	for i, name := range record {
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff") // as spreadsheets write it
		}
		name = strings.ToLower(strings.TrimSpace(name))
		c := slices.Index(columnNames[:], name)
		switch {
		case c < 0:
			r.wrong(i, "", "%s: unknown column: want %s", quote(name), choice(columnNames[:]))
		case r.at[c] >= 0:
			r.wrong(i, name, "is there twice: want it once")
		default:
			r.at[c] = i
		}
	}
	for c := range columnExecute + 1 {
		if r.at[c] < 0 {
			r.mistakes.add(Mistake{File: r.trace.File, Line: 1, Column: 1, Name: columnNames[c], Problem: "the column is missing: want at,class,execute"})
		}
	}
	if len(r.mistakes) > 0 {
		return r.mistakes
	}
	return nil
}

// row reads one record.
func (r *reader) row() {
	if len(r.record) != r.width {
		line, _ := r.csv.FieldPos(0)
		r.mistakes.add(Mistake{File: r.trace.File, Line: line, Column: 1, Problem: fmt.Sprintf("%d fields: want %d as in the header",
			len(r.record), r.width)})
		return
	}
	row := Row{VRAM: -1, Priority: -1}
	row.At = r.seconds(columnAt, 0, true)
	row.Execute = r.seconds(columnExecute, 1, true)
	row.Deadline = r.seconds(columnDeadline, 1, false)
	row.Leave = r.seconds(columnLeave, 1, false)
	if text := r.text(columnVRAM); text != "" {
		if _, err := strconv.ParseUint(text, 10, 63); err == nil {
			text += "B" // a bare number is bytes here, as programs write them
		}
		v, err := admission.ParseBytes(text)
		if err != nil {
			r.wrong(r.at[columnVRAM], "vram", "%s: not an amount: want bytes, such as 536870912 or 512MiB", quote(text))
		}
		row.VRAM = v
	}
	if text := r.text(columnPriority); text != "" {
		p, err := strconv.Atoi(text)
		if err != nil || p < 0 || p > 7 {
			r.wrong(r.at[columnPriority], "priority", "%s: want a whole number from 0, the most urgent, to 7", quote(text))
		}
		row.Priority = int8(p)
	}
	class := r.text(columnClass)
	if class == "" {
		r.wrong(r.at[columnClass], "class", "empty: want the name of a class")
	}
	row.kind = r.kind(class, r.text(columnRoute))
	row.tenant = r.tenant(r.text(columnTenant))
	r.trace.Rows = append(r.trace.Rows, row)
}

func (r *reader) text(column int) string {
	if r.at[column] < 0 {
		return ""
	}
	return strings.TrimSpace(r.record[r.at[column]])
}

// seconds reads a time; one that is not there is 0. What must be at least a
// nanosecond has least 1.
func (r *reader) seconds(column int, least time.Duration, must bool) time.Duration {
	text := r.text(column)
	if text == "" && !must {
		return 0
	}
	f, err := strconv.ParseFloat(text, 64)
	d := time.Duration(math.Round(f * 1e9))
	if err == nil && f >= 0 && f <= maxSeconds && d >= least {
		return d
	}
	name := columnNames[column]
	switch {
	case err != nil || math.IsNaN(f):
		problem := "not a number"
		if text == "" {
			problem = "empty"
		}
		r.wrong(r.at[column], name, "%s: %s: want seconds, such as 17.5", quote(text), problem)
	case f > maxSeconds:
		r.wrong(r.at[column], name, "%s: too large: want %.0f seconds or less", quote(text), float64(maxSeconds))
	case least > 0:
		r.wrong(r.at[column], name, "%s: too small: want more than 0 seconds", quote(text))
	default:
		r.wrong(r.at[column], name, "%s: too small: want 0 seconds or more", quote(text))
	}
	return 0
}

func (r *reader) wrong(field int, name, format string, a ...any) {
	line, column := r.csv.FieldPos(field)
	r.mistakes.add(Mistake{File: r.trace.File, Line: line, Column: column, Name: name, Problem: fmt.Sprintf(format, a...)})
}

func (r *reader) kind(class, route string) int32 {
	i, ok := r.kinds[[2]string{class, route}]
	if !ok {
		// A field is a part of its line's text, which must not be kept for it.
		k := kind{class: strings.Clone(class), route: strings.Clone(route)}
		k.classAt.line, k.classAt.column = r.csv.FieldPos(r.at[columnClass])
		if route != "" {
			k.routeAt.line, k.routeAt.column = r.csv.FieldPos(r.at[columnRoute])
		}
		i = int32(len(r.trace.kinds))
		r.trace.kinds = append(r.trace.kinds, k)
		r.kinds[[2]string{k.class, k.route}] = i
	}
	r.trace.kinds[i].rows++
	return i
}

func (r *reader) tenant(name string) int32 {
	i, ok := r.tenants[name]
	if !ok {
		name = strings.Clone(name)
		i = int32(len(r.trace.tenants))
		r.trace.tenants = append(r.trace.tenants, name)
		r.tenants[name] = i
	}
	return i
}

// quote shows a text from a file, not more of it than a line takes.
func quote(text string) string {
	const most = 60
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.Quote(text)
}

func choice(names []string) string {
	if len(names) == 0 {
		return "one that is in the configuration"
	}
	return strings.Join(names, " or ")
}
