package configs

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// lookEvery is how often a watched file is read.
const lookEvery = 500 * time.Millisecond

// Watch calls changed, one call at a time, whenever the file's content is
// another than it was, until ctx ends. It returns at once. A file that is gone
// is not a change; when it comes back with another content that is one. A content
// counts once two looks in a row have found it, because editors and copies write
// in several steps. Begin to watch before the first Load, so that nothing falls
// between.
//
// The content itself is looked at, not events of the file system: these are
// missing on network file systems, miss files that are replaced through a link,
// and come for each line of a log in the same directory.
func Watch(ctx context.Context, file string, changed func()) {
	last, _ := sum(file)
	go func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		before := last
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, ok := sum(file)
			if ok && now == before && now != last {
				last = now
				changed()
			}
			before = now
		}
	}()
}

// sum stands for a file's content; false: there is none to be read. A pipe is not
// read: it gives its content once.
func sum(file string) (sum [sha256.Size]byte, ok bool) {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return sum, false
	}
	text, err := contents(file)
	return sha256.Sum256(text), err == nil
}
