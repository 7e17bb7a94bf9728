package body

import "unicode/utf8"

// Reading is what the rules see of a body.
type Reading struct {
	// Body is nil where there is none, else what JSON holds or a form's fields.
	// Of an object and of a form only what the rules look at is in it.
	Body any
	// doubts say of keys right in the body why their value is in doubt.
	doubts map[string]error
	value  Value // of Names.locate
	// Err says why all of it is in doubt.
	Err error
}

// doubt takes note of a key in doubt. The first reason stays.
func (r *Reading) doubt(key string, reason error) {
	if _, ok := r.doubts[key]; ok || reason == nil {
		return
	}
	if r.doubts == nil {
		r.doubts = make(map[string]error)
	}
	r.doubts[key] = reason
}

// Doubtful says why what an expression looks at has no single meaning; nil: it
// has. looksAt says which keys right in the body that is; nil: all of them.
func (r *Reading) Doubtful(looksAt func(key string) bool) error {
	if r.Err != nil || len(r.doubts) == 0 {
		return r.Err
	}
	first := ""
	for key := range r.doubts {
		if (looksAt == nil || looksAt(key)) && (first == "" || key < first) {
			first = key
		}
	}
	if first == "" {
		if reason := r.doubts[""]; reason != nil && (looksAt == nil || looksAt("")) {
			return &keyError{"", reason}
		}
		return nil
	}
	return &keyError{first, r.doubts[first]}
}

// keyError is a key that is in doubt, and why.
type keyError struct {
	key    string
	reason error
}

func (e *keyError) Error() string {
	key := e.key
	if len(key) > 40 || !utf8.ValidString(key) {
		key = "…"
	}
	return "body." + key + ": " + e.reason.Error()
}

func (e *keyError) Unwrap() error { return e.reason }
