package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// The rights of callers of the admin listener. Callers send the token of the configuration,
// or the cookie that a browser exchanged it for: the page cannot read it (HttpOnly), no
// other site's page can have it sent (SameSite=Strict), and it is in no URL. The cookie is
// sealed with the token itself, so it outlives a restart and ends with its token.

// role says what a caller may do.
type role int

const (
	noRole   role = iota
	reads         // all GETs
	controls      // everything
)

func (r role) String() string { return [...]string{"", "read", "control"}[r] }

// cookieLife is how long a cookie lasts; one that is used after half of it is
// replaced.
const cookieLife = 7 * 24 * time.Hour

// keeper knows the tokens.
type keeper struct {
	open bool               // no token is asked for
	sum  [controls + 1]*sum // of the tokens, by role; nil: there is none
	seal [controls + 1]*sum // keys of the cookies
	now  func() time.Time
}

type sum = [sha256.Size]byte

func newKeeper(c proxy.AdminConfig) *keeper {
	k := &keeper{open: c.Token == "", now: time.Now}
	for of, token := range map[role]string{controls: c.Token, reads: c.ReadToken} {
		if token != "" {
			plain, seal := sha256.Sum256([]byte(token)), sha256.Sum256([]byte("anteroom admin cookie\x00"+token))
			k.sum[of], k.seal[of] = &plain, &seal
		}
	}
	return k
}

// byToken is the role of a caller that sends a token.
func (k *keeper) byToken(token string) role {
	// Hashes have the same length, so the time of the comparison does not depend on the
	// token's length.
	got := sha256.Sum256([]byte(token))
	for _, r := range [...]role{controls, reads} {
		if k.sum[r] != nil && subtle.ConstantTimeCompare(k.sum[r][:], got[:]) == 1 {
			return r
		}
	}
	return noRole
}

// roleOf is the role of a caller. until is the end of its cookie; zero: it sent no valid
// cookie, or needs none.
func (k *keeper) roleOf(r *http.Request) (of role, until time.Time) {
	if k.open {
		return controls, time.Time{}
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return k.byToken(token), time.Time{}
	}
	if cookie, err := r.Cookie(cookieOf(r)); err == nil {
		return k.byCookie(cookie.Value)
	}
	return noRole, time.Time{}
}

// A cookie is a role, the second of its end, and a seal over both.
const sealedBytes = 1 + 8

func (k *keeper) sealed(of role, until time.Time) string {
	text := binary.BigEndian.AppendUint64([]byte{byte(of)}, uint64(until.Unix()))
	mac := hmac.New(sha256.New, k.seal[of][:])
	mac.Write(text)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(text))
}

func (k *keeper) byCookie(value string) (role, time.Time) {
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(text) != sealedBytes+sha256.Size {
		return noRole, time.Time{}
	}
	of, until := role(text[0]), time.Unix(int64(binary.BigEndian.Uint64(text[1:])), 0)
	if of < reads || of > controls || k.seal[of] == nil || !k.now().Before(until) ||
		subtle.ConstantTimeCompare([]byte(k.sealed(of, until)), []byte(value)) != 1 {
		return noRole, time.Time{}
	}
	return of, until
}

// cookieOf is the name of a listener's cookie. It ends in the port, because cookies do
// not tell ports apart.
func cookieOf(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return proxy.AdminCookie + "_" + port
	}
	return proxy.AdminCookie
}

// give sets the cookie of a role; noRole takes it away.
func (k *keeper) give(c echo.Context, of role) {
	r := c.Request()
	cookie := &http.Cookie{Name: cookieOf(r), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1,
		// A caller that claims TLS for a listener without it harms its own cookie alone.
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"}
	if of != noRole {
		cookie.Value, cookie.MaxAge = k.sealed(of, k.now().Add(cookieLife)), int(cookieLife.Seconds())
	}
	c.SetCookie(cookie)
}

// demand lets callers through that may do at least that much.
func (k *keeper) demand(least role) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request()
			of, cookie := k.roleOf(r)
			switch {
			case of == noRole:
				c.Response().Header().Set("WWW-Authenticate", `Bearer realm="anteroom"`)
				return echo.NewHTTPError(http.StatusUnauthorized, "a token is needed: want Authorization: Bearer TOKEN")
			case of < least:
				return echo.NewHTTPError(http.StatusForbidden, "this token only reads: want admin.token, not admin.read_token")
			case least == controls && !cookie.IsZero() && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "":
				// sameOrigin has looked at them where they are there; a browser sends one.
				return echo.NewHTTPError(http.StatusForbidden, "a call with a cookie must say where it comes from: want Origin or Sec-Fetch-Site")
			}
			return next(c)
		}
	}
}

// sessionJSON has the facts that the page needs before its first other call.
type sessionJSON struct {
	At       time.Time `json:"at"`
	Role     string    `json:"role"`   // read or control
	Token    bool      `json:"token"`  // one is asked for
	Sampled  bool      `json:"events"` // there is a history, with events
	TraceURL string    `json:"trace_url,omitempty"`
	Version  string    `json:"version,omitempty"`
}

// sessions registers the exchange of a token for a cookie.
func (a *api) sessions(g *echo.Group, c proxy.AdminConfig, k *keeper) {
	g.GET("/api/session", func(e echo.Context) error {
		of, until := k.roleOf(e.Request())
		if !until.IsZero() && until.Sub(k.now()) < cookieLife/2 {
			k.give(e, of)
		}
		return e.JSON(http.StatusOK, sessionJSON{At: time.Now(), Role: of.String(), Token: !k.open, Sampled: a.Telemetry.History != nil,
			TraceURL: c.TraceURL, Version: a.Version})
	}, k.demand(reads))
	g.POST("/api/session", func(e echo.Context) error {
		var asked struct{ Token string }
		err := json.NewDecoder(io.LimitReader(e.Request().Body, 4<<10)).Decode(&asked)
		if err != nil {
			return echo.NewHTTPError(http.StatusBadRequest, `want {"token": "TOKEN"}`)
		}
		of := controls
		if !k.open {
			if of = k.byToken(asked.Token); of == noRole {
				return echo.NewHTTPError(http.StatusUnauthorized, "that is neither admin.token nor admin.read_token")
			}
			k.give(e, of)
		}
		return e.JSON(http.StatusOK, map[string]string{"role": of.String()})
	}, sameOrigin)
	g.DELETE("/api/session", func(e echo.Context) error {
		k.give(e, noRole)
		return e.NoContent(http.StatusNoContent)
	}, sameOrigin)
}
