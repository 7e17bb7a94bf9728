package gpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

// tree is a /sys/class/drm with cards of these sizes; 0: one of another maker.
func tree(t *testing.T, totals ...int64) string {
	t.Helper()
	root := t.TempDir()
	for i, total := range totals {
		device := filepath.Join(root, fmt.Sprintf("card%d", i), "device")
		write(t, filepath.Join(device, "vendor"), "0x1002")
		write(t, filepath.Join(root, fmt.Sprintf("card%d-DP-1", i), "status"), "connected")
		if total > 0 {
			write(t, filepath.Join(device, "mem_info_vram_total"), fmt.Sprintln(total))
			write(t, filepath.Join(device, "mem_info_vram_used"), "1024\n")
		}
	}
	old, oldPCI := drm, pci
	drm, pci = root, filepath.Join(root, "no-pci")
	t.Cleanup(func() { drm, pci = old, oldPCI })
	return root
}

func write(t *testing.T, file, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadsAMDsCards(t *testing.T) {
	root := tree(t, 100<<30, 0, 24<<30)
	write(t, filepath.Join(root, "card2", "device", "gpu_busy_percent"), "37\n")
	for device, want := range map[string]admission.Bytes{
		"0": 100 << 30, "1": 24 << 30, // an index counts AMD's cards alone
		"card2": 24 << 30, filepath.Join(root, "card0"): 100 << 30,
	} {
		var r admission.Reading
		if err := (&amd{device: device}).read(&r, true); err != nil || r.Total != want || r.Used != 1024 || r.Source != "amdgpu" {
			t.Errorf("%s: got %+v, %v, want a total of %v", device, r, err, want)
		}
		if busy := r.Utilization; (busy != nil) != (want == 24<<30) || busy != nil && *busy != 0.37 {
			t.Errorf("%s: it is busy for %v of the time, want 0.37 of the second and nothing known of the first", device, busy)
		}
	}
	for _, device := range []string{"2", "card1", "card9", filepath.Join(root, "nothing")} {
		var r admission.Reading
		if err := (&amd{device: device}).read(&r, true); !errors.Is(err, errAbsent) {
			t.Errorf("%s: got %v, want that it is absent", device, err)
		}
	}
}

func TestAnAMDCardThatGoesIsLost(t *testing.T) {
	root := tree(t, 24<<30)
	c := &amd{device: "0"}
	var r admission.Reading
	if err := c.read(&r, false); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "card0")); err != nil {
		t.Fatal(err)
	}
	if err := c.read(&r, false); err == nil || !r.Lost || errors.Is(err, errAbsent) {
		t.Errorf("got %v and %+v, want it lost", err, r)
	}
}

func TestAFileThatIsNoNumberIsAnError(t *testing.T) {
	root := tree(t, 24<<30)
	write(t, filepath.Join(root, "card0", vramUsed), "")
	var r admission.Reading
	if err := (&amd{device: "0"}).read(&r, false); err == nil || !strings.Contains(err.Error(), "want a number") {
		t.Errorf("got %v", err)
	}
}

func TestAProcessorsGraphicsDoNotPassForACardOfNVIDIAs(t *testing.T) {
	root := tree(t, 512<<20)
	pci = filepath.Join(root, "pci")
	c := &amd{device: "0", instead: true}
	var r admission.Reading
	if err := c.read(&r, false); err != nil {
		t.Fatalf("without NVIDIA's: %v", err)
	}
	write(t, filepath.Join(pci, "0000:01:00.0", "vendor"), "0x10de\n")
	write(t, filepath.Join(pci, "0000:01:00.0", "class"), "0x030000\n")
	if err := (&amd{device: "0", instead: true}).read(&r, false); !errors.Is(err, errAbsent) {
		t.Errorf("got %v, want that it is absent", err)
	}
	if err := (&amd{device: "0"}).read(&r, false); err != nil {
		t.Errorf("asked for by name: %v", err)
	}
}
