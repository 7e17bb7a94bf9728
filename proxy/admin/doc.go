// Package admin is the admin listener: its health endpoints, its API and its status page.
//
// What it promises:
//
//   - Without a token only /livez, /readyz, the files of the page and the exchange of a
//     token for a cookie are answered, unless the configuration has no token.
//   - A page of another site neither reads the API nor acts through a browser.
//   - Each action leaves a log line and an entry in the history.
//
// Start here: New (admin.go) has every route. health.go has /livez and /readyz, session.go
// has the rights of callers, control.go the actions. state.go, learned.go, history.go,
// events.go and compare.go answer the GETs, words.go explains a reason in a sentence. The
// page is in package page. The tests over HTTP are beside those of package proxy, with
// which they share a harness.
package admin
