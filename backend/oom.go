package backend

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
)

// ErrMemory is work that ended because the card was full. The backend is as well
// as before.
var ErrMemory = errors.New("backend: the backend ran out of GPU memory")

// firstBytes is how much of an error is looked at.
const firstBytes = 64 << 10

// full reads the beginning of an error and says whether it is one of an
// out-of-memory kind. The answer can be read as if nothing had been.
func (b *Server) full(answer *http.Response) bool {
	if answer.StatusCode < 500 || len(b.Config.OOMPatterns) == 0 || answer.Body == http.NoBody ||
		strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") { // which is not held back
		return false
	}
	head := make([]byte, firstBytes)
	n, err := io.ReadFull(answer.Body, head)
	head = head[:n]
	switch err {
	case nil, io.EOF, io.ErrUnexpectedEOF:
		answer.Body = &begun{Reader: io.MultiReader(bytes.NewReader(head), answer.Body), Closer: answer.Body}
	default:
		answer.Body = &begun{Reader: io.MultiReader(bytes.NewReader(head), broken{err}), Closer: answer.Body}
	}
	return b.SaysFull(head)
}

// SaysFull says that an answer tells of an out-of-memory error.
func (b *Server) SaysFull(text []byte) bool {
	return slices.ContainsFunc(b.Config.OOMPatterns, func(pattern string) bool { return bytes.Contains(text, []byte(pattern)) })
}

// begun is an answer whose beginning has been read already.
type begun struct {
	io.Reader
	io.Closer
}

// broken fails as a connection did.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// OutOfMemory says of an answer of RoundTrip that it is an out-of-memory error.
func OutOfMemory(answer *http.Response) bool {
	c, ok := answer.Body.(*counted)
	return ok && c.verdict == ErrMemory
}
