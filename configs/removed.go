package configs

// removed names the keys of earlier versions and the key that took the place of
// each, with * for a name of the user's own.
var removed = map[string]string{
	"classes.*.harden_after": "strict_after",
}

// refused is the problem of a key that a section does not have: it is not
// available yet, it was renamed, or it was never there.
func (s *schema) refused(pattern, key string) string {
	if later[pattern] {
		return notYet
	}
	if now := removed[pattern]; now != "" {
		return "was renamed: want " + now
	}
	return s.unknown(key)
}
