package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestWhatTheDocsSayWorks goes through the README and each page of docs, from top to
// bottom, in a folder of its own:
//
//	yaml     is a configuration: it loads without a warning, and is in force for what
//	         follows; what stands above the first goes by one backend, engine
//	sh       is run by a shell, with anteroom at hand and running: what fails, fails the test
//	console  needs what a test cannot have, and only names commands of others
//	text     is a picture, or what a command prints, and no command
//
// A block of any other kind fails. In what is run, 127.0.0.1:8080 and :9090 lead to
// the running Anteroom, and backends to a server that answers everything; init finds that
// one, and a card of 24 GiB, and serve is ended when it listens.
func TestWhatTheDocsSayWorks(t *testing.T) {
	ran := 0
	for _, page := range append(pages(t, "../../docs"), "../../README.md") {
		t.Run(strings.TrimPrefix(filepath.ToSlash(page), "../../"), func(t *testing.T) {
			p := openPage(t)
			for _, b := range blocks(t, page) {
				switch b.kind {
				case "yaml":
					p.configure(b)
				case "sh":
					p.run(b)
					ran++
				case "console":
					othersOnly(t, b)
				case "text":
					if strings.Contains("\n"+b.text, "\n$ ") {
						t.Errorf("%s: a command stands in text: want it in a block of kind sh", b.at)
					}
				default:
					t.Errorf("%s: a block of kind %q: want yaml, sh, console or text", b.at, b.kind)
				}
			}
		})
	}
	if ran < 5 {
		t.Errorf("%d blocks were run, want those of docs/operations", ran)
	}
}

// pages are the Markdown files below a directory.
func pages(t *testing.T, directory string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(directory, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(file, ".md") {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// block is what stands between fences.
type block struct{ at, kind, text string }

func blocks(t *testing.T, file string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	open := false
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for n := 1; lines.Scan(); n++ {
		kind, fence := strings.CutPrefix(lines.Text(), "```")
		switch {
		case fence && !open:
			all = append(all, block{at: fmt.Sprintf("%s:%d", file, n), kind: kind})
			open = true
		case fence:
			open = false
		case open:
			all[len(all)-1].text += lines.Text() + "\n"
		}
	}
	if open {
		t.Errorf("%s: the last block does not end", file)
	}
	return all
}

// page is what the blocks of one page share.
type page struct {
	t      *testing.T
	folder string
	engine string // its address
	config string // in force
	ports  *strings.Replacer
	admin  string    // the address of its listener
	server *exec.Cmd // nil: it does not run
}

func openPage(t *testing.T) *page {
	p := &page{t: t, folder: t.TempDir()}
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "{}") }))
	t.Cleanup(engine.Close)
	p.engine = engine.URL
	p.config = "{gpus: {gpu0: {memory: 24GiB}}, classes: {all: {slots: 4}}, backends: {engine: {url: '" + p.engine +
		"', gpu: gpu0}}, routes: [{match: {path: /**}, class: all, backend: engine}]}"
	// Where a page names no admin listener, its commands ask the one that runs.
	script := "#!/bin/sh\nexport RUN_THE_COMMAND=1\ncase $1 in\n" +
		"backends|cancel|drain|forget|health|learned|pause|queue|release|reload|resume|unload|wake)\n" +
		"\tc=$1; shift; set -- \"$c\" --admin \"http://$ADMIN\" \"$@\" ;;\n" +
		"init)\n\tshift; set -- init --source declared --memory 24GiB --only --to '" + p.engine + "' --force \"$@\" ;;\n" +
		"serve)\n\tmkfifo log; ANTEROOM_ADMIN__LISTEN=127.0.0.1:0 '" + os.Args[0] + "' \"$@\" --listen 127.0.0.1:0 2>log & \n" +
		"\t{ grep -m 1 '\"msg\":\"listening\"'; kill $!; cat >/dev/null; } <log; wait $!; exit ;;\n" +
		"esac\nexec '" + os.Args[0] + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(p.folder, "anteroom"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

var backendURL = regexp.MustCompile(`http://[a-z0-9.]+:[0-9]+`)

// configure loads a configuration, and puts it in force from the next command on.
func (p *page) configure(b block) {
	p.t.Helper()
	file := filepath.Join(p.folder, "anteroom.yaml")
	if err := os.WriteFile(file, []byte(b.text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	c, err := configs.Load(configs.Options{File: file})
	if err != nil {
		p.t.Fatalf("%s: %v", b.at, err)
	}
	if w := c.Warnings(); len(w) > 0 {
		p.t.Errorf("%s: it warns: %v", b.at, w)
	}
	if _, err := routing.NewTable(c.Routing); err != nil {
		p.t.Errorf("%s: %v", b.at, err)
	}
	p.stop()
	p.config = backendURL.ReplaceAllString(b.text, p.engine)
}

// run runs a block as a shell does for whoever pastes it.
func (p *page) run(b block) {
	p.t.Helper()
	p.start(b)
	shell := exec.Command("sh", "-euc", p.ports.Replace(b.text))
	shell.Dir = p.folder
	shell.Env = append(os.Environ(), "PATH="+p.folder+":"+os.Getenv("PATH"), "ADMIN="+p.admin, "GORACE=atexit_sleep_ms=0")
	out, err := shell.CombinedOutput()
	if err != nil {
		p.t.Errorf("%s: %v\n%s\n%s", b.at, err, b.text, out)
	}
	p.t.Logf("%s\n%s", b.text, out)
}

// start runs Anteroom with the page's configuration, on ports that are free.
func (p *page) start(b block) {
	p.t.Helper()
	if p.server != nil {
		return
	}
	file := filepath.Join(p.folder, "anteroom.yaml")
	if err := os.WriteFile(file, []byte(p.config), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.server = process("serve", "-c", file, "--listen", "127.0.0.1:0")
	p.server.Dir = p.folder
	p.server.Env = append(p.server.Env, "ANTEROOM_ADMIN__LISTEN=127.0.0.1:0")
	logs, err := p.server.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.server.Start(); err != nil {
		p.t.Fatal(err)
	}
	said := ""
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		said += lines.Text() + "\n"
		if at := listening.FindStringSubmatch(lines.Text()); at != nil {
			p.admin = at[2]
			p.ports = strings.NewReplacer("127.0.0.1:8080", at[1], "127.0.0.1:9090", at[2])
			go func() {
				for lines.Scan() {
				}
			}()
			return
		}
	}
	p.t.Fatalf("%s: it does not serve:\n%s", b.at, said)
}

var listening = regexp.MustCompile(`"msg":"listening","url":"http://([^"]+)","admin":"http://([^"]+)"`)

func (p *page) stop() {
	if p.server != nil {
		p.server.Process.Kill()
		p.server.Wait()
		p.server = nil
	}
}

// othersOnly holds that a block that is not run has a reason not to be: each
// command is one of a service manager, a container engine or a cluster, or handles
// files that these have made.
func othersOnly(t *testing.T, b block) {
	t.Helper()
	others := []string{"apt", "cp", "docker", "export", "go", "install", "journalctl", "kubectl", "nvidia-cuda-mps-control", "sudoedit", "systemctl"}
	system := regexp.MustCompile(`/etc/|/var/|backup|2>>`) // of this machine, or without an end
	for line := range strings.Lines(b.text) {
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
		if len(words) == 0 || !slices.Contains(others, words[0]) && !system.MatchString(line) {
			t.Errorf("%s: %q can be run: want it in a block of kind sh", b.at, line)
		}
		for _, file := range regexp.MustCompile(`packaging/[a-z/.-]+`).FindAllString(line, -1) {
			if _, err := os.Stat(filepath.Join("../..", file)); err != nil {
				t.Errorf("%s: %v", b.at, err)
			}
		}
	}
}

// TestLinksLeadSomewhere follows the links of each page that stay in the project, to a
// heading where they name one.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	files := append(pages(t, "../../docs"), pages(t, "../../examples")...)
	for _, file := range append(files, "../../README.md", "../../CHANGELOG.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			to := file
			if found[1] != "" {
				to = filepath.Join(filepath.Dir(file), found[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if found[2] != "" && !slices.Contains(anchors(t, to), found[2]) {
				t.Errorf("%s: %s has no heading %q", file, to, found[2])
			}
		}
	}
}

// anchors are the names that GitHub gives to the headings of a page.
func anchors(t *testing.T, file string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if heading := regexp.MustCompile(`^#+ (.*)`).FindStringSubmatch(line); heading != nil {
			plain := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
			all = append(all, strings.ReplaceAll(plain, " ", "-"))
		}
	}
	return all
}

func TestLoadsThePackagedConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../packaging/*/anteroom.yaml")
	more, _ := filepath.Glob("../../packaging/*/*/anteroom.yaml")
	if files = append(files, more...); err != nil || len(files) < 3 {
		t.Fatalf("there are %v (%v), want those of the package, Compose and Kubernetes", files, err)
	}
	for _, file := range files {
		c, err := configs.Load(configs.Options{File: file})
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range c.Warnings() {
			// The package does not know the card that it will be installed beside.
			if !strings.Contains(file, "debian") || !strings.Contains(w.String(), "gpus.gpu0.memory") {
				t.Errorf("%s warns: %v", file, w)
			}
		}
	}
}

// TestWhatIsPackagedAsksForCommandsThatExist finds the commands of ours that the
// image, the service and the pod run.
func TestWhatIsPackagedAsksForCommandsThatExist(t *testing.T) {
	call := regexp.MustCompile(`/usr/bin/anteroom(?:", "|, | )([a-z]+)`)
	for _, file := range []string{"Dockerfile", "packaging/debian/anteroom.service", "packaging/kubernetes/base/deployment.yaml"} {
		text, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		calls := call.FindAllStringSubmatch(string(text), -1)
		if len(calls) == 0 {
			t.Errorf("%s runs no command", file)
		}
		for _, found := range calls {
			if !slices.ContainsFunc(commands, func(c command) bool { return c.name == found[1] }) {
				t.Errorf("%s: there is no command %q", file, found[1])
			}
		}
	}
}

// TestThePageOfCommandsHasEachCommand holds docs/commands.md against what there is.
func TestThePageOfCommandsHasEachCommand(t *testing.T) {
	text, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(text), "\n## ")
	for _, c := range commands {
		if !regexp.MustCompile("(?m)^\\| .*`(anteroom )?" + c.name + "[` ].* \\|").MatchString(table) {
			t.Errorf("%s is not in it", c.name)
		}
	}
}

// TestTheComparisonCountsItsLines holds the numbers of docs/comparison.md against the
// configurations below them.
func TestTheComparisonCountsItsLines(t *testing.T) {
	const file = "../../docs/comparison.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	headings := regexp.MustCompile(`(?s)\n## ([A-Za-z-]+): (\d+) lines\n.*?\n`+"```"+`\w+\n(.*?)`+"```").FindAllStringSubmatch(string(text), -1)
	if len(headings) != 3 {
		t.Fatalf("%d configurations are counted, want three", len(headings))
	}
	row := "| lines for the six |"
	for _, h := range headings {
		if n := strings.Count(h[3], "\n"); fmt.Sprint(n) != h[2] {
			t.Errorf("%s: %s lines are said, and there are %d", h[1], h[2], n)
		}
		row += " " + h[2] + " |"
	}
	if row = strings.TrimSuffix(row, " |"); !strings.Contains(string(text), row) {
		t.Errorf("the table does not begin a line with %q", row)
	}
}
