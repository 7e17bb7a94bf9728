package configs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

// lookEvery is the time from one look at a watched file to the next.
const lookEvery = 500 * time.Millisecond

// Watch calls changed, one call at a time, whenever the content of the configuration file,
// or of a file that it includes or takes a value from, is another than it was, until ctx
// ends. It returns at once. A file that is gone is not a change; when it comes back with
// another content that is one. A content counts once two looks in a row have found it,
// because editors and copies write in several steps. Begin to watch before the first Load,
// so that no change is missed.
//
// The content itself is looked at, not events of the file system: these are
// missing on network file systems, miss files that are replaced through a link,
// and come for each line of a log in the same directory.
func Watch(ctx context.Context, o Options, changed func()) {
	// A pipe is not read: it gives its content once.
	if info, err := os.Stat(o.File); err == nil && !info.Mode().IsRegular() {
		return
	}
	files := readFile(o).files
	last, _ := sum(files)
	go func() {
		// The time between two looks is never shorter. With a ticker two ticks may come at
		// once if the first was received late.
		again := time.NewTimer(lookEvery)
		defer again.Stop()
		before := last
		for ; ; again.Reset(lookEvery) {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
			now, ok := sum(files)
			if ok && now == before && now != last {
				files = readFile(o).files
				last, _ = sum(files)
				now = last
				changed()
			}
			before = now
		}
	}()
}

// sum stands for the content of files; false: the first of them cannot be read. A missing
// file among the others counts like a content, because the first file may stop naming it.
func sum(files []string) (sum [sha256.Size]byte, ok bool) {
	all := sha256.New()
	for i, file := range files {
		text, err := contents(file)
		switch {
		case err != nil && i == 0:
			return sum, false
		case err != nil:
			fmt.Fprint(all, "none ")
			continue
		}
		fmt.Fprintf(all, "%d ", len(text))
		all.Write(text)
	}
	return [sha256.Size]byte(all.Sum(nil)), true
}
