package backend_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestManyRequestsAtOnceAreAllSent: each of them has a connection, though few are made
// at a time.
func TestManyRequestsAtOnceAreAllSent(t *testing.T) {
	const requests = 500
	arrived, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-answer
		io.WriteString(w, "fine")
	}))
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL)
	for range 3 {
		var all sync.WaitGroup
		for range requests {
			all.Go(func() {
				if _, body, err := roundTrip(b, newRequest(t, b, "POST", "/", strings.NewReader("x"))); err != nil || body != "fine" {
					t.Errorf("got %q, %v", body, err)
				}
			})
		}
		for range requests {
			<-arrived
		}
		for range requests {
			answer <- struct{}{}
		}
		all.Wait()
	}
	b.Close()
}
