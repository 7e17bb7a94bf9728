package outofmemory

// stripper gives the text of HTML to a matcher: a tag ends a line, and the
// entities that hide a message's quotes are put back.
type stripper struct {
	to     *matcher
	inTag  bool
	entity [8]byte
	length int // of the entity; 0: none
}

// entities are those that Python's html.escape makes, and the plain ones.
var entities = map[string]byte{"&amp;": '&', "&lt;": '<', "&gt;": '>', "&quot;": '"', "&#x27;": '\'', "&#39;": '\'', "&#34;": '"', "&nbsp;": ' '}

func (h *stripper) writeByte(c byte) {
	switch {
	case h.inTag:
		h.inTag = c != '>'
	case c == '<':
		h.flush()
		h.inTag = true
		h.to.endLine()
	case h.length > 0:
		h.entity[h.length] = c
		h.length++
		if plain, ok := entities[string(h.entity[:h.length])]; ok {
			h.length = 0
			h.to.writeByte(plain)
		} else if c == ';' || h.length == len(h.entity) {
			h.flush()
		}
	case c == '&':
		h.entity[0], h.length = c, 1
	default:
		h.to.writeByte(c)
	}
}

// flush gives what turned out to be no entity.
func (h *stripper) flush() {
	for _, c := range h.entity[:h.length] {
		h.to.writeByte(c)
	}
	h.length = 0
}
