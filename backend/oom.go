package backend

import (
	"errors"
	"io"
	"net/http"

	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
)

// ErrMemory is work that ended because the card was full. It is no failure of the backend.
var ErrMemory = errors.New("backend: the backend ran out of GPU memory")

// Client knows what the client of a request sent.
type Client interface {
	// Sent says that the words are in the request. The reader of the answer calls it a few
	// times at most, at the end of an error that has the words.
	Sent(words string) bool
}

// scan looks for an out-of-memory error in an answer as it is read; nil: there is
// nothing to look for.
func (b *Server) scan(answer *http.Response, client Client) *scan {
	s := outofmemory.Scan(answer.StatusCode, answer.Header, b.Config.OOMPatterns)
	if s == nil {
		return nil
	}
	return &scan{Scanner: s, answer: answer, client: client}
}

// scan is the search in one answer.
type scan struct {
	*outofmemory.Scanner
	answer *http.Response // for its trailers
	client Client         // nil: it is not known what it sent
}

// end returns the error that was found, once the answer's end has been read; nil: none.
func (s *scan) end() *outofmemory.Report {
	s.Trailer(s.answer.Trailer)
	var sent func(string) bool
	if s.client != nil {
		sent = s.client.Sent
	}
	if r, ok := s.Report(sent); ok {
		return &r
	}
	return nil
}

// OutOfMemory returns the out-of-memory error of the answer with that body, which Send
// returned; nil: the answer has none, or its end has not been read.
func OutOfMemory(body io.Reader) *outofmemory.Report {
	if c, ok := body.(*counted); ok {
		return c.memory.Load()
	}
	return nil
}

// Scans says that the answer with that body, which Send gave, may turn out to be
// an out-of-memory error.
func Scans(body io.Reader) bool {
	c, ok := body.(*counted)
	return ok && c.scan != nil
}

// ResultOutOfMemory reads the result of a failed job, or its error. It returns what the
// fields say of an out-of-memory error; nil: it is none.
func (b *Server) ResultOutOfMemory(result []byte) *outofmemory.Report {
	s := outofmemory.Scan(http.StatusInternalServerError, nil, b.Config.OOMPatterns)
	s.Write(result)
	if r, ok := s.Report(nil); ok {
		return &r
	}
	return nil
}
