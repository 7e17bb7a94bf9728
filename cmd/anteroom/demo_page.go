package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

//go:embed demo_page.html
var demoPage string

var pageTemplate = template.Must(template.New("demo").Parse(demoPage))

// pageScene is a scene as the page shows it.
type pageScene struct {
	Name, Says, Means, Note string
	Head                    []string
	Rows                    [][]string
	Panels                  []pagePanel
}

// pagePanel is one arm's picture.
type pagePanel struct {
	Arm, Says string
	Picture   template.HTML
}

// pageName is where the page is written unless --html says where. It lies in the
// working directory: browsers in a sandbox of their own, such as Ubuntu's, see the
// home directory and no temporary files.
const pageName = "anteroom-demo.html"

// writePage writes the page of the demo into a file, and returns its path. An
// empty name: pageName, or a temporary file where the directory cannot be written.
func writePage(name string, d demo, f figures) (path string, err error) {
	file, err := os.Create(cmp.Or(name, pageName))
	if err != nil && name == "" {
		file, err = os.CreateTemp("", "anteroom-demo-*.html")
	}
	if err != nil {
		return "", err
	}
	defer func() {
		if e := file.Close(); err == nil {
			err = e
		}
	}()
	if path, err = filepath.Abs(file.Name()); err != nil {
		return "", err
	}
	return path, pageTemplate.Execute(file, map[string]any{
		"Arms": pageArms(), "Scenes": pageScenes(d, f), "Slowdown": slowdown, "Real": d.speed > 0, "Speed": d.speed,
	})
}

func pageArms() (list []pagePanel) {
	for _, arm := range arms {
		list = append(list, pagePanel{Arm: arm, Says: armSays[arm]})
	}
	return list
}

func pageScenes(d demo, f figures) (list []pageScene) {
	means := meaning(d.scenes, f)
	for i, s := range d.scenes {
		by := f[s.Name]
		page := pageScene{Name: s.Name, Says: s.Says, Note: note(s), Head: []string{""}}
		if i < len(means) {
			page.Means = means[i]
		}
		until := endOf(by)
		for _, arm := range arms {
			page.Head = append(page.Head, armTitle(s, arm))
			page.Panels = append(page.Panels, pagePanel{Arm: armTitle(s, arm), Says: armSays[arm], Picture: template.HTML(drawPlay(s, arm, by[arm], until))})
		}
		for _, r := range tableRows(by) {
			cells := []string{r.name + r.unit}
			for _, arm := range arms {
				cells = append(cells, fmt.Sprintf(r.format, r.of(by[arm].Result)))
			}
			page.Rows = append(page.Rows, cells)
		}
		list = append(list, page)
	}
	return list
}

// openBrowser shows a file in the browser that the desktop prefers. It returns
// when the browser has been told, or after a few seconds where telling it is the
// same as running it.
func openBrowser(file string) error {
	command := exec.Command("xdg-open", file)
	switch runtime.GOOS {
	case "darwin":
		command = exec.Command("open", file)
	case "windows":
		command = exec.Command("rundll32", "url.dll,FileProtocolHandler", file)
	}
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(3 * time.Second):
		return nil
	}
}
