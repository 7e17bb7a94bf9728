package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func listenAndServe(address string, h http.Handler) error {
	return (&http.Server{Addr: address, Handler: h}).ListenAndServe()
}

// post is a request as it goes over a connection.
func post(path string, body []byte) []byte {
	return append(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path,
		len(body)), body...)
}

func json1KB() []byte { return []byte(`{"prompt":"` + strings.Repeat("b", kilobyte-13) + `"}`) }

// ask sends one request on a connection of its own and gives the body of the answer.
func ask(address, path string) ([]byte, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.Write(post(path, []byte("{}"))); err != nil {
		return nil, err
	}
	return read(bufio.NewReader(c))
}

// read reads an answer; one that is not 200 is an error.
func read(r *bufio.Reader) ([]byte, error) {
	a, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err == nil && (a.StatusCode != http.StatusOK || len(body) == 0) {
		err = fmt.Errorf("status %d: %q", a.StatusCode, body)
	}
	return body, err
}

var wrkSays = struct{ requests, rate, bad *regexp.Regexp }{
	regexp.MustCompile(`(\d+) requests in`), regexp.MustCompile(`Requests/sec:\s*([\d.]+)`),
	regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)`),
}

// wrk sends as many requests as connections can and says how many were answered, how
// many a second.
func (b *bench) wrk(address, path string, connections int, d time.Duration) (requests, rate float64, err error) {
	script, err := write(b.dir, "post.lua", fmt.Sprintf("wrk.method = 'POST'\nwrk.body = '%s'\nwrk.headers['Content-Type'] = "+
		"'application/json'\n", json1KB()))
	if err != nil {
		return 0, 0, err
	}
	said, err := exec.Command("taskset", "-c", strconv.Itoa(loadCore), "wrk", "-t1", "-c", strconv.Itoa(connections), "-d",
		strconv.Itoa(max(1, int(d.Seconds())))+"s",
		"--timeout", "60s", "-s", script, "http://"+address+path).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w\n%s", err, said)
	}
	if bad := wrkSays.bad.FindSubmatch(said); bad != nil {
		b.note("%s", bad[0])
	}
	number := func(re *regexp.Regexp) float64 {
		if m := re.FindSubmatch(said); m != nil {
			n, _ := strconv.ParseFloat(string(m[1]), 64)
			return n
		}
		return 0
	}
	return number(wrkSays.requests), number(wrkSays.rate), nil
}

// steady sends rate requests a second over 64 connections for d, and says how long
// each took from the moment it was written, in microseconds, the quickest first.
func steady(address string, rate int, d time.Duration) ([]float64, error) {
	const connections = 64
	var mu sync.Mutex
	var took []float64
	var failed error
	var all sync.WaitGroup
	request := post("/json", json1KB())
	for i := range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		all.Go(func() {
			defer c.Close()
			r := bufio.NewReader(c)
			every := time.Second * connections / time.Duration(rate)
			next := time.Now().Add(every * time.Duration(i) / connections)
			for end := time.Now().Add(d); next.Before(end); next = next.Add(every) {
				time.Sleep(time.Until(next))
				began := time.Now()
				_, err := c.Write(request)
				if err == nil {
					_, err = read(r)
				}
				ended := time.Since(began)
				mu.Lock()
				took = append(took, float64(ended)/float64(time.Microsecond))
				if err != nil && failed == nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took, failed
}

// hold opens n connections, each with one request that is not answered, and calls
// then while they wait. at is how many must have reached the upstream by then.
func (b *bench) hold(address, path string, body []byte, n, at int, then func()) error {
	request := post(path, body)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		open = append(open, c)
		if _, err := c.Write(request); err != nil {
			return err
		}
	}
	if err := b.until(func() (bool, error) {
		said, err := ask(b.upstream, "/holding")
		return string(said) == strconv.Itoa(at), err
	}); err != nil {
		return fmt.Errorf("%d requests to %s: %w", n, path, err)
	}
	time.Sleep(time.Second) // for what is still on its way into a queue
	then()
	return nil
}

// until asks again and again for ten seconds.
func (b *bench) until(done func() (bool, error)) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within ten seconds")
		}
	}
}

// streams opens n streams of events at once and says how late each event came and how
// long each first byte took, in milliseconds.
func streams(address string, n, events int, every time.Duration) (lags, first []float64, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	path := fmt.Sprintf("/events?n=%d&ms=%d", events, every.Milliseconds())
	for range n {
		all.Go(func() {
			began := time.Now()
			late, opened, failed := stream(address, path, began)
			mu.Lock()
			defer mu.Unlock()
			lags, first = append(lags, late...), append(first, opened)
			if failed == nil && len(late) != events {
				failed = fmt.Errorf("%d of %d events came", len(late), events)
			}
			if failed != nil {
				err = failed
			}
		})
	}
	all.Wait()
	slices.Sort(lags)
	slices.Sort(first)
	return lags, first, err
}

func stream(address, path string, began time.Time) (lags []float64, first float64, err error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	if _, err := c.Write(post(path, []byte("{}"))); err != nil {
		return nil, 0, err
	}
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, 0, err
	}
	defer a.Body.Close()
	for lines := bufio.NewScanner(a.Body); lines.Scan(); {
		if first == 0 {
			first = milliseconds(time.Since(began))
		}
		if text, is := strings.CutPrefix(lines.Text(), "data: "); is {
			sent, _ := strconv.ParseInt(text, 10, 64)
			lags = append(lags, milliseconds(time.Since(time.Unix(0, sent))))
		}
	}
	return lags, first, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// scratch is a folder for one process.
func (b *bench) scratch(name string) (string, error) {
	dir := filepath.Join(b.dir, strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name))
	return dir, os.MkdirAll(dir, 0o700)
}
