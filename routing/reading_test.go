package routing_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

var record = flag.Bool("record", false, "ask python3 anew for what testdata holds of its readings")

// sent is a request as far as its demand goes.
type sent struct {
	contentType, encoding string
	body                  []byte
}

// demandOf gives the demand in GiB by the expression that all readers here work
// out, or false where the demand is the class's own.
func demandOf(t testing.TB, table *routing.Table, s sent) (float64, bool) {
	t.Helper()
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: http.Header{}, ContentLength: int64(len(s.body)), Body: http.NoBody}
	if s.contentType != "" {
		r.Header.Set("Content-Type", s.contentType)
	}
	if s.encoding != "" {
		r.Header.Set("Content-Encoding", s.encoding)
	}
	d, err := decide(t, table, r, routing.Body{Prefix: s.body, Size: int64(len(s.body))})
	if err != nil {
		t.Fatal(err)
	}
	return float64(d.VRAM) / float64(gib), !strings.Contains(d.Why, "the class's vram")
}

func theReadTable(t testing.TB) *routing.Table {
	route := heavy("it", path("/**"))
	route.VRAM = "gib(1) * num(body.n, 1) * megapixels(body.size, 1)"
	return aTable(t, route)
}

// wantNoLess compares a demand with what readers make of the same request.
func wantNoLess(t testing.TB, s sent, demand float64, readings map[string]float64) {
	t.Helper()
	for _, reader := range slices.Sorted(maps.Keys(readings)) {
		if most := min(readings[reader], 1<<30); demand < most*(1-1e-9) {
			t.Errorf("%q %q %q: the demand is %v GiB, but %s reads %v", s.contentType, s.encoding, s.body, demand, reader, readings[reader])
		}
	}
}

// python is a process that reads requests as servers in Python would.
type python struct {
	in  io.Writer
	out *bufio.Reader
}

// startPython gives nil where there is no python3.
func startPython(t testing.TB) *python {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Log("there is no python3: its readings are those that testdata holds")
		return nil
	}
	command := exec.Command(path, "testdata/readings.py")
	command.Stderr = os.Stderr
	in, errIn := command.StdinPipe()
	out, errOut := command.StdoutPipe()
	if errIn != nil || errOut != nil {
		t.Fatal(errIn, errOut)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		command.Wait()
	})
	return &python{in, bufio.NewReader(out)}
}

func (p *python) readings(t testing.TB, s sent) map[string]float64 {
	t.Helper()
	if p == nil {
		return nil
	}
	word := base64.StdEncoding.EncodeToString
	fmt.Fprintf(p.in, "-%s -%s -%s\n", word([]byte(s.contentType)), word([]byte(s.encoding)), word(s.body))
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%q: python3 ended: %v", s.body, err)
	}
	var found map[string]any
	if err := json.Unmarshal(line, &found); err != nil {
		t.Fatal(err)
	}
	readings := make(map[string]float64, len(found))
	for reader, value := range found {
		n, ok := value.(float64)
		if !ok {
			n = math.Inf(1)
		}
		readings[reader] = n
	}
	return readings
}

// goReadings are those of servers in Go.
func goReadings(s sent) map[string]float64 {
	readings := make(map[string]float64)
	var fields map[string]any
	if json.Unmarshal(s.body, &fields) == nil {
		readings["encoding/json"] = product(fields["n"], fields["size"])
	}
	var object struct {
		N    any `json:"n"`
		Size any `json:"size"`
	}
	if json.Unmarshal(s.body, &object) == nil {
		readings["encoding/json into a struct"] = product(object.N, object.Size)
	}
	if json.NewDecoder(bytes.NewReader(s.body)).Decode(&object) == nil {
		readings["a json.Decoder"] = product(object.N, object.Size)
	}
	of := func(reader string, values url.Values) {
		if n, size := values["n"], values["size"]; len(n)+len(size) > 0 {
			readings[reader+", the first"] = product(text(n, 0), text(size, 0))
			readings[reader+", the last"] = product(text(n, len(n)-1), text(size, len(size)-1))
		}
	}
	if strings.Contains(s.contentType, "urlencoded") {
		values, _ := url.ParseQuery(string(s.body))
		of("url.ParseQuery", values)
	}
	_, params, err := mime.ParseMediaType(s.contentType)
	if boundary := params["boundary"]; err == nil && boundary != "" {
		if form, err := multipart.NewReader(bytes.NewReader(s.body), boundary).ReadForm(1 << 20); err == nil {
			of("mime/multipart", form.Value)
			form.RemoveAll()
		}
	}
	return readings
}

func text(values []string, i int) any {
	if len(values) == 0 {
		return nil
	}
	return values[i]
}

var aSize = regexp.MustCompile(`^(\d+)x(\d+)$`)

// product is what a server in Go makes of two values; like the readers in
// Python, the most that it may be.
func product(n, size any) float64 {
	count := 1.0
	switch v := n.(type) {
	case float64:
		count = v
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && !math.IsNaN(f) {
			count = f
		}
		if i, err := strconv.ParseInt(v, 0, 64); err == nil {
			count = max(count, float64(i))
		}
	}
	if count <= 0 {
		count = 1
	}
	megapixels := 1.0
	if v, ok := size.(string); ok {
		if found := aSize.FindStringSubmatch(v); found != nil {
			w, _ := strconv.ParseFloat(found[1], 64)
			h, _ := strconv.ParseFloat(found[2], 64)
			if w*h > 0 {
				megapixels = w * h / 1e6
			}
		}
	}
	return count * megapixels
}
