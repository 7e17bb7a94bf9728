package configs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxSecret bounds a file that ${file:PATH} stands for.
const maxSecret = 64 << 10

var (
	reference = regexp.MustCompile(`\$\$\{|\$\{[^}]*\}?`)
	variable  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// expand replaces the references in a value: ${NAME} for a variable of the environment,
// ${file:PATH} for the content of a file without the newline at its end, $${ for ${ itself.
// The replaced values are never shown. If the result is false, a mistake has been reported.
func (d *document) expand(at, n *yaml.Node, path string) (text string, ok bool) {
	if !strings.Contains(n.Value, "${") {
		return n.Value, true
	}
	ok = true
	wrong := func(problem string) string {
		d.report(at, path, problem)
		ok = false
		return ""
	}
	secret := false
	text = reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		if ref == "$${" {
			return "${"
		}
		name, closed := strings.CutSuffix(strings.TrimPrefix(ref, "${"), "}")
		file, isFile := strings.CutPrefix(name, "file:")
		secret = true
		switch {
		case !closed:
			return wrong(fmt.Sprintf("%s has no closing brace: want ${NAME}, or $${ for the text itself", quote(ref)))
		case isFile && file != "":
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(d.fileOf(n)), file)
			}
			d.files = append(d.files, file)
			content, err := smallFile(file)
			if err != nil {
				return wrong(fmt.Sprintf("%s cannot be read: %v: want a file of at most 64KiB", ref, err))
			}
			return d.stands(content, ref)
		case !variable.MatchString(name):
			return wrong(fmt.Sprintf("%s names nothing: want ${NAME}, ${file:PATH}, or $${ for the text itself", quote(ref)))
		}
		for i := len(d.env) - 1; i >= 0; i-- {
			if value, found := strings.CutPrefix(d.env[i], name+"="); found {
				return d.stands(value, ref)
			}
		}
		return wrong(fmt.Sprintf("${%s} is not set: want a variable %s in the environment", name, name))
	})
	if secret {
		if d.written == nil {
			d.written = make(map[string]string)
		}
		d.written[path] = n.Value
	}
	return text, ok
}

// stands notes the value of a reference, so that no message shows it.
func (d *document) stands(secret, ref string) string {
	if secret != "" {
		d.secrets = append(d.secrets, secret, ref)
	}
	return secret
}

// hide removes the values of references from a message.
func (d *document) hide(problem string) string {
	if len(d.secrets) == 0 {
		return problem
	}
	return strings.NewReplacer(d.secrets...).Replace(problem)
}

func smallFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return "", cause(err)
	case len(text) > maxSecret:
		return "", fmt.Errorf("it is larger than that")
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
