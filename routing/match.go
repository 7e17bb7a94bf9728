package routing

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// MatchConfig is what a request must look like. Empty fields match anything; of a
// list, one is enough.
type MatchConfig struct {
	Method  Texts             `koanf:"method"` // GET matches HEAD too
	Path    Texts             `koanf:"path"`
	Model   Texts             `koanf:"model"`   // what the body asks for; * stands for any text
	Host    string            `koanf:"host"`    // exact, or *.example.com for all below
	Headers map[string]string `koanf:"headers"` // exact values; *: any
	When    string            `koanf:"when"`
}

// Texts are one text, or a list of them.
type Texts []string

// UnmarshalText reads the one text.
func (t *Texts) UnmarshalText(text []byte) error {
	*t = nil
	if len(text) > 0 {
		*t = Texts{string(text)}
	}
	return nil
}

// each gives the texts one by one with the key of each below a path, or once the empty
// text where there are none.
func (t Texts) each(path string) func(yield func(path, text string) bool) {
	return func(yield func(path, text string) bool) {
		if len(t) == 0 {
			yield(path, "")
			return
		}
		for i, text := range t {
			at := path
			if len(t) > 1 {
				at = fmt.Sprintf("%s[%d]", path, i)
			}
			if !yield(at, text) {
				return
			}
		}
	}
}

// condition is the expression that a request must fulfil: of the models one, and
// what `when` says. Empty: none.
func (m MatchConfig) condition() string {
	if len(m.Model) == 0 {
		return m.When
	}
	var any []string
	for _, model := range m.Model {
		if !strings.Contains(model, "*") {
			any = append(any, "body.model == "+strconv.Quote(model))
			continue
		}
		parts := strings.Split(model, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		any = append(any, `(body.model ?? "") matches `+strconv.Quote("^"+strings.Join(parts, ".*")+"$"))
	}
	condition := strings.Join(any, " || ")
	if m.When != "" {
		condition = "(" + condition + ") && (" + m.When + ")"
	}
	return condition
}
