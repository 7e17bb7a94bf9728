package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/routing"
)

// body is a request body that has come in whole: a small one in memory, a
// larger one in a file that has no name any more. It is read once, by the
// backend's transport; where it is retained, a second time by reread.
//
// A transport may still read while, or after, the handler returns, and closes
// the body when it is done with it. So the memory goes back to its pool under
// the lock that Read copies under.
type body struct {
	size    int64
	small   bool        // memory is its own, and no pool's
	trailer http.Header // what followed a chunked body
	edit    *edit       // what is forwarded in place of a part of file; nil: nothing is

	mu     sync.Mutex
	memory *[]byte  // guarded by mu; the body; nil if there is a file
	file   *spooled // guarded by mu; the whole body
	offset int64    // guarded by mu
	closed bool     // guarded by mu; by a transport, or for good
	keep   bool     // guarded by mu; it may be read a second time
	second *reading // guarded by mu; nil: there was none
	freed  bool     // guarded by mu
	spool  *budget
	room   *arena // for what is spooled in memory

	resting *budget
	rests   int64 // guarded by mu; what is taken from resting
	waiting *atomic.Int64
	waits   bool // guarded by mu; and is counted by waiting
}

// seen is the body as the rules see it. It is valid until Close.
func (b *body) seen() routing.Body {
	switch {
	case b == nil:
		return routing.Body{}
	case b.file != nil:
		return routing.Body{Truncated: true, Whole: b.file, Size: b.size}
	}
	return routing.Body{Prefix: *b.memory, Size: b.size}
}

func (b *body) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, os.ErrClosed
	}
	return b.readAt(p, &b.offset)
}

// readAt reads from an offset and moves it. The caller holds mu.
func (b *body) readAt(p []byte, offset *int64) (n int, err error) {
	switch {
	case b.freed:
		return 0, os.ErrClosed
	case b.file != nil && b.edit != nil:
		n, err = b.edit.readAt(b.file, p, *offset)
	case b.file != nil:
		n, err = b.file.ReadAt(p, *offset)
	default:
		n = copy(p, (*b.memory)[*offset:])
		if n == 0 && len(p) > 0 {
			err = io.EOF
		}
	}
	*offset += int64(n)
	return n, err
}

// Close gives memory and spool back, unless they are retained. Later calls do
// nothing.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.free()
}

// free gives memory and spool back when they cannot be read any more. The
// caller holds mu.
func (b *body) free() error {
	if b.freed || b.keep || !b.closed || b.second != nil && !b.second.closed {
		return nil
	}
	b.freed = true
	if b.memory != nil {
		if !b.small {
			putBuffer(b.memory)
		}
		b.memory = nil
	}
	if b.file != nil {
		b.spool.give(b.size)
		return b.file.Close()
	}
	return nil
}

const (
	// restingMemory is how much memory the bodies of all waiting requests may take
	// together. A queue of thousands must not use up the machine's memory, and a short
	// queue should write no files.
	restingMemory = 1 << 20
	// restingBody is the longest body that may stay in memory while its request waits.
	// Several of that length fit into restingMemory.
	restingBody = shortBody
	// alwaysResting is the length up to which a body stays in memory, however many requests
	// wait. In a file it would take as much memory of the kernel.
	alwaysResting = 2 << 10
)

// Rest is called when its request has to wait: a body that does not fit into restingMemory
// goes to a file. If no file can be made, it stays in memory.
func (b *body) Rest() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.waits {
		b.waits = true
		b.waiting.Add(1)
	}
	if b.file != nil {
		b.file.flush()
		return
	}
	if b.memory == nil || b.rests != 0 || cap(*b.memory) <= alwaysResting {
		return
	}
	if n := int64(cap(*b.memory)); n <= restingBody && b.resting.take(n) {
		b.rests = n
		return
	}
	if !b.spool.take(b.size) {
		return
	}
	file, err := spool(b.room, 0, false)
	if err == nil {
		if _, err = file.file.Write(*b.memory); err != nil {
			file.Close()
		}
	}
	if err != nil {
		b.spool.give(b.size)
		return
	}
	file.size = b.size
	if !b.small {
		putBuffer(b.memory)
	}
	b.file, b.memory, b.small = file, nil, false
}

// wake is called when its request waits no more.
func (b *body) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resting.give(b.rests)
	b.rests = 0
	if b.waits {
		b.waits = false
		b.waiting.Add(-1)
	}
}

// smallBody is the length up to which a body is sent together with the head of its
// request.
const smallBody = 16 << 10

// reader is the first reading, of a type that http.Transport knows: a body that is in
// memory is sent together with the head, which is one system call and one packet less, and
// a file by the kernel. It does not say when a small body is done, so the memory of a small
// body belongs to no pool. For a spooled body it has a sender, which it closes.
func (b *body) reader() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.file != nil && b.edit == nil && len(b.trailer) == 0:
		if sender, err := b.file.sender(); err == nil {
			return sender
		}
	case b.memory != nil && b.size <= smallBody:
		if !b.small {
			own := append(make([]byte, 0, b.size), *b.memory...)
			putBuffer(b.memory)
			b.memory, b.small = &own, true
		}
		return io.NopCloser(bytes.NewReader(*b.memory))
	}
	return b
}

// retain keeps the body for a second reading, until drop.
func (b *body) retain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = true
}

// drop says that no further reading begins. A nil body is none.
func (b *body) drop() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = false
	b.free()
}

// reread begins a second reading. The first is over, even if its transport has not closed
// it yet.
func (b *body) reread() *reading {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.second = &reading{body: b}
	return b.second
}

// look reads the body beside its readings, for as long as it is there. A nil body
// is empty.
func (b *body) look() io.Reader {
	if b == nil {
		return strings.NewReader("")
	}
	return &look{body: b}
}

type look struct {
	body   *body
	offset int64 // guarded by body.mu
}

func (l *look) Read(p []byte) (int, error) {
	l.body.mu.Lock()
	defer l.body.mu.Unlock()
	return l.body.readAt(p, &l.offset)
}

// reading is a second reading of a body.
type reading struct {
	body   *body
	offset int64 // guarded by body.mu
	closed bool  // guarded by body.mu
}

func (r *reading) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	return r.body.readAt(p, &r.offset)
}

func (r *reading) Close() error {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.closed = true
	return r.body.free()
}

// worthwhile is how much of a body must arrive within limits.body_idle to start that time
// anew. A byte now and then is no progress.
const worthwhile = 16 << 10

// readBody reads the request's body before admission is asked, so that a slow or half-sent
// upload holds neither a slot nor a place in the queue. It returns nil if there is no body,
// and a *refusal if the body is not acceptable.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, limits *LimitsConfig) (*body, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > int64(limits.Body) {
		return nil, refuse(codeBodyTooLarge, "%d bytes announced, at most %d are taken", r.ContentLength, int64(limits.Body))
	}
	in := intake{body: &body{spool: &h.spool, room: &h.room, resting: &h.resting, waiting: &h.waiters}, limits: limits, source: r.Body,
		control: http.NewResponseController(w), length: r.ContentLength, short: min(shortBody, int64(limits.BodyMemory))}
	if h.waiters.Load() >= longQueue {
		in.short = min(in.short, smallBody)
	}
	err := in.run()
	if err == nil && r.ContentLength > 0 && in.size != r.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		in.Close()
		return nil, explainIntake(r, err)
	}
	// The read deadline must be removed before the request waits: the server reads the
	// connection to notice that the client has left.
	in.control.SetReadDeadline(time.Time{})
	in.trailer = r.Trailer
	return in.body, nil
}

func explainIntake(r *http.Request, err error) error {
	if f, ok := errors.AsType[*refusal](err); ok {
		return f
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(codeBodyTimeout, "the body did not come in time")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(codeBadBody, "the body ended before its announced length")
	case r.Context().Err() != nil:
		return r.Context().Err()
	}
	return refuse(codeBadBody, "the body could not be read")
}

// shortBody is the length up to which a body is in memory of its own. A longer body is
// spooled: it is in blocks of memory for a time, and then in a file. If longQueue or more
// requests with a body wait, the length is smallBody, because a new body would wait too,
// and its memory would become garbage.
const (
	shortBody = 64 << 10
	longQueue = 16
)

// firstRead is the size of the first buffer.
func firstRead(length, most int64) int {
	if length < 0 {
		length = 4 << 10
	}
	return int(min(length, most))
}

// intake is a body on its way in.
type intake struct {
	*body
	limits   *LimitsConfig
	source   io.Reader
	length   int64 // that was announced; -1: none was
	short    int64 // from which on it is spooled
	control  *http.ResponseController
	renewed  time.Time // when the deadline was last moved
	progress int64     // bytes since then
}

// run reads the source to its end.
func (in *intake) run() error {
	if in.length <= in.short || in.open() != nil {
		in.memory = getBuffer(firstRead(in.length, in.short))
		err := in.fill(int(in.short))
		if err == errMemoryFull && in.open() != nil {
			err = in.fill(int(in.limits.BodyMemory))
		}
		if err != errMemoryFull {
			return err
		}
	}
	if in.file == nil {
		if err := in.open(); err != nil {
			return err
		}
	}
	defer in.file.end()
	for {
		space, err := in.file.space()
		if err != nil {
			return noSpool(err)
		}
		n, err := in.read(space)
		if n > 0 {
			if in.size+int64(n) > int64(in.limits.Body) {
				return tooLarge(in.limits)
			}
			if !in.spool.take(int64(n)) {
				return spoolFull(in.limits)
			}
			in.size += int64(n)
			if err := in.file.extend(n); err != nil {
				return noSpool(err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errMemoryFull = errors.New("proxy: the body is larger than its share of memory")

// fill reads into memory until the source ends, or until it has read most bytes or
// body_memory.
func (in *intake) fill(most int) error {
	most = min(most, int(in.limits.BodyMemory))
	for {
		buffer, probes := *in.memory, false
		if len(buffer) >= most && in.length != int64(len(buffer)) {
			return errMemoryFull
		}
		space := buffer[len(buffer):min(cap(buffer), most)]
		if len(space) == 0 {
			// The body is as long as was announced: only its end is to come.
			if probes = in.length == int64(len(buffer)); !probes {
				in.grow(in.next(most))
				continue
			}
			space = make([]byte, 1)
		}
		n, err := in.read(space)
		if probes && n > 0 {
			in.grow(len(buffer) + 1)
			buffer = append(*in.memory, space[0])[:len(buffer)]
		}
		*in.memory = buffer[:len(buffer)+n]
		in.size += int64(n)
		if in.size > int64(in.limits.Body) {
			return tooLarge(in.limits)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// next is the size of the next buffer: four times the present one, but no more than the
// announced length.
func (in *intake) next(most int) int {
	size := min(4*cap(*in.memory), most)
	if in.length > int64(len(*in.memory)) {
		size = int(min(int64(size), in.length))
	}
	return size
}

// grow takes more memory.
func (in *intake) grow(size int) {
	grown := getBuffer(size)
	*grown = append(*grown, *in.memory...)
	putBuffer(in.memory)
	in.memory = grown
}

// open makes the spooled body, and moves the bytes that are in memory into it.
func (in *intake) open() error {
	if !in.spool.take(in.size) {
		return spoolFull(in.limits)
	}
	file, err := spool(in.room, int64(in.limits.BodyMemory), in.waiting.Load() == 0)
	if err != nil {
		in.spool.give(in.size)
		return noSpool(err)
	}
	if in.memory != nil {
		if _, err := file.Write(*in.memory); err != nil {
			file.Close()
			in.spool.give(in.size)
			return noSpool(err)
		}
		putBuffer(in.memory)
	}
	in.file, in.memory = file, nil
	return nil
}

// read reads once, under a deadline that moves with the client's progress.
func (in *intake) read(p []byte) (int, error) {
	if in.renewed.IsZero() || in.progress >= worthwhile {
		// The clock is looked at once per worthwhile progress, and the timer
		// moved when a good part of the time is gone.
		if now := time.Now(); now.Sub(in.renewed) > in.limits.BodyIdle/4 {
			in.control.SetReadDeadline(now.Add(in.limits.BodyIdle))
			in.renewed, in.progress = now, 0
		}
	}
	n, err := in.source.Read(p)
	in.progress += int64(n)
	return n, err
}

func tooLarge(limits *LimitsConfig) error {
	return refuse(codeBodyTooLarge, "at most %d bytes are taken", int64(limits.Body))
}

func spoolFull(limits *LimitsConfig) error {
	return refuse(codeSpoolFull, "the bodies that wait hold %d bytes of files, as much as they may", int64(limits.Spool))
}

// budget is an amount that many share. Zero bytes may be taken until limit is
// set.
type budget struct {
	limit atomic.Int64
	taken atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.taken.Add(n) > b.limit.Load() {
		b.taken.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.taken.Add(-n) }

// buffers are pools of byte slices by power of two, from 1 KiB to 1 MiB. Larger slices are
// left to the garbage collector.
var buffers [11]sync.Pool

const smallestBuffer = 1 << 10

// getBuffer gives an empty slice of at least the given capacity.
func getBuffer(size int) *[]byte {
	class, capacity := 0, smallestBuffer
	for capacity < size {
		class, capacity = class+1, capacity*2
	}
	if class < len(buffers) {
		if b, ok := buffers[class].Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, 0, capacity)
	return &b
}

// putBuffer takes a slice of getBuffer's back. It may not be used any more.
func putBuffer(b *[]byte) {
	class, capacity := 0, smallestBuffer
	for capacity < cap(*b) {
		class, capacity = class+1, capacity*2
	}
	if class < len(buffers) && capacity == cap(*b) {
		*b = (*b)[:0]
		buffers[class].Put(b)
	}
}

// copyBuffers lends httputil.ReverseProxy its copy buffers.
type copyBuffers struct{}

func (copyBuffers) Get() []byte {
	b := getBuffer(32 << 10)
	return (*b)[:cap(*b)]
}

func (copyBuffers) Put(b []byte) { putBuffer(&b) }
