//go:build !standardtransport

package backend

// alwaysStandard is true in a build for tests of `transport: standard`: with
// -tags standardtransport every test runs on http.Transport, whatever it configures.
const alwaysStandard = false
