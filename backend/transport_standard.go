//go:build standardtransport

package backend

const alwaysStandard = true
