package proxy

import "syscall"

// systemMemory is memory beside Go's heap, of which a page is taken when it is written.
func systemMemory(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return []byte{} // bodies go to files
	}
	return b
}

// returnMemory gives pages back. What they had is lost.
func returnMemory(b []byte) { syscall.Madvise(b, syscall.MADV_DONTNEED) }
