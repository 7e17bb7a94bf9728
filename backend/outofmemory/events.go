package outofmemory

import "bytes"

// eventLine is where a stream of server-sent events is.
type eventLine struct {
	field  [8]byte // of the present line
	length int     // of the field; beyond len(field) it is none that counts
	value  bool    // the colon has come
	spaced bool    // and the space behind it
	name   [16]byte
	named  int  // how much of the present event's name is kept
	isText bool // the value is text: no JSON
	begun  bool // something of the value has come
}

// isError says that the present event is one by its name: error, or failed in
// OpenAI's response.failed.
func (e *eventLine) isError() bool {
	name := e.name[:e.named]
	return string(name) == "error" || bytes.HasSuffix(name, []byte(".failed")) || bytes.HasSuffix(name, []byte(".error"))
}

// eventBytes takes bytes of a stream of events, to the end of the present line at
// most, and says how many.
func (s *Scanner) eventBytes(p []byte) int {
	end := bytes.IndexByte(p, '\n')
	line := p
	if end >= 0 {
		line = p[:end]
	}
	s.eventValue(line)
	if end < 0 {
		return len(p)
	}
	e := &s.event
	if !e.value && e.length == 0 { // an empty line: the event ends
		e.named = 0
	}
	if e.value {
		s.endValue()
	}
	e.length, e.value, e.spaced, e.isText, e.begun = 0, false, false, false, false
	return end + 1
}

func (s *Scanner) eventValue(line []byte) {
	e := &s.event
	for _, c := range line {
		switch {
		case !e.value && c == ':':
			e.value = true
			switch string(e.field[:min(e.length, len(e.field))]) {
			case "event":
				e.named = 0
			case "data":
				if s.strict && e.isError() {
					s.json.reset(&s.found, false)
				}
			case "error": // llama.cpp's server
				s.json.reset(&s.found, false)
			default:
				s.json.dead = true
			}
		case !e.value:
			if c == '\r' {
				continue
			}
			if e.length < len(e.field) {
				e.field[e.length] = c
			}
			e.length++
		case c == ' ' && !e.spaced && !e.begun:
			e.spaced = true
		case c == '\r':
		case e.length == len("event") && string(e.field[:e.length]) == "event":
			e.begun = true
			if e.named < len(e.name) {
				e.name[e.named] = c
			} else {
				copy(e.name[:], e.name[1:]) // its end tells
				e.name[len(e.name)-1] = c
				e.named--
			}
			e.named++
		case s.json.dead:
			return
		default:
			s.eventByte(c)
		}
	}
}

// eventByte takes a byte of an event's data.
func (s *Scanner) eventByte(c byte) {
	e := &s.event
	if !e.begun {
		e.begun = true
		e.isText = c != '{' && c != '[' && c != '"'
		if e.isText && s.json.strict {
			s.json.dead = true
			return
		}
	}
	if e.isText {
		s.found.writeByte(c)
		return
	}
	s.json.writeByte(c)
}
