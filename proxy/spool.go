package proxy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

const (
	// spoolBlock is how much is read at a time into memory. A read from a socket does not
	// return more.
	spoolBlock = 128 << 10
	// spoolChunk is how much is read and written to a file at a time.
	spoolChunk = 32 << 10
	// spoolMemory bounds the memory of all spooled bodies together. A body whose request
	// need not wait is usually sent before it has to be written to a file.
	spoolMemory = 32 << 20
)

// spooled is a body for a file. While its request does not wait and spoolMemory has room,
// it is in blocks of memory instead. Only its owner reads and writes it, one call at a
// time. The readers that sender returns may be read at the same time.
type spooled struct {
	file   *os.File // nil: none was made yet
	room   *arena
	most   int64 // what may be here while no file can be made
	size   int64
	isHere bool     // in blocks, and not in the file
	blocks [][]byte // all but the last are full
	chunk  *[]byte  // to read into on the way to the file; nil: none is needed

	mu    sync.Mutex
	holds int // guarded by mu; the owner, and the senders of the blocks
}

// spool makes an empty body. Unless isHere, it is written to its file at once.
func spool(room *arena, most int64, isHere bool) (*spooled, error) {
	s := &spooled{room: room, most: most, isHere: isHere, holds: 1}
	if isHere {
		return s, nil
	}
	return s, s.make()
}

// make makes the file, if there is none.
func (s *spooled) make() (err error) {
	if s.file == nil {
		s.file, err = spoolFile()
	}
	return err
}

// space is the buffer into which the next bytes are read.
func (s *spooled) space() ([]byte, error) {
	if s.isHere {
		n := len(s.blocks)
		if n == 0 || len(s.blocks[n-1]) == spoolBlock {
			if block := s.room.take(); block != nil {
				s.blocks = append(s.blocks, block)
				return block[:spoolBlock], nil
			}
			if err := s.flush(); err != nil {
				return nil, err
			}
		} else {
			last := s.blocks[n-1]
			return last[len(last):spoolBlock], nil
		}
	}
	if s.chunk == nil {
		s.chunk = getBuffer(spoolChunk)
	}
	return (*s.chunk)[:spoolChunk], nil
}

// extend says that n bytes have been read into space.
func (s *spooled) extend(n int) (err error) {
	if s.isHere {
		last := &s.blocks[len(s.blocks)-1]
		*last = (*last)[:len(*last)+n]
	} else {
		_, err = s.file.Write((*s.chunk)[:n])
	}
	if s.size += int64(n); s.size > s.most && err == nil {
		err = s.make() // so it is known early whether the file can be made
	}
	return err
}

func (s *spooled) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var to []byte
		if to, err = s.space(); err == nil {
			more := copy(to, p)
			p, n = p[more:], n+more
			err = s.extend(more)
		}
	}
	return n, err
}

// end says that the body is complete.
func (s *spooled) end() {
	if s.chunk != nil {
		putBuffer(s.chunk)
		s.chunk = nil
	}
}

// flush puts it into its file, unless it is being sent.
func (s *spooled) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isHere || s.holds > 1 {
		return nil
	}
	if err := s.make(); err != nil {
		return err
	}
	for _, block := range s.blocks {
		if _, err := s.file.Write(block); err != nil {
			s.file.Truncate(0)
			s.file.Seek(0, io.SeekStart)
			return err
		}
	}
	s.room.give(s.blocks, true)
	s.isHere, s.blocks = false, nil
	return nil
}

func (s *spooled) ReadAt(p []byte, offset int64) (n int, err error) {
	if !s.isHere {
		return s.file.ReadAt(p, offset)
	}
	for n < len(p) && offset < s.size {
		more := copy(p[n:], s.blocks[offset/spoolBlock][offset%spoolBlock:])
		n, offset = n+more, offset+int64(more)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close frees the parts that no sender needs.
func (s *spooled) Close() error {
	s.leave()
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *spooled) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds--; s.holds == 0 {
		s.room.give(s.blocks, false)
		s.blocks = nil
	}
}

// sender returns a reader of the whole body, of a type that transports know: a file handle,
// from which the kernel sends, or blocks. The caller closes it. A body in a file may have
// only one sender at a time, because file handles share the offset.
func (s *spooled) sender() (io.ReadCloser, error) {
	if s.isHere {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds++
		return &blockReader{from: s}, nil
	}
	file, err := again(s.file)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// blockReader reads blocks. It may be closed while it is read. It gives the blocks back
// when it is closed and no read is under way.
type blockReader struct {
	from   *spooled
	mu     sync.Mutex
	offset int64 // guarded by mu
	reads  bool  // guarded by mu
	closed bool  // guarded by mu
}

// next returns the next bytes, of one block; nil: the end. The caller then calls done with
// the number of bytes that it used.
func (r *blockReader) next() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, os.ErrClosed
	}
	if r.offset == r.from.size {
		return nil, io.EOF
	}
	r.reads = true
	return r.from.blocks[r.offset/spoolBlock][r.offset%spoolBlock:], nil
}

func (r *blockReader) done(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offset += int64(n)
	if r.reads = false; r.closed {
		r.from.leave()
	}
}

func (r *blockReader) Read(p []byte) (int, error) {
	part, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, part)
	r.done(n)
	return n, nil
}

// WriteTo copies nothing on the way.
func (r *blockReader) WriteTo(w io.Writer) (sum int64, err error) {
	for err == nil {
		var part []byte
		if part, err = r.next(); err == nil {
			var n int
			n, err = w.Write(part)
			sum += int64(n)
			r.done(n)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return sum, err
}

func (r *blockReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed && !r.reads {
		r.from.leave()
	}
	r.closed = true
	return nil
}

// spoolFile is a new file that lives for as long as it is open.
func spoolFile() (*os.File, error) {
	if file, err := unnamedFile(os.TempDir()); err == nil {
		return file, nil
	}
	return removedFile(os.TempDir())
}

// removedFile is spoolFile where unnamedFile is not to be had: a process that is killed
// in here leaves an empty file.
func removedFile(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "anteroom-body-*")
	if err != nil {
		return nil, err
	}
	os.Remove(file.Name())
	return file, nil
}

// CheckSpool says why bodies above limits.body_memory cannot be put into files,
// where limits.spool lets them; nil: they can be.
func (l LimitsConfig) CheckSpool() error {
	if l.Spool == 0 {
		return nil
	}
	file, err := spoolFile()
	if err != nil {
		return fmt.Errorf("no file can be made in %s for bodies above limits.body_memory (%v): %w: want a directory that can be written, named by TMPDIR",
			os.TempDir(), l.BodyMemory, errors.Unwrap(err))
	}
	defer file.Close()
	if _, err := file.Write([]byte{0}); err != nil {
		return fmt.Errorf("no file in %s can be written: %w: want room there, or another directory named by TMPDIR", os.TempDir(), err)
	}
	return nil
}

// noSpool is the refusal of a body whose file cannot be made or written.
func noSpool(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return refuse(codeSpoolFull, "the disk of the waiting bodies is full")
	}
	return refuse(codeSpoolUnavailable, "the proxy has no place for bodies above its limits.body_memory")
}
