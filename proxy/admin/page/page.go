// Package page is the status page of the admin listener: files that are built into the
// program, and how they are served. What the page shows it asks of the admin API; the
// files themselves tell nothing, and need no token.
//
// What it promises:
//
//   - Nothing is fetched from another address, and no script or style runs that is not
//     one of these files: the policy has no exceptions.
//   - A browser that has a file is told so (ETag), and one that reads gzip gets it.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"
)

//go:embed static
var static embed.FS

// Policy is the content security policy of the page.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// file is one file of the page.
type file struct {
	name  string
	once  sync.Once // reads the rest, when it is first asked for: most commands show no page
	kind  string
	tag   string
	raw   []byte
	small []byte // gzip
}

// files are all of them, by their path below the root of the listener.
func files() map[string]*file {
	all := make(map[string]*file)
	err := fs.WalkDir(static, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, ".LICENSE") {
			return err
		}
		at := "/page/" + strings.TrimPrefix(name, "static/")
		if name == "static/index.html" {
			at = "/"
		}
		all[at] = &file{name: name}
		return nil
	})
	if err != nil {
		panic("page: " + err.Error()) // what is built in can be read
	}
	return all
}

// Register adds the page's routes.
func Register(g *echo.Group) {
	for at, f := range files() {
		g.GET(at, f.serve)
		g.HEAD(at, f.serve)
	}
}

// read makes the file ready to be served, if it is not.
func (f *file) read() { f.once.Do(f.readOnce) }

func (f *file) readOnce() {
	f.raw, _ = static.ReadFile(f.name) // what is built in can be read
	sum := sha256.Sum256(f.raw)
	f.kind, f.tag = mime.TypeByExtension(path.Ext(f.name)), `"`+hex.EncodeToString(sum[:12])+`"`
	var small bytes.Buffer
	w, _ := gzip.NewWriterLevel(&small, gzip.BestCompression) // the level is one
	w.Write(f.raw)                                            // a Buffer takes all
	w.Close()
	f.small = small.Bytes()
}

func (f *file) serve(c echo.Context) error {
	f.read()
	h := c.Response().Header()
	h.Set("Content-Security-Policy", Policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache") // asked for again each time, and answered with 304
	h.Set("Vary", "Accept-Encoding")
	body, tag := f.raw, f.tag
	if acceptsGzip(c.Request()) {
		h.Set("Content-Encoding", "gzip")
		body, tag = f.small, strings.TrimSuffix(f.tag, `"`)+`-gzip"`
	}
	h.Set("ETag", tag)
	for _, known := range strings.Split(c.Request().Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(known), "W/") == tag {
			h.Del("Content-Encoding")
			return c.NoContent(http.StatusNotModified)
		}
	}
	return c.Blob(http.StatusOK, f.kind, body)
}

// acceptsGzip says that a client reads gzip.
func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.Trim(strings.TrimSpace(q), "q=0. ") != "" || strings.TrimSpace(part) == "gzip" {
			return true
		}
	}
	return false
}
