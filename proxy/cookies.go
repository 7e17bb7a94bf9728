package proxy

import (
	"net/http"
	"strings"
)

// AdminCookie is the beginning of the name of the admin listener's cookies.
const AdminCookie = "anteroom_admin"

// withoutCookie takes the admin listener's cookies out of a header: browsers send them to
// every port of the host, and no model server may get them.
func withoutCookie(header http.Header) {
	for i, line := range header["Cookie"] {
		if !strings.Contains(line, AdminCookie) {
			continue
		}
		var kept []string
		for _, pair := range strings.Split(line, ";") {
			if !strings.HasPrefix(strings.TrimSpace(pair), AdminCookie) {
				kept = append(kept, pair)
			}
		}
		header["Cookie"][i] = strings.TrimSpace(strings.Join(kept, ";"))
	}
	if c := header["Cookie"]; len(c) == 1 && c[0] == "" {
		delete(header, "Cookie")
	}
}
