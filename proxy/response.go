package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A grant ends when the backend has sent its last byte, not when the client has read it. So
// an answer is read ahead of the client: a small one in whole before its first byte goes
// out, a larger one by a goroutine that buffers up to limits.response_buffer.

// smallAnswer is the length up to which an answer is read in whole first, if it has
// arrived.
const smallAnswer = 32 << 10

// readAheadMemory is what all answers being read ahead may hold together.
const readAheadMemory = 192 << 20

// isSmall says that an answer has a known length and is short enough to be read in whole.
// Only the length of an HTTP/1.1 answer promises that no trailers follow.
func isSmall(res *http.Response) bool {
	return res.ContentLength > 0 && res.ContentLength <= smallAnswer && res.ProtoMajor == 1 &&
		res.Body != http.NoBody && !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")
}

// whole is an answer that is in memory, with the error that cut it short.
type whole struct {
	buffer *[]byte
	offset int
	err    error
}

// readSmall reads a small answer to its end and closes it, if all of it is there. Otherwise
// it returns nil, and the bytes that were read come before the rest of the body: no client
// waits for the last byte to see the first.
func readSmall(res *http.Response) *whole {
	b := &whole{buffer: getBuffer(int(res.ContentLength))}
	data := (*b.buffer)[:res.ContentLength]
	n, err := res.Body.Read(data)
	*b.buffer = data[:n]
	if err == nil && n < len(data) {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(data[:n]), res.Body), res.Body}
		return nil
	}
	if err == nil {
		// The end of the body must be read, otherwise the connection is not used again.
		var one [1]byte
		if n, e := res.Body.Read(one[:]); n > 0 {
			err = errSurplus
		} else {
			err = e
		}
	}
	if err == io.EOF && n < len(data) {
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	res.Body.Close()
	return b
}

// readHead reads an answer to its end and closes it, if the end comes within the limit.
// Otherwise it returns nil, and the bytes that were read come before the rest in the
// answer's body.
func readHead(res *http.Response, limit int) *whole {
	size := 4 << 10
	if res.ContentLength > int64(limit) {
		return nil
	} else if res.ContentLength > 0 {
		size = int(res.ContentLength) + 1 // so that the end is seen
	}
	buffer := getBuffer(size)
	for {
		data := *buffer
		if len(data) >= limit {
			res.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(data), res.Body), res.Body}
			return nil
		}
		if len(data) == cap(data) {
			grown := getBuffer(2 * cap(data))
			*grown = append(*grown, data...)
			putBuffer(buffer)
			buffer, data = grown, *grown
		}
		n, err := res.Body.Read(data[len(data):cap(data)])
		*buffer = data[:len(data)+n]
		if err != nil {
			res.Body.Close()
			return &whole{buffer: buffer, err: err}
		}
	}
}

var errSurplus = errors.New("proxy: the answer is longer than its announced length")

// cut is the error that ended the answer early, nil if it is complete.
func (b *whole) cut() error {
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

func (b *whole) Read(p []byte) (int, error) {
	if b.buffer == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	n := copy(p, (*b.buffer)[b.offset:])
	b.offset += n
	if b.offset == len(*b.buffer) {
		return n, b.err
	}
	return n, nil
}

// Close gives the memory back.
func (b *whole) Close() error {
	if b.buffer != nil {
		putBuffer(b.buffer)
		b.buffer = nil
	}
	return nil
}

// readAhead is an answer that is read faster than its client takes it. The
// goroutine that reads starts with the first Read, because it fills
// Response.Trailer, which httputil.ReverseProxy walks through before; it ends
// when the backend does.
type readAhead struct {
	source io.ReadCloser
	limit  int
	memory *budget
	// ended is called once, with the backend's last byte, before a client can
	// see the end of the answer.
	ended func(err error)
	// gone ends when no client waits for the answer any more.
	gone context.Context
	// keepOn reads on to the backend's end when the answer is abandoned.
	keepOn bool

	mu        sync.Mutex
	moved     sync.Cond   // on mu: something was added or taken
	chunks    []*[]byte   // guarded by mu; each up to its length
	offset    int         // guarded by mu; what of chunks[0] is taken
	held      int         // guarded by mu; bytes from memory
	err       error       // guarded by mu; after the last chunk
	started   bool        // guarded by mu
	abandoned bool        // guarded by mu
	stop      func() bool // guarded by mu; nil where nothing watches gone
}

func newReadAhead(source io.ReadCloser, limit int, memory *budget, gone context.Context, keepOn bool, ended func(error)) *readAhead {
	b := &readAhead{source: source, limit: limit, memory: memory, gone: gone, keepOn: keepOn, ended: ended}
	b.moved.L = &b.mu
	return b
}

// Read gives what is there, and waits only if there is nothing: an event of a
// stream is passed on as it comes.
func (b *readAhead) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.started && !b.abandoned {
		b.start()
	}
	for {
		if b.abandoned {
			if err := context.Cause(b.gone); err != nil {
				return 0, err
			}
			return 0, http.ErrBodyReadAfterClose
		}
		if n := b.takeInto(p); n > 0 || len(p) == 0 {
			return n, nil
		}
		if b.err != nil {
			return 0, b.err
		}
		b.moved.Wait()
	}
}

// start begins to read. The caller holds mu.
func (b *readAhead) start() {
	b.started = true
	if b.keepOn {
		// Otherwise the end of gone breaks the backend's connection, and pump wakes the
		// reader.
		b.stop = context.AfterFunc(b.gone, b.abandon)
	}
	go b.pump()
}

// takeInto moves bytes to the reader and frees the chunks that are empty then. The last
// chunk stays: pump may be reading into it.
func (b *readAhead) takeInto(p []byte) int {
	n := 0
	for n < len(p) && len(b.chunks) > 0 {
		first := b.chunks[0]
		m := copy(p[n:], (*first)[b.offset:])
		n += m
		b.offset += m
		if b.offset < len(*first) || len(b.chunks) == 1 {
			break
		}
		b.drop()
	}
	if n > 0 {
		b.moved.Broadcast()
	}
	return n
}

// drop frees the first chunk. The caller holds mu.
func (b *readAhead) drop() {
	first := b.chunks[0]
	b.chunks = b.chunks[1:]
	b.offset = 0
	if cap(*first) == chunkSize {
		b.held -= chunkSize
		b.memory.give(chunkSize)
	}
	putBuffer(first)
}

const (
	firstChunk = 4 << 10 // each stream has its own: most streams carry little
	chunkSize  = 32 << 10
)

// room is the buffer for the next bytes: the rest of the last chunk, or a new one. It waits
// while the reader is too far behind.
func (b *readAhead) room() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if len(b.chunks) == 0 {
			size := firstChunk
			b.chunks = append(b.chunks, getBuffer(size))
		}
		last := b.chunks[len(b.chunks)-1]
		switch {
		case b.abandoned, len(b.chunks) == 1 && b.offset == len(*last):
			*last = (*last)[:0]
			if len(b.chunks) == 1 {
				b.offset = 0
			}
			return (*last)[:cap(*last)]
		case len(*last) < cap(*last):
			return (*last)[len(*last):cap(*last)]
		case b.held+chunkSize <= b.limit && b.memory.take(chunkSize):
			b.held += chunkSize
			b.chunks = append(b.chunks, getBuffer(chunkSize))
		default:
			b.moved.Wait()
		}
	}
}

// pump reads the backend's answer to its end.
func (b *readAhead) pump() {
	for {
		space := b.room()
		n, err := b.source.Read(space)
		if err != nil {
			b.source.Close()
			b.finish(n, err)
			return
		}
		b.mu.Lock()
		b.grow(n)
		b.mu.Unlock()
	}
}

// grow takes n bytes that were read into the last chunk. The caller holds mu.
func (b *readAhead) grow(n int) {
	if n > 0 && !b.abandoned {
		last := b.chunks[len(b.chunks)-1]
		*last = (*last)[:len(*last)+n]
		b.moved.Broadcast()
	}
}

func (b *readAhead) finish(n int, err error) {
	cut := err
	if err == io.EOF {
		cut = nil
	}
	b.ended(cut)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		b.stop()
	}
	b.grow(n)
	b.err = err
	if b.abandoned {
		b.free()
	}
	b.moved.Broadcast()
}

func (b *readAhead) free() {
	for len(b.chunks) > 0 {
		b.drop()
	}
}

// abandon says that the client reads no more. What the backend still sends is read
// and dropped if it has to end by itself; else its connection is cut by the
// context of the request, and the pump sees that.
func (b *readAhead) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.abandoned {
		return
	}
	b.abandoned = true
	switch {
	case !b.started && b.keepOn:
		b.start()
	case !b.started:
		b.started = true
		b.source.Close()
		b.ended(context.Canceled)
	case b.err != nil:
		b.free()
	}
	b.moved.Broadcast()
}

// Close abandons what was not read. Later calls do nothing.
func (b *readAhead) Close() error {
	b.abandon()
	return nil
}

// tunnel is a connection that both sides took over with a 101. It must stay an
// io.ReadWriteCloser with CloseWrite for httputil.ReverseProxy.
type tunnel struct {
	io.ReadWriteCloser
	once    sync.Once
	ended   func()
	opened  time.Time
	in, out atomic.Int64 // bytes from the client, and to it
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.out.Add(int64(n))
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(p)
	t.in.Add(int64(n))
	return n, err
}

// CloseWrite passes a half-close on where the connection knows one.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func (t *tunnel) Close() error {
	err := t.ReadWriteCloser.Close()
	t.once.Do(t.ended)
	return err
}
