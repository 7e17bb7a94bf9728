package body

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
)

// Value is a text right in a body, and where it stands.
type Value struct {
	From, To int64 // in bytes; To is behind it
	Text     string
	writing  writing
}

// writing is how a body has its texts.
type writing uint8

const (
	quoted  writing = iota // JSON
	escaped                // URL-encoded
	plain                  // multipart
)

var errNotText = errors.New("it is no text")

// Find gives the text that a body has by a key right in it; false: it has none. An error
// says why it has no single meaning.
func Find(r *http.Request, b *Body, key string) (Value, bool, error) {
	names := &Names{locate: key}
	names.Add([]string{key}, nil, false)
	read := Read(r, b, names)
	if err := read.Doubtful(func(k string) bool { return k == key }); err != nil {
		return Value{}, false, err
	}
	values, _ := read.Body.(map[string]any)
	value, there := values[key]
	if _, isText := value.(string); there && !isText {
		return Value{}, false, &keyError{key, errNotText}
	}
	return read.value, there, nil
}

// Write gives the bytes by which another text stands in the value's place.
func (v Value) Write(text string) []byte {
	switch v.writing {
	case escaped:
		return []byte(url.QueryEscape(text))
	case plain:
		return []byte(text)
	}
	written, _ := json.Marshal(text) // a string is always written
	return written
}
