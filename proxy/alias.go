package proxy

import (
	"io"
	"net/http"
	"slices"

	"github.com/anteroom-gpu/anteroom/routing"
	bodies "github.com/anteroom-gpu/anteroom/routing/body"
)

// edit is a text that replaces a part of a body when it is forwarded.
type edit struct {
	from, to int64
	text     []byte
}

// readAt reads at an offset of the edited file.
func (e *edit) readAt(file io.ReaderAt, p []byte, offset int64) (n int, err error) {
	behind := e.from + int64(len(e.text))
	switch {
	case offset < e.from:
		return file.ReadAt(p[:min(int64(len(p)), e.from-offset)], offset)
	case offset < behind:
		return copy(p, e.text[offset-e.from:]), nil
	}
	return file.ReadAt(p, offset-behind+e.to)
}

// replace puts a text in the place of a part, before the body is read by a transport.
func (b *body) replace(from, to int64, text []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file != nil {
		b.edit = &edit{from, to, text}
		return
	}
	came := b.memory
	own := slices.Concat((*came)[:from], text, (*came)[to:])
	if b.memory, b.size = &own, int64(len(own)); !b.small {
		putBuffer(came)
	}
	b.small = true
}

// length is how many bytes are forwarded.
func (b *body) length() int64 {
	if e := b.edit; e != nil {
		return b.size - (e.to - e.from) + int64(len(e.text))
	}
	return b.size
}

// rename puts the model's name at the backend in place of the one that the client wrote,
// where the route has one. A model that parsers could read in two ways is refused, because
// it is not known which one the backend would take.
func (x *exchange) rename(route *routing.Route) error {
	if route.RewriteModel == "" || x.body == nil || x.body.size == 0 {
		return nil
	}
	seen := x.seen()
	v, there, err := bodies.Find(x.in, &seen, "model")
	switch {
	case err != nil:
		return refuse(codeBadBody, "the route has another name for the model, and what the body asks for has no single meaning: %v", err)
	case !there || v.Text == route.RewriteModel:
		return nil
	}
	x.body.replace(v.From, v.To, v.Write(route.RewriteModel))
	for _, sum := range [...]string{"Content-Md5", "Content-Digest", "Repr-Digest", "Digest"} {
		x.in.Header.Del(sum)
	}
	return nil
}

// listsModels says that a request lists models of which some have other names here, or
// those of several backends.
func (x *exchange) listsModels() bool {
	if x.in.Method != http.MethodGet && x.in.Method != http.MethodHead {
		return false
	}
	return len(x.route.Merge) > 0 || len(x.rules.tables[x.listener].Aliases()) > 0 && (x.in.URL.Path == "/v1/models" || x.in.URL.Path == "/api/tags")
}
