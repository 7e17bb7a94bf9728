package admission_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/anteroom-gpu/anteroom/"

// mayImport is what each package may import of this module. Each of them may
// import the standard library; those of the first group import nothing else.
var mayImport = map[string][]string{
	"admission/queue":     {},
	"admission/memory":    {},
	"admission/residency": {"admission/memory"},
	"admission/history":   {"admission/memory"},
	"admission":           {"admission/queue", "admission/memory", "admission/residency", "admission/history"},

	"backend/http1":       {},
	"backend/outofmemory": {},

	"admission/gpu":     {"admission", "admission/memory"},
	"simulation":        {"admission"},
	"simulation/replay": {"admission", "simulation"},

	"simulation/replay/configured": {"admission", "simulation/replay", "configs", "proxy"},
}

// standardOnly are the packages that import no other module.
var standardOnly = []string{"admission/queue", "admission/memory", "admission/residency", "admission/history", "admission"}

// layers are the other packages with those below them, from the top. A package
// may import what is in its own layer or further down, and its subpackages are
// in the layer that it is in.
var layers = [][]string{
	{"cmd", "examples"},
	{"configs"},
	{"proxy/admin"},
	{"proxy"},
	{"routing"},
	{"routing/body", "routing/expression", "backend", "telemetry", "admission/gpu"},
	{"admission"},
}

// libraries says where alone a module of others may be imported.
var libraries = map[string][]string{
	"github.com/labstack/echo":  {"proxy", "cmd"},
	"github.com/sony/gobreaker": {"backend"},
	"github.com/NVIDIA/go-nvml": {"admission/gpu"},

	"github.com/andybalholm/brotli": {"backend/outofmemory"},
	"github.com/klauspost/compress": {"backend/outofmemory"},
}

// listed is a package as go list describes it. Imports are those of its files
// without the tests.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	CgoFiles   []string
}

// Imports point down: see the table of packages in the architecture.
func TestImportsPointDown(t *testing.T) {
	all := listPackages(t)
	used := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		name, ours := strings.CutPrefix(path, module)
		if !ours {
			continue
		}
		p := all[path]
		if len(p.CgoFiles) > 0 && name != "admission/gpu" {
			t.Errorf("%s uses cgo (%v): only admission/gpu may", name, p.CgoFiles)
		}
		for _, imported := range p.Imports {
			if reason := barred(name, imported, all[imported].Standard); reason != "" {
				t.Errorf("%s imports %s: %s", name, imported, reason)
			}
			for library := range libraries {
				used[library] = used[library] || under(imported, library)
			}
		}
		if _, known := mayImport[name]; !known && under(name, "admission") {
			t.Errorf("%s is not in the table mayImport: want what it may import", name)
		}
	}
	// A rule about a name that is not there any more holds nothing.
	for library := range libraries {
		if !used[library] {
			t.Errorf("no package imports %s: want its rule to go or its name to be right", library)
		}
	}
	for _, name := range []string{"admission", "admission/queue", "admission/memory", "admission/history", "admission/gpu",
		"simulation/replay", "routing/body", "routing/expression", "backend", "routing", "proxy", "proxy/admin", "configs", "cmd/anteroom"} {
		if _, ok := all[module+name]; !ok {
			t.Errorf("go list has no package %s", name)
		}
	}
}

// A rule that holds nothing would pass all the same.
func TestAnImportThatPointsUpIsBarred(t *testing.T) {
	for _, c := range []struct {
		name, imported string
		standard, ok   bool
	}{
		{"admission/queue", "time", true, true},
		{"admission/queue", module + "admission/memory", false, false},
		{"admission/memory", module + "admission", false, false},
		{"admission/history", module + "admission/memory", false, true},
		{"admission/history", module + "admission/queue", false, false},
		{"admission/residency", module + "admission/memory", false, true},
		{"admission", module + "routing", false, false},
		{"admission", "golang.org/x/sync/errgroup", false, false},
		{"admission", "C", false, false},
		{"routing", module + "proxy", false, false},
		{"routing", module + "routing/body", false, true},
		{"proxy/admin", module + "configs", false, false},
		{"proxy/admin", module + "proxy", false, true},
		{"proxy", module + "proxy/admin", false, false},
		{"configs", module + "proxy", false, true},
		{"routing", "github.com/labstack/echo/v4", false, false},
		{"cmd/anteroom", "github.com/labstack/echo/v4/middleware", false, true},
		{"proxy", "github.com/sony/gobreaker/v2", false, false},
		{"routing", "github.com/sony/gobreaker/v2", false, false},
		{"backend", "github.com/sony/gobreaker/v2", false, true},
		{"backend", module + "routing/body", false, true},
		{"backend", module + "routing", false, false},
		{"backend", module + "proxy", false, false},
		{"admission", "github.com/NVIDIA/go-nvml/pkg/nvml", false, false},
		{"simulation", module + "proxy", false, false},
		{"simulation/replay", module + "proxy", false, false},
	} {
		if reason := barred(c.name, c.imported, c.standard); (reason == "") != c.ok {
			t.Errorf("%s imports %s: barred because %q, want it allowed: %v", c.name, c.imported, reason, c.ok)
		}
	}
}

// barred is why a package of this module may not import another; empty: it may.
func barred(name, imported string, standard bool) string {
	if standard {
		return ""
	}
	for library, where := range libraries {
		if under(imported, library) && !slices.ContainsFunc(where, func(place string) bool { return under(name, place) }) {
			return "want it in " + strings.Join(where, " or ") + " alone"
		}
	}
	target, ours := strings.CutPrefix(imported, module)
	if !ours {
		if slices.Contains(standardOnly, name) {
			return "want the standard library alone"
		}
		return ""
	}
	if may, listed := mayImport[name]; listed {
		switch {
		case slices.Contains(may, target):
			return ""
		case len(may) == 0:
			return "want nothing of this module"
		}
		return "want nothing of this module but " + strings.Join(may, ", ")
	}
	if from, to := layer(name), layer(target); from >= 0 && to >= 0 && to < from {
		return "it stands above"
	}
	return ""
}

// layer is the layer of a package, by the longest name that it is under; -1: it
// is in none.
func layer(name string) int {
	best, length := -1, 0
	for i, names := range layers {
		for _, n := range names {
			if under(name, n) && len(n) > length {
				best, length = i, len(n)
			}
		}
	}
	return best
}

// under says that a package is the named one or lies below it.
func under(name, above string) bool { return name == above || strings.HasPrefix(name, above+"/") }

// listPackages gives the packages of this module and all that they need.
func listPackages(t *testing.T) map[string]listed {
	t.Helper()
	list := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,Imports,CgoFiles", "./...")
	list.Dir = ".."
	list.Env = append(os.Environ(), "CGO_ENABLED=1") // else files with cgo are left out
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
		if under(p.ImportPath, strings.TrimSuffix(module, "/")) {
			// go test caches a result until a file that the test itself has
			// looked at changes; what go list looks at does not count.
			if _, err := os.ReadDir(p.Dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}
