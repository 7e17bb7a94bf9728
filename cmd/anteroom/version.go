package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// release is set by the linker (-X main.release=v1.2.3) where the version
// control that the toolchain would ask is not at hand.
var release string

// buildVersion is what `version` prints and what telemetry calls
// service.version.
func buildVersion() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func runVersion(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("version", "", "Print the version.", stderr)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	fmt.Fprintf(stdout, "anteroom %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return 0
}
