package check

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// load reads a compose file as Docker Compose does: the schema of the Compose
// Specification first, then what it cannot say, such as volumes that are not
// declared.
func load(text []byte, directory string) (*types.Project, error) {
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  directory,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(directory, "compose.yaml"), Content: text}},
		Environment: types.Mapping{},
	})
}

func TestCompose(t *testing.T) {
	directory, err := filepath.Abs("../compose")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(directory, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := load(text, directory)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		devices := s.Deploy.Resources.Reservations.Devices
		if len(devices) != 1 || devices[0].Driver != "nvidia" {
			t.Errorf("%s: devices are %v, want the card", name, devices)
		}
		if (len(s.Ports) > 0) != (name == "anteroom") {
			t.Errorf("%s: ports are %v: want Anteroom's alone", name, s.Ports)
		}
	}
	for _, c := range project.Configs {
		if _, err := os.Stat(c.File); err != nil {
			t.Error(err)
		}
	}
	if project.Services["anteroom"].Pid != "host" {
		t.Error("Anteroom does not see the host's processes")
	}
}

func TestAWrongComposeFileIsAFailure(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown key":    "{name: x, services: {a: {image: b, restarts: always}}}",
		"an unknown volume": "{name: x, services: {a: {image: b, volumes: ['none:/c']}}}",
	} {
		if _, err := load([]byte(text), t.TempDir()); err == nil {
			t.Errorf("%s: it was loaded", name)
		}
	}
}
